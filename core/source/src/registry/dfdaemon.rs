//! Asking a dfdaemon of Dragonfly: what is told to it, and what its answers mean.
//!
//! The headers are those of `dragonfly-client/src/proxy/header.rs` in <https://github.com/dragonflyoss/client>. A dfdaemon is
//! in front of one registry, whose passes may be shown to it; it is never believed where to log in, because passwords
//! would go there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};

use super::Shared;
use super::auth::{Pass, Rights, Visit};
use super::endpoint::Endpoint;
use super::exchange::{Answer, Ask};
use super::failure;
use crate::blob::Urgency;
use crate::dragonfly::DragonflyCredentials;
use crate::error::{Error, Result};

const USE_P2P: HeaderName = HeaderName::from_static("x-dragonfly-use-p2p");
const PRIORITY: HeaderName = HeaderName::from_static("x-dragonfly-priority");
const PREFETCH: HeaderName = HeaderName::from_static("x-dragonfly-prefetch");
const BY_DIGEST: HeaderName =
    HeaderName::from_static("x-dragonfly-enable-task-id-based-blob-digest");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-dragonfly-error-type");

/// For how long one that has more requests than it may have is left alone. It does not say itself.
const BUSY: Duration = Duration::from_secs(1);

/// How often it is said that it does not work.
const COMPLAINT: Duration = Duration::from_secs(60);

/// How long it is believed that it fetches the whole of a blob because it was told to.
pub(super) const TOLD: Duration = Duration::from_secs(300);

/// What makes an endpoint a dfdaemon.
pub(crate) struct Door {
    /// The registry that it stands in for. `None` if that is another one than references name.
    registry: Option<Arc<Endpoint>>,
    credentials: DragonflyCredentials,
    prefetch: bool,
    /// It is not asked for manifests.
    pub(crate) is_for_blobs: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    busy_until: Option<Instant>,
    complained: Option<Instant>,
}

impl Door {
    pub(crate) fn new(
        registry: Option<Arc<Endpoint>>,
        credentials: DragonflyCredentials,
        prefetch: bool,
        is_for_blobs: bool,
    ) -> Self {
        Door {
            registry,
            credentials,
            prefetch,
            is_for_blobs,
            state: Mutex::default(),
        }
    }

