//! One connection of another node.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue,
};
use hyper::{Method, Response, StatusCode};
use pontoon_cache::{CachedLayer, Key};
use tokio::time::{sleep, timeout};

use super::body::{Answer, Answered};
use super::frames::Frames;
use super::guests::{Seat, Stranger};
use super::pulse::Pulse;
use super::uploads::Busy;
use super::{Shared, add};
use crate::admission::Token;
use crate::policy::{Bitmap, Class, Told};
use crate::wire::have;
use crate::wire::request::Request;
use crate::wire::{CLASS, DEADLINE, GENERATION, PORT, RETRY_AFTER, TOKEN, ZSTD};
use crate::{Have, Peer, PeerId, Refused};

/// One of so many answers that tell of changes names other nodes.
const PEERS_TOLD: u64 = 16;

/// One of so many chunks that are given is checked against its digest again.
const CHECKED: u64 = 100;

/// Whoever is at the other end of a connection.
#[derive(Debug)]
pub(super) struct Guest {
    shared: Arc<Shared>,
    peer: PeerId,
    from: IpAddr,
    pulse: Arc<Pulse>,
    /// Its membership token, which was good.
    token: OnceLock<Token>,
    /// That it is refused was told.
    is_refused: AtomicBool,
    place: Mutex<Place>,
}

/// What its connection takes up.
#[derive(Debug)]
enum Place {
    /// It was not admitted yet.
    Stranger(Stranger),
    /// It was.
    Seat { _seat: Seat },
    /// It was, and has too many.
    Nowhere,
}

/// How a request ends that is not answered.
enum Refusal {
    Nonsense,
    NotAdmitted(Refused),
    /// The layer's generation, if it is here.
    Missing(Option<u64>),
    Busy(Busy),
}

impl Guest {
    pub(super) fn new(
        shared: &Arc<Shared>,
        peer: PeerId,
        from: IpAddr,
        stranger: Stranger,
    ) -> Arc<Guest> {
        Arc::new(Guest {
            shared: Arc::clone(shared),
            peer,
            from,
            pulse: Arc::new(Pulse::new(shared.config.limits.handshake)),
            token: OnceLock::new(),
            is_refused: AtomicBool::new(false),
            place: Mutex::new(Place::Stranger(stranger)),
        })
    }

