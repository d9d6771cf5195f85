//! One host that is asked: its connections, how it fares, and who may ask it now.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::Auth;
use super::dfdaemon::Door;
use super::meter::Meter;
use crate::blob::{Pace, Urgency};
use crate::config::Config;
use crate::hosts::{Settings, is_loopback};

/// How long a host that failed comes after those that did not: at first, and at most.
const AVOIDED: Duration = Duration::from_secs(1);
const AVOIDED_MAX: Duration = Duration::from_secs(30);

/// The longest `Retry-After` that is believed.
const HELD_MAX: Duration = Duration::from_secs(300);

/// Failures in a row, of whomever, from which on a host counts as down, and how often anybody of us tries it then:
/// hundreds of readers on each of thousands of nodes would keep it down.
const DOWN: u32 = 8;
const TRIAL: Duration = Duration::from_millis(500);

pub(crate) struct Endpoint {
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    pub(crate) auth: Auth,
    /// It is a dfdaemon.
    pub(crate) door: Option<Door>,
    /// Those of the settings, ready to be sent.
    pub(crate) headers: HeaderMap,
    /// How long an answer may take to begin, connecting included.
    pub(crate) answer_timeout: Duration,
    health: Mutex<Health>,
    meter: Mutex<Meter>,
    demand: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

/// Connections. Those to this machine go through no proxy, as in Go.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) any: reqwest::Client,
    pub(crate) loopback: reqwest::Client,
}

impl Client {
    pub(crate) fn to(&self, url: &Url) -> &reqwest::Client {
        match url.host_str().is_some_and(is_loopback) {
            true => &self.loopback,
            false => &self.any,
        }
    }
}

#[derive(Debug, Default)]
struct Health {
    /// Failures since it last worked.
    failures: u32,
    avoided_until: Option<Instant>,
    /// It said itself that it wants no request before.
    held_until: Option<Instant>,
    /// When it gave anybody something last.
    gave: Option<Instant>,
    /// Failures since it was heard of last, and when it is tried next if they are many.
    lost: u32,
    trial: Option<Instant>,
}

/// Whom to ask first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    Good,
    /// Failed lately.
    Avoided,
    /// Must not be asked before.
    Held(Instant),
}

impl Endpoint {
    pub(crate) fn new(
        settings: Settings,
        client: Client,
        door: Option<Door>,
        config: &Config,
    ) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(value);
            if let (Ok(name), Ok(mut value)) = (name, value) {
                value.set_sensitive(true);
                headers.append(name, value);
            }
        }
        let connect_timeout = settings.dial_timeout.unwrap_or(config.connect_timeout);
        Endpoint {
            answer_timeout: connect_timeout.max(config.stall_timeout),
            settings,
            client,
            auth: Auth::default(),
            door,
            headers,
            health: Mutex::default(),
            meter: Mutex::default(),
            demand: Arc::new(Semaphore::new(config.demand_per_host.max(1))),
            background: Arc::new(Semaphore::new(config.background_per_host.max(1))),
        }
    }

    /// A place for one request; who waits for something never waits for one whom nobody waits for.
    pub(crate) async fn place(&self, urgency: Urgency) -> Option<OwnedSemaphorePermit> {
        let places = match urgency {
            Urgency::Demand => &self.demand,
            Urgency::Background => &self.background,
        };
        // Never closed, so there always is one in the end.
        Arc::clone(places).acquire_owned().await.ok()
    }

    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let health = self.health();
        match (health.held_until.max(health.trial), health.avoided_until) {
            (Some(until), _) if until > now => Standing::Held(until),
            (_, Some(until)) if until > now => Standing::Avoided,
            _ => Standing::Good,
        }
    }

    /// Whether it may be asked now. One that is down is asked by one of us at a time.
    pub(crate) fn may_be_asked(&self, now: Instant) -> bool {
        let mut health = self.health();
        if health.lost < DOWN {
            return true;
        }
        let is_due = health.trial.is_none_or(|until| until <= now);
        if is_due {
            health.trial = Some(now + TRIAL);
        }
        is_due
    }

    pub(crate) fn failed(&self, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut health = self.health();
        let wait = AVOIDED * 2_u32.saturating_pow(health.failures.min(16));
        health.failures += 1;
        health.lost += 1;
        health.avoided_until = Some(now + wait.min(AVOIDED_MAX));
        if let Some(wait) = retry_after {
            health.held_until = Some(now + wait.min(HELD_MAX));
        }
    }

    pub(crate) fn worked(&self) {
        let mut health = self.health();
        health.failures = 0;
        health.avoided_until = None;
    }

    /// It gave somebody something.
    pub(crate) fn gave(&self, bytes: usize) {
        let now = Instant::now();
        self.health().gave = Some(now);
        self.meter().came(now, bytes as u64);
        self.heard();
    }

    /// Whether no answer with a body is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.meter().is_idle()
    }

    /// An answer with a body began, so long after its request, which was `alone` if no other one was under way. The body
    /// ends when what is returned is dropped.
    pub(crate) fn answers(self: &Arc<Self>, after: Duration, alone: bool) -> Answering {
        self.meter().began(after, alone);
        Answering(Arc::clone(self))
    }

    /// How fast the way to it is.
    pub(crate) fn pace(&self) -> Option<Pace> {
        self.meter().pace()
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is not down.
    pub(crate) fn heard(&self) {
        let mut health = self.health();
        (health.lost, health.trial) = (0, None);
    }

    pub(crate) fn last_progress(&self) -> Option<Instant> {
        self.health().gave
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is not to be asked for manifests.
    pub(crate) fn is_for_blobs(&self) -> bool {
        self.door.as_ref().is_some_and(|door| door.is_for_blobs)
    }

    /// Whether `url` lies at this host, which may then see its credentials and headers.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        self.settings.base.origin() == url.origin()
    }
}

/// See [`Endpoint::answers`].
#[derive(Debug)]
pub(crate) struct Answering(Arc<Endpoint>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.meter().ended(Instant::now());
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("base", &self.settings.base.as_str())
            .finish_non_exhaustive()
    }
}