    /// Whether it stands in for the same registry as `other`.
    fn is_like(&self, other: &Door) -> bool {
        match (&self.registry, &other.registry) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// Tells it what a request for a blob is for. `is_first` is whether it has not been asked for that blob lately.
    pub(super) fn hint(&self, headers: &mut HeaderMap, urgency: Urgency, is_first: bool) {
        // For Dragonfly this says who goes to the registry first: a seed peer (6), or the dfdaemon itself (3). The
        // numbers are those that nydusd sends.
        let priority = match urgency {
            Urgency::Demand => "6",
            Urgency::Background => "3",
        };
        headers.insert(USE_P2P, HeaderValue::from_static("true"));
        headers.insert(PRIORITY, HeaderValue::from_static(priority));
        headers.insert(BY_DIGEST, HeaderValue::from_static("true"));
        if self.prefetch && is_first {
            headers.insert(PREFETCH, HeaderValue::from_static("true"));
        }
    }

    /// How long it is still to be left alone by those for whom nobody waits.
    pub(super) fn is_busy(&self, now: Instant) -> Option<Duration> {
        let until = self.state().busy_until?;
        let left = until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// What it may be shown, of what the registry takes.
    async fn pass(&self, shared: &Shared, ask: &Ask<'_>) -> Option<Arc<Pass>> {
        let registry = self.registry.as_ref()?;
        let visit = Visit {
            shared,
            endpoint: registry,
            reference: ask.reference,
            object: ask.object,
            rights: Rights::Pull,
        };
        // If there is none, the registry says why when it is asked itself.
        let pass = registry.auth.pass(&visit).await.ok()??;
        let may_be_shown = match self.credentials {
            DragonflyCredentials::None => pass.is_anybodys(),
            DragonflyCredentials::Tokens => pass.is_anybodys() || pass.ends(),
            DragonflyCredentials::All => true,
        };
        may_be_shown.then_some(pass)
    }

    /// It does not work: said from time to time, because nothing else shows it.
    fn complain(&self, error: &Error) {
        let now = Instant::now();
        let mut state = self.state();
        let is_due = |at: Instant| now.duration_since(at) >= COMPLAINT;
        if state.complained.is_none_or(is_due) {
            state.complained = Some(now);
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "a dfdaemon did not give a blob; it comes from the registry"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    /// Whether it is a dfdaemon like `door`, or none if that is.
    pub(super) fn has_door(&self, door: Option<&Door>) -> bool {
        match (&self.door, door) {
            (Some(one), Some(other)) => one.is_like(other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// Asks this dfdaemon, which is `door`. What the registry behind it refuses is an answer; what it refuses itself is an
    /// error.
    pub(super) async fn ask_through(
        &self,
        door: &Door,
        shared: &Shared,
        ask: &Ask<'_>,
    ) -> Result<Answer> {
        let pass = door.pass(shared, ask).await;
        let url = self.url(ask.reference, &ask.path);
        let asked = self.follow(shared, ask, url, pass.as_deref()).await;
        let mut answer = asked.map_err(|error| {
            let error = self.in_its_name(error);
            door.complain(&error);
            error
        })?;
        if answer.elsewhere.is_none() {
            answer.host.clone_from(&self.settings.host);
        }
        let status = answer.response.status();
        if !failure::is_passing(status) {
            self.heard();
        }
        let refusal = match error_type(&answer.response) {
            _ if status.is_success() => None,
            Some("proxy") => Some(self.refusal(ask.object, status)),
            Some("dfdaemon") => Some(self.failed_itself(ask.object, status)),
            // What the registry answered to it.
            _ => None,
        };
        let Some(refusal) = refusal else {
            return Ok(answer);
        };
        if status == StatusCode::TOO_MANY_REQUESTS {
            door.state().busy_until = Some(Instant::now() + BUSY);
        }
        door.complain(&refusal);
        Err(refusal)
    }

    /// What it means that the dfdaemon refuses a request by itself.
    fn refusal(&self, object: &str, status: StatusCode) -> Error {
        let host = self.settings.host.clone();
        match status {
            StatusCode::TOO_MANY_REQUESTS => Error::Unavailable {
                host,
                object: object.to_owned(),
                reason: "it has more requests than its proxy.server.requestRateLimit".to_owned(),
                retry_after: Some(BUSY),
                source: None,
            },
            StatusCode::UNAUTHORIZED => Error::Configuration {
                path: host,
                reason: "it wants a user of its own (proxy.server.basicAuth), in the header that the registry's \
                         token needs; let it listen on loopback without"
                    .to_owned(),
            },
            StatusCode::FORBIDDEN => Error::Refused {
                host,
                object: object.to_owned(),
                status: status.as_u16(),
                reason: "it is on Dragonfly's block list".to_owned(),
            },
            _ => self.failed_itself(object, status),
        }
    }

    fn failed_itself(&self, object: &str, status: StatusCode) -> Error {
        let reason = format!(
            "it answers {} and failed itself; see its log",
            status.as_u16()
        );
        failure::unavailable(&self.settings.host, object, reason)
    }

    /// In proxy mode the URL is the registry's, but who cannot be reached is the dfdaemon.
    fn in_its_name(&self, error: Error) -> Error {
        match error {
            Error::Unavailable {
                object,
                reason,
                retry_after,
                source,
                ..
            } => Error::Unavailable {
                host: self.settings.host.clone(),
                object,
                reason,
                retry_after,
                source,
            },
            other => other,
        }
    }
}

/// Who failed: `proxy` and `dfdaemon` are the dfdaemon, `backend` is the registry.
fn error_type(response: &Response) -> Option<&str> {
    response.headers().get(ERROR_TYPE)?.to_str().ok()
}