    /// It is admitted: its connection may stay, if the node has not too many.
    pub(super) fn seat(&self) -> Result<(), Busy> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Place::Seat { .. } = *place {
            return Ok(());
        }
        if let Place::Stranger(stranger) = std::mem::replace(&mut *place, Place::Nowhere)
            && let Some(seat) = stranger.introduce(self.peer)
        {
            *place = Place::Seat { _seat: seat };
            self.pulse.stays(self.shared.config.limits.idle);
            return Ok(());
        }
        add(&self.shared.tallies.crowded_out, 1);
        Err(Busy {
            retry_after: Duration::from_secs(1),
        })
    }

    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    pub(super) async fn answer(self: Arc<Self>, request: hyper::Request<Incoming>) -> Answered {
        let limits = &self.shared.config.limits;
        self.pulse.beat(limits.park + limits.grace);
        let mut answer = match self.ask(&request).await {
            Ok(response) => response,
            Err(refusal) => self.refuse(refusal),
        };
        // Whoever asks judges too.
        let token = self.shared.admission.token();
        let token = token.and_then(|token| token.to_string().parse().ok());
        if let Some(token) = token {
            answer.headers_mut().insert(TOKEN, token);
        }
        Ok(answer)
    }

    async fn ask(&self, request: &hyper::Request<Incoming>) -> Result<Response<Answer>, Refusal> {
        self.admit(request.headers())?;
        self.seat().map_err(Refusal::Busy)?;
        let is_plain = request.method() == Method::GET && request.body().is_end_stream();
        let target = request.uri().path_and_query().filter(|_| is_plain);
        let target = target.and_then(|target| Request::parse(target.as_str()));
        match target.ok_or(Refusal::Nonsense)? {
            Request::Have { key, since } => {
                self.note(&key, request.headers());
                self.have(&key, since).await
            }
            Request::Chunks { key, chunks } => self.chunks(&key, chunks, request.headers()).await,
        }
    }

    /// Asked with every request: who is admitted may change.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let admission = &self.shared.admission;
        if let Some(shown) = headers.get(TOKEN) {
            let shown = shown.to_str().ok().and_then(|shown| shown.parse().ok());
            let shown: Token = shown.ok_or(Refusal::Nonsense)?;
            // Its signature is looked at once.
            if self.token.get() != Some(&shown) {
                let admitted = admission.admits(self.peer, self.from, Some(shown.as_bytes()));
                admitted.map_err(Refusal::NotAdmitted)?;
                // A newer one than the first is looked at each time; a connection does not live long.
                let _ = self.token.set(shown);
                return Ok(());
            }
        }
        let token = self.token.get().copied();
        let admitted = admission.still_admits(self.peer, self.from, token);
        admitted.map_err(Refusal::NotAdmitted)
    }

    /// Who asks for a layer has it too.
    fn note(&self, key: &Key, headers: &HeaderMap) {
        let port = headers
            .get(PORT)
            .and_then(|port| port.to_str().ok()?.parse().ok());
        if let Some(port) = port {
            let peer = Peer {
                id: self.peer,
                address: SocketAddr::new(self.from, port),
            };
            self.shared.shelf.asked(key, peer);
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Answer> {
        self.pulse.rest();
        let tallies = &self.shared.tallies;
        let mut response = Response::new(Answer::Whole(None));
        let headers = response.headers_mut();
        let status = match refusal {
            Refusal::Nonsense => {
                add(&tallies.nonsense, 1);
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                StatusCode::BAD_REQUEST
            }
            Refusal::NotAdmitted(refused) => {
                if !self.is_refused.swap(true, Ordering::Relaxed) {
                    add(&tallies.refused, 1);
                    tracing::debug!(peer = %self.peer, from = %self.from, %refused, "another node was not admitted");
                }
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                StatusCode::FORBIDDEN
            }
            Refusal::Missing(generation) => {
                add(&tallies.missing, 1);
                if let Some(generation) = generation {
                    headers.insert(GENERATION, generation.into());
                }
                StatusCode::NOT_FOUND
            }
            Refusal::Busy(Busy { retry_after }) => {
                add(&tallies.busy, 1);
                let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
                headers.insert(RETRY_AFTER, ms.into());
                headers.insert(hyper::header::RETRY_AFTER, ms.div_ceil(1000).into());
                StatusCode::TOO_MANY_REQUESTS
            }
        };
        *response.status_mut() = status;
        response
    }

    async fn have(&self, key: &Key, since: Option<u64>) -> Result<Response<Answer>, Refusal> {
        let shared = &self.shared;
        let layer = shared.shelf.layer(key).ok_or(Refusal::Missing(None))?;
        let has_changed = self.wait_for_change(&layer, since).await;
        // Before its chunks are looked at, so that what changes meanwhile is told next time.
        let generation = layer.generation();
        let told = (since != Some(generation)).then(|| {
            let chunks = layer.chunks().len();
            let mut bitmap = Bitmap::new(chunks);
            layer
                .ready_ranges(0..chunks)
                .for_each(|run| bitmap.set(run));
            let complete = bitmap.count() == chunks;
            // Who has nothing yet has just begun.
            let is_begun = layer.ready_chunks() == 0 && chunks > 0;
            Told {
                generation,
                complete,
                chunks: bitmap,
                active: !complete && (has_changed || is_begun || shared.shelf.is_fetching(key)),
            }
        });
        // Who watches knows most of them already.
        let is_worth_while =
            since.is_none() || !has_changed || generation.is_multiple_of(PEERS_TOLD);
        let have = Have {
            told,
            peers: match is_worth_while {
                true => shared.shelf.peers(key),
                false => Vec::new(),
            },
            zone: shared.config.zone.clone(),
        };
        let bytes = have::encode(&have, generation, layer.chunks().len());
        add(&shared.tallies.haves, 1);
        self.pulse.rest();
        Ok(Response::new(Answer::whole(bytes)))
    }

    /// Waits until the layer has other chunks than it had. Whether it got some meanwhile.
    async fn wait_for_change(&self, layer: &Arc<CachedLayer>, since: Option<u64>) -> bool {
        let Some(seen) = since.filter(|since| *since == layer.generation()) else {
            return false;
        };
        let Some(_place) = self.shared.parked.park(self.peer) else {
            return false;
        };
        let limits = &self.shared.config.limits;
        let has_changed = timeout(limits.park, layer.changed(seen)).await.is_ok();
        if has_changed {
            // More comes along, as a rule.
            sleep(limits.gather).await;
        }
        has_changed
    }

    async fn chunks(
        &self,
        key: &Key,
        chunks: Range<usize>,
        headers: &HeaderMap,
    ) -> Result<Response<Answer>, Refusal> {
        let shared = &self.shared;
        let layer = shared.shelf.layer(key).ok_or(Refusal::Missing(None))?;
        let bytes = length(&layer, &chunks, shared.config.limits.answer_bytes)?;
        let missing = || Refusal::Missing(Some(layer.generation()));
        // Not a chunk is fetched for anybody else.
        if layer.missing(chunks.clone()).next().is_some() {
            return Err(missing());
        }
        let pin = layer.pin().map_err(|_| Refusal::Missing(None))?;
        let class = class(headers);
        let deadline = deadline(headers);
        let until = Answer::until(deadline);
        let turn = shared.uploads.admit(self.peer, class, bytes);
        let patience = until.saturating_duration_since(tokio::time::Instant::now());
        let given_up = |_| {
            Refusal::Busy(Busy {
                retry_after: Duration::from_millis(100),
            })
        };
        let slot = timeout(patience, turn).await.map_err(given_up)?;
        let slot = slot.map_err(Refusal::Busy)?;
        let limits = &shared.config.limits;
        let time = limits.grace + Duration::from_secs(bytes / limits.slowest.max(1));
        let slot = slot.on(&self.pulse, time);
        let is_packed = accepts_zstd(headers);
        let whom = (self.peer, class);
        let mut frames = Frames::new(shared, pin, slot, whom, chunks.clone());
        let first = match is_packed {
            true => frames.next_packed().await,
            false => frames.next().await,
        };
        let first = first.map_err(|_| missing())?;
        let tallies = &shared.tallies;
        add(&tallies.uploads, 1);
        add(&tallies.bytes, bytes);
        self.check_some(&layer, chunks);
        let answer = match frames.is_done() {
            true => Answer::whole(first),
            false => Answer::pieces(first, frames, is_packed, until),
        };
        let mut response = Response::new(answer);
        match is_packed {
            true => response
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static(ZSTD)),
            false => response.headers_mut().insert(CONTENT_LENGTH, bytes.into()),
        };
        Ok(response)
    }

    /// Checks one in a hundred of the chunks that are given, so that a disk that changes them is noticed here and not only by
    /// those who are given them.
    fn check_some(&self, layer: &Arc<CachedLayer>, chunks: Range<usize>) {
        let count = chunks.len() as u64;
        let before = self
            .shared
            .tallies
            .chunks
            .fetch_add(count, Ordering::Relaxed);
        let next = (CHECKED - before % CHECKED) % CHECKED;
        if next < count {
            let index = chunks.start + usize::try_from(next).unwrap_or_default();
            let layer = Arc::clone(layer);
            // What is wrong is dropped there.
            drop(tokio::task::spawn_blocking(move || {
                let _ = layer.verified(index);
            }));
        }
    }
}

/// The bytes of `chunks`, if the layer has them and they are not more than may be asked for.
fn length(layer: &CachedLayer, chunks: &Range<usize>, most: u64) -> Result<u64, Refusal> {
    let table = layer.chunks();
    if chunks.end > table.len() {
        return Err(Refusal::Nonsense);
    }
    let mut bytes = 0;
    for index in chunks.clone() {
        bytes += table.get(index).map_or(0, |chunk| u64::from(chunk.length));
        if bytes > most && chunks.len() > 1 {
            return Err(Refusal::Nonsense);
        }
    }
    Ok(bytes)
}

/// What is not said to be waited for is not.
fn class(headers: &HeaderMap) -> Class {
    match headers.get(CLASS).map(|class| class.as_bytes()) {
        Some(b"demand") => Class::Demand,
        _ => Class::Prefetch,
    }
}

fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let ms = headers.get(DEADLINE)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(ms))
}

fn accepts_zstd(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT_ENCODING);
    accepted.is_some_and(|accepted| accepted.as_bytes() == ZSTD.as_bytes())
}
