//! Blobs: ranges of them, from whichever host delivers, resumed where a transfer broke off.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use pontoon_layer::Digest;
use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use reqwest::{StatusCode, Url};
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::body::Body;
use super::dfdaemon::TOLD;
use super::endpoint::Endpoint;
use super::exchange::{Answer, Ask};
use super::failure;
use super::part::{Held, content_range};
use super::tour::{Need, Tour};
use super::transfer::{Open, Transfer};
use crate::blob::{Blob, BoxFuture, ByteStream, Pace, READ_BYTES_MAX, Urgency};
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Of a server that ignores ranges, bytes that are read and thrown away to get at those behind them.
const PASSED_OVER_MAX: u64 = 1 << 20;

/// For how long a host that does not have a blob, or has it damaged, is not asked for it.
const ABSENCE: Duration = Duration::from_secs(120);

/// Reads of which it is known who served them.
const SERVED_MAX: usize = 64;

/// A blob in a registry.
#[derive(Debug)]
pub(crate) struct RegistryBlob(Arc<Source>);

impl std::ops::Deref for RegistryBlob {
    type Target = Source;

    fn deref(&self) -> &Source {
        &self.0
    }
}

/// What its transfers share.
pub(crate) struct Source {
    pub(crate) object: String,
    pub(super) shared: Arc<Shared>,
    reference: Reference,
    digest: Digest,
    pub(super) size: u64,
    /// By the base URLs of hosts.
    routes: Mutex<HashMap<Url, Route>>,
    /// Who delivered what, the last ones.
    served: Mutex<VecDeque<(Range<u64>, Arc<Endpoint>)>>,
}

/// What is known about the way to the blob at one host.
#[derive(Debug, Clone, Default)]
struct Route {
    /// Where the host sent us, and until when that is used.
    target: Option<(Url, Instant)>,
    /// Ranges are ignored there.
    is_whole_only: bool,
    /// It is not asked before.
    absent_until: Option<Instant>,
    /// Told to fetch all of it.
    told: Option<Instant>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("object", &self.object)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl RegistryBlob {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        reference: &Reference,
        digest: Digest,
        size: u64,
    ) -> Self {
        let (host, repository) = (reference.host(), reference.repository());
        RegistryBlob(Arc::new(Source {
            object: format!("blob {digest} of {host}/{repository}"),
            shared: Arc::clone(shared),
            reference: reference.clone(),
            digest,
            size,
            routes: Mutex::default(),
            served: Mutex::default(),
        }))
    }

    /// A transfer of `range`, or the error that it begins with.
    fn transfer(&self, range: Range<u64>, urgency: Urgency) -> Transfer {
        let is_inside = range.start <= range.end && range.end <= self.size;
        let refusal = (!is_inside).then(|| Error::TooLarge {
            object: format!(
                "the range {}..{} of {}",
                range.start, range.end, self.object
            ),
            limit: self.size,
            unit: "bytes",
        });
        Transfer::new(&self.0, range, urgency, refusal)
    }
}

impl Blob for RegistryBlob {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>, urgency: Urgency) -> BoxFuture<'_, Result<Bytes>> {
        let length = range.end.saturating_sub(range.start);
        let mut transfer = self.transfer(range, urgency);
        Box::pin(async move {
            if length > READ_BYTES_MAX {
                return Err(Error::TooLarge {
                    object: format!("a read of {}", self.object),
                    limit: READ_BYTES_MAX,
                    unit: "bytes",
                });
            }
            let mut bytes = match transfer.step().await? {
                None => return Ok(Bytes::new()),
                Some(piece) if piece.len() as u64 == length => return Ok(piece),
                Some(piece) => {
                    let mut bytes = BytesMut::with_capacity(length as usize);
                    bytes.extend_from_slice(&piece);
                    bytes
                }
            };
            while let Some(piece) = transfer.step().await? {
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes.freeze())
        })
    }

    fn stream(&self, range: Range<u64>, urgency: Urgency) -> Box<dyn ByteStream> {
        Box::new(self.transfer(range, urgency))
    }

    fn report_damage(&self, range: Range<u64>) -> bool {
        self.distrust(&range)
    }

    fn last_progress(&self) -> Option<Instant> {
        let endpoints = self.shared.book.endpoints(self.reference.host()).ok()?;
        let given = endpoints.iter().map(|endpoint| endpoint.last_progress());
        given.max().flatten()
    }

    fn pace(&self) -> Option<Pace> {
        let endpoints = self.shared.book.endpoints(self.reference.host()).ok()?;
        let mut asked = endpoints
            .iter()
            .filter(|endpoint| endpoint.settings.can_pull);
        asked.find_map(|endpoint| endpoint.pace())
    }
}

