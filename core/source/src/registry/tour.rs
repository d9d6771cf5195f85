//! Where to ask next, and when to give up.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shared;
use super::endpoint::{Endpoint, Standing};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Bytes that count as progress. Less would let a host that breaks off after every packet go on for ever.
const PROGRESS: u64 = 16 << 10;

/// What a host must be allowed to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    Blob,
    Manifest,
    Resolve,
}

/// Goes round the hosts that may have something: each once, those that work first, then after a pause those again
/// whose failure may pass. A failure for good ends a host's part.
pub(crate) struct Tour {
    shared: Arc<Shared>,
    endpoints: Arc<[Arc<Endpoint>]>,
    places: Vec<Place>,
    object: String,
    host: String,
    round: u32,
    /// Since when somebody has been waiting.
    since: Instant,
    progress: u64,
    has_failed: bool,
}

#[derive(Default)]
struct Place {
    is_out: bool,
    is_tried: bool,
    error: Option<Error>,
}

impl Tour {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        reference: &Reference,
        need: Need,
        object: &str,
    ) -> Result<Self> {
        let endpoints = shared.book.endpoints(reference.host())?;
        let place = |endpoint: &Arc<Endpoint>| Place {
            is_out: !match need {
                Need::Blob => endpoint.settings.can_pull,
                Need::Manifest => endpoint.settings.can_pull && !endpoint.is_for_blobs(),
                Need::Resolve => endpoint.settings.can_resolve,
            },
            ..Place::default()
        };
        Ok(Tour {
            shared: Arc::clone(shared),
            places: endpoints.iter().map(place).collect(),
            endpoints,
            object: object.to_owned(),
            host: reference.host().to_owned(),
            round: 0,
            since: Instant::now(),
            progress: 0,
            has_failed: false,
        })
    }

    /// Leaves out hosts that are known not to have it, unless nobody else is left.
    pub(crate) fn without(mut self, is_without: impl Fn(&Endpoint) -> bool) -> Self {
        let is_left =
            |(place, endpoint): (&Place, &Arc<Endpoint>)| !place.is_out && !is_without(endpoint);
        if self.places.iter().zip(self.endpoints.iter()).any(is_left) {
            for (place, endpoint) in self.places.iter_mut().zip(self.endpoints.iter()) {
                place.is_out |= is_without(endpoint);
            }
        }
        self
    }

    /// Whom to ask now; waits between rounds. The error that tells most when there is nobody left to ask, or no
    /// patience.
    pub(crate) async fn next(&mut self) -> Result<(usize, Arc<Endpoint>)> {
        loop {
            let now = Instant::now();
            let open = self
                .places
                .iter()
                .enumerate()
                .filter(|(_, place)| !place.is_out);
            let mut standings: Vec<(Standing, usize)> = open
                .map(|(at, _)| (self.endpoints[at].standing(now), at))
                .collect();
            standings.sort();
            let ready = standings.iter().find(|(standing, at)| {
                !self.places[*at].is_tried && !matches!(standing, Standing::Held(_))
            });
            if let Some((_, at)) = ready {
                if !self.endpoints[*at].may_be_asked(now) {
                    // Somebody else does just now.
                    continue;
                }
                self.places[*at].is_tried = true;
                if self.has_failed {
                    self.shared.counters.retries.fetch_add(1, Ordering::Relaxed);
                }
                return Ok((*at, Arc::clone(&self.endpoints[*at])));
            }
            let held = match standings.first() {
                None => return Err(self.verdict(None)),
                Some((Standing::Held(until), _)) => Some(*until - now),
                Some(_) => None,
            };
            // Waiting for others is no round.
            self.round += u32::from(self.places.iter().any(|place| place.is_tried));
            let wait = pause(&self.shared.config, self.round).max(held.unwrap_or_default());
            let config = &self.shared.config;
            let is_patient = now + wait < self.since + config.patience
                && held.is_none_or(|held| held <= config.backoff_max);
            if self.round >= config.attempts || !is_patient {
                return Err(self.verdict(held));
            }
            tokio::time::sleep(wait).await;
            for place in &mut self.places {
                place.is_tried = false;
            }
        }
    }

    /// The host at `place` gave `error`.
    pub(crate) fn failed(&mut self, place: usize, error: Error) {
        tracing::debug!(
            host = self.endpoints[place].settings.host,
            object = self.object,
            error = &error as &dyn std::error::Error,
            "a request failed"
        );
        self.shared.counters.failed(&error);
        if let Error::Unavailable { retry_after, .. } = &error {
            self.endpoints[place].failed(*retry_after);
        }
        self.has_failed = true;
        let place = &mut self.places[place];
        place.is_out = !error.is_transient();
        place.error = Some(error);
    }

    /// Somebody begins to wait: how long they did something else is not held against the hosts.
    pub(crate) fn awaited(&mut self) {
        self.since = Instant::now();
    }

    /// So long we stood in a queue of our own, which is not held against the hosts either.
    pub(crate) fn queued(&mut self, time: Duration) {
        self.since += time;
    }

    /// The host at `place` delivered so many bytes.
    pub(crate) fn progressed(&mut self, place: usize, bytes: usize) {
        self.progress += bytes as u64;
        if self.progress < PROGRESS {
            return;
        }
        self.progress = 0;
        self.round = 0;
        self.endpoints[place].worked();
        for (at, other) in self.places.iter_mut().enumerate() {
            other.is_tried = at == place;
        }
    }

    /// The error to tell: one that may pass if any host may still have it, else what the registry itself said, else
    /// what the last mirror said.
    fn verdict(&self, held: Option<Duration>) -> Error {
        let errors = || {
            self.places
                .iter()
                .rev()
                .filter_map(|place| place.error.as_ref())
        };
        if let Some(error) = errors()
            .find(|error| error.is_transient())
            .or(errors().next())
        {
            return error.clone();
        }
        match held {
            Some(_) => Error::Unavailable {
                host: self.host.clone(),
                object: self.object.clone(),
                reason: "it asked for a pause that is not over, or fails again and again"
                    .to_owned(),
                retry_after: held,
                source: None,
            },
            None => Error::Configuration {
                path: format!("hosts.toml of {}", self.host),
                reason: "no host in it has the capability that is needed".to_owned(),
            },
        }
    }
}

/// Doubles from round to round; random, so that many who failed together do not come back together.
pub(super) fn pause(config: &Config, round: u32) -> Duration {
    let whole = config
        .backoff
        .saturating_mul(2_u32.saturating_pow(round.saturating_sub(1).min(16)))
        .min(config.backoff_max);
    let random = RandomState::new().build_hasher().finish() >> 32;
    let part = random as f64 / f64::from(u32::MAX);
    whole.mul_f64(0.5 + part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let config = Config {
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
            ..Config::default()
        };
        for (round, longest) in [(1, 100), (2, 200), (4, 800), (5, 1000), (u32::MAX, 1000)] {
            let longest = Duration::from_millis(longest);
            let pauses: Vec<Duration> = (0..16).map(|_| pause(&config, round)).collect();
            assert!(
                pauses
                    .iter()
                    .all(|one| *one >= longest / 2 && *one <= longest)
            );
            assert!(pauses.iter().any(|one| one != &pauses[0]));
        }
    }
}