impl Source {
    /// The size that whoever has the blob says it has. One byte is asked for: not every storage that a registry sends us
    /// to answers HEAD.
    pub(crate) async fn find_size(&self) -> Result<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let ask = Ask {
            reference: &self.reference,
            object: &self.object,
            is_head: false,
            is_verified: true,
            path: format!("blobs/{}", self.digest),
            headers,
        };
        // As a manifest would, it says what is true of the blob, and no digest checks it.
        let tour = Tour::new(&self.shared, &self.reference, Need::Manifest, &self.object)?;
        let mut tour = tour.without(|endpoint| self.is_absent(endpoint));
        loop {
            let (place, endpoint) = tour.next().await?;
            let told = async {
                let answer = endpoint.ask(&self.shared, &ask).await?;
                let answer = answer.successful(&self.object).await?;
                // With a part, also one that is called the whole, its length is that of the part.
                let total = match content_range(&answer.response) {
                    Some(range) => range.total,
                    None if answer.response.status() == StatusCode::PARTIAL_CONTENT => None,
                    None => answer.response.content_length(),
                };
                let silent = || failure::malformed(&answer.host, &self.object, "no size of it");
                total.ok_or_else(silent)
            };
            match told.await {
                Ok(size) => return Ok(size),
                Err(error) => tour.failed(place, error),
            }
        }
    }

    /// The host that delivered last.
    pub(crate) fn last_host(&self) -> String {
        let served = lock(&self.served);
        let last = served
            .back()
            .map(|(_, endpoint)| endpoint.settings.host.clone());
        last.unwrap_or_else(|| self.reference.host().to_owned())
    }

    /// Turns away from whoever delivered some of `range` last. False if there is nobody else.
    pub(crate) fn distrust(&self, range: &Range<u64>) -> bool {
        let culprit = lock(&self.served)
            .iter()
            .rev()
            .find(|(served, _)| served.start < range.end && range.start < served.end)
            .map(|(_, endpoint)| Arc::clone(endpoint));
        let Some(culprit) = culprit else {
            return false;
        };
        tracing::warn!(
            host = culprit.settings.host,
            object = self.object,
            "damaged bytes were delivered"
        );
        self.route(&culprit, |route| {
            route.absent_until = Some(Instant::now() + ABSENCE);
            route.target = None;
        });
        let Ok(endpoints) = self.shared.book.endpoints(self.reference.host()) else {
            return false;
        };
        endpoints
            .iter()
            .any(|endpoint| endpoint.settings.can_pull && !self.is_absent(endpoint))
    }

    /// The error of whoever must not ask now: what nobody waits for is not asked of the registry instead of a dfdaemon that
    /// is overloaded, which would overload the registry.
    pub(super) fn gives_way(&self, urgency: Urgency) -> Result<()> {
        if urgency == Urgency::Demand {
            return Ok(());
        }
        let now = Instant::now();
        let endpoints = self.shared.book.endpoints(self.reference.host())?;
        let busy = endpoints.iter().find_map(|endpoint| {
            let left = endpoint.door.as_ref()?.is_busy(now)?;
            Some((endpoint, left))
        });
        match busy {
            None => Ok(()),
            Some((endpoint, left)) => Err(Error::Unavailable {
                host: endpoint.settings.host.clone(),
                object: self.object.clone(),
                reason: "it has too many requests, and nobody waits for this one".to_owned(),
                retry_after: Some(left),
                source: None,
            }),
        }
    }

    fn is_absent(&self, endpoint: &Endpoint) -> bool {
        let absent_until = self.route(endpoint, |route| route.absent_until);
        absent_until.is_some_and(|until| until > Instant::now())
    }

    fn route<T>(&self, endpoint: &Endpoint, look: impl FnOnce(&mut Route) -> T) -> T {
        let mut routes = lock(&self.routes);
        look(routes.entry(endpoint.settings.base.clone()).or_default())
    }

    pub(super) fn tour(&self) -> Result<Tour> {
        let tour = Tour::new(&self.shared, &self.reference, Need::Blob, &self.object)?;
        Ok(tour.without(|endpoint| self.is_absent(endpoint)))
    }

    /// Begins to read `range` at `endpoint`, where `permit` is a place.
    pub(super) async fn open(
        &self,
        endpoint: &Arc<Endpoint>,
        range: Range<u64>,
        urgency: Urgency,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Open> {
        let is_whole_only = self.route(endpoint, |route| route.is_whole_only);
        if is_whole_only && range.start > PASSED_OVER_MAX {
            return Err(self.range_unsupported(&endpoint.settings.host));
        }
        let (asked, alone) = (Instant::now(), endpoint.is_idle());
        let answer = self.ask(endpoint, &range, urgency).await?;
        let answering = endpoint.answers(asked.elapsed(), alone);
        let stall = self.shared.config.stall_timeout;
        let passed_over = match self.held(&answer, endpoint, &range)? {
            Held::Part => 0,
            Held::Whole => {
                if range.start > 0 {
                    self.route(endpoint, |route| route.is_whole_only = true);
                }
                if range.start > PASSED_OVER_MAX {
                    return Err(self.range_unsupported(&answer.host));
                }
                range.start
            }
        };
        Ok(Open {
            body: Body::new(answer.response, &answer.host, &self.object, stall),
            host: answer.host,
            endpoint: Arc::clone(endpoint),
            passed_over,
            _answering: answering,
            _permit: permit,
        })
    }

    /// A successful answer to a request for `range`, from where the host sent us before if that still works.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        range: &Range<u64>,
        urgency: Urgency,
    ) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        if *range != (0..self.size) {
            let text = format!("bytes={}-{}", range.start, range.end - 1);
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(RANGE, value);
            }
        }
        if let Some(door) = &endpoint.door {
            let now = Instant::now();
            let is_first = self.route(endpoint, |route| {
                let is_told = route.told.is_some_and(|at| now.duration_since(at) < TOLD);
                route.told = Some(route.told.filter(|_| is_told).unwrap_or(now));
                !is_told
            });
            door.hint(&mut headers, urgency, is_first);
        }
        let ask = Ask {
            reference: &self.reference,
            object: &self.object,
            is_head: false,
            is_verified: true,
            path: format!("blobs/{}", self.digest),
            headers,
        };
        if let Some(answer) = self.ask_target(endpoint, &ask).await? {
            return self.check_size(answer);
        }
        let asked = async {
            let answer = endpoint.ask(&self.shared, &ask).await?;
            self.check_size(answer)?.successful(&self.object).await
        };
        match asked.await {
            Ok(answer) => {
                let until = Instant::now() + self.shared.config.redirect_lifetime;
                let target = answer.elsewhere.clone().map(|url| (url, until));
                self.route(endpoint, |route| route.target = target);
                Ok(answer)
            }
            Err(error) => {
                // A dfdaemon may not be let in where we are.
                let is_refused = endpoint.door.is_some() && !error.is_transient();
                self.route(endpoint, |route| {
                    route.told = None;
                    if is_refused || matches!(error, Error::NotFound { .. }) {
                        route.absent_until = Some(Instant::now() + ABSENCE);
                    }
                });
                Err(error)
            }
        }
    }

    /// An answer from where the host sent us before. `None` if it did not, or the URL does not work any more, as
    /// signed ones do not after some minutes.
    async fn ask_target(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Option<Answer>> {
        let target = self.route(endpoint, |route| route.target.clone());
        let Some((url, _)) = target.filter(|(_, until)| *until > Instant::now()) else {
            return Ok(None);
        };
        let forget = || {
            // Not one that somebody else has found meanwhile.
            self.route(endpoint, |route| {
                if route
                    .target
                    .as_ref()
                    .is_some_and(|(other, _)| *other == url)
                {
                    route.target = None;
                }
            });
        };
        let answer = match endpoint.ask_elsewhere(&self.shared, ask, &url).await {
            Ok(answer) => answer,
            Err(error) => {
                forget();
                return Err(error);
            }
        };
        let status = answer.response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(Some(answer));
        }
        forget();
        if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
            if let Err(error) = answer.successful(&self.object).await {
                self.shared.counters.failed(&error);
            }
            return Ok(None);
        }
        answer.successful(&self.object).await.map(Some)
    }

    fn check_size(&self, answer: Answer) -> Result<Answer> {
        match answer.response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let stated = content_range(&answer.response).and_then(|range| range.total);
                Err(self.other_size(&answer.host, stated))
            }
            _ => Ok(answer),
        }
    }

    fn range_unsupported(&self, host: &str) -> Error {
        Error::RangeUnsupported {
            host: host.to_owned(),
            object: self.object.clone(),
        }
    }

    pub(super) fn delivered(&self, range: Range<u64>, endpoint: &Arc<Endpoint>) {
        let mut served = lock(&self.served);
        let goes_on = |(before, by): &&mut (Range<u64>, Arc<Endpoint>)| {
            before.end == range.start && Arc::ptr_eq(by, endpoint)
        };
        if let Some((before, _)) = served.iter_mut().rev().find(goes_on) {
            before.end = range.end;
            return;
        }
        if served.len() >= SERVED_MAX {
            served.pop_front();
        }
        served.push_back((range, Arc::clone(endpoint)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
