//! How much is given at a time, and to whom first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::PeerId;
use crate::policy::{Bucket, Class, Fair, Served};
use crate::wire::Limits;

use super::guests::leave;
use super::pulse::Pulse;

/// When to ask again whom there was no place for: twice as long as what waits takes at this pace, in bytes a second.
const PACE: u64 = 64 << 20;
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Who is given something, and who waits for it.
#[derive(Debug)]
pub(super) struct Uploads {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    active: usize,
    peers: HashMap<PeerId, usize>,
    /// Those who wait to be given something.
    queue: Fair<PeerId, oneshot::Sender<Slot>>,
    /// What was given lately, if that is bounded.
    bucket: Option<Bucket>,
    /// Those who wait for the next piece of it.
    pieces: Fair<PeerId, oneshot::Sender<()>>,
    is_pacing: bool,
}

/// Something is being given to somebody while it lives.
#[derive(Debug)]
pub(super) struct Slot {
    uploads: Arc<Uploads>,
    peer: PeerId,
    /// Of the connection that it is given on.
    pulse: Option<Arc<Pulse>>,
}

/// There is no place.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) retry_after: Duration,
}

impl Uploads {
    pub(super) fn new(limits: &Limits) -> Arc<Uploads> {
        let bucket = limits.bytes_per_second.map(|rate| {
            let rate = rate.max(1) as f64;
            // A tenth of a second may come at once.
            Bucket::new(rate, rate / 10.0)
        });
        Arc::new(Uploads {
            limits: limits.clone(),
            state: Mutex::new(State {
                active: 0,
                peers: HashMap::new(),
                queue: Fair::new(),
                bucket,
                pieces: Fair::new(),
                is_pacing: false,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place to give `peer` so many bytes, when it is its turn. Dropping the future gives the turn up.
    pub(super) async fn admit(
        self: &Arc<Self>,
        peer: PeerId,
        class: Class,
        bytes: u64,
    ) -> Result<Slot, Busy> {
        let turn = {
            let mut state = self.lock();
            if state.queue.is_empty() && state.may_have(&self.limits, peer) {
                return Ok(self.slot(&mut state, peer));
            }
            // Those who gave up do not count.
            state.queue.retain(|waiting| !waiting.is_closed());
            let is_full = state.queue.len() >= self.limits.queued;
            if is_full || state.queue.waiting(peer) >= self.limits.peer_queued {
                return Err(state.busy());
            }
            let (turn, wait) = oneshot::channel();
            state.queue.push(peer, class, bytes, turn);
            let told = self.next(&mut state);
            drop(state);
            tell(told);
            wait
        };
        // The sender is dropped only with all that it belongs to.
        turn.await.map_err(|_| Busy {
            retry_after: RETRY.1,
        })
    }

    fn slot(self: &Arc<Self>, state: &mut State, peer: PeerId) -> Slot {
        state.active += 1;
        *state.peers.entry(peer).or_default() += 1;
        Slot {
            uploads: Arc::clone(self),
            peer,
            pulse: None,
        }
    }

    /// Those whose turn it is now.
    fn next(self: &Arc<Self>, state: &mut State) -> Vec<(oneshot::Sender<Slot>, Slot)> {
        let mut told = Vec::new();
        while state.active < self.limits.uploads {
            let (limit, peers) = (self.limits.peer_uploads, &state.peers);
            let may = |peer| peers.get(&peer).is_none_or(|count| *count < limit);
            let Some(Served { peer, item, .. }) = state.queue.pop(may) else {
                break;
            };
            if !item.is_closed() {
                let slot = self.slot(state, peer);
                told.push((item, slot));
            }
        }
        told
    }

    /// Waits until so many bytes more may be given.
    pub(super) async fn pace(self: &Arc<Self>, peer: PeerId, class: Class, bytes: u64) {
        let wait = {
            let mut state = self.lock();
            let is_first = state.pieces.is_empty();
            let Some(bucket) = &mut state.bucket else {
                return;
            };
            if is_first && bucket.take(Instant::now(), bytes as f64).is_ok() {
                return;
            }
            let (go, wait) = oneshot::channel();
            state.pieces.push(peer, class, bytes, go);
            if !std::mem::replace(&mut state.is_pacing, true) {
                tokio::spawn(pace(Arc::clone(self)));
            }
            wait
        };
        // Whoever paces tells everybody.
        let _ = wait.await;
    }
}

impl State {
    fn may_have(&self, limits: &Limits, peer: PeerId) -> bool {
        let own = self.peers.get(&peer).copied().unwrap_or_default();
        self.active < limits.uploads && own < limits.peer_uploads
    }

    fn busy(&self) -> Busy {
        let time = Duration::from_secs_f64(2.0 * self.queue.cost() as f64 / PACE as f64);
        Busy {
            retry_after: time.clamp(RETRY.0, RETRY.1),
        }
    }
}

/// Lets those have their turns who wait. A slot that nobody takes any more is given back.
fn tell(told: Vec<(oneshot::Sender<Slot>, Slot)>) {
    for (turn, slot) in told {
        // What comes back is dropped here, which is not within the lock.
        drop(turn.send(slot));
    }
}

/// Lets piece after piece go as fast as it may.
async fn pace(uploads: Arc<Uploads>) {
    loop {
        let wait = {
            let mut state = uploads.lock();
            let now = Instant::now();
            let State {
                bucket: Some(bucket),
                pieces,
                is_pacing,
                ..
            } = &mut *state
            else {
                return;
            };
            // Nothing more than to see whether there is a debt.
            match bucket.take(now, 0.0) {
                Err(wait) => wait,
                Ok(()) => {
                    let Some(next) = pieces.pop(|_| true) else {
                        *is_pacing = false;
                        return;
                    };
                    if next.item.send(()).is_ok() {
                        // There is no debt, so this takes.
                        let _ = bucket.take(now, next.cost as f64);
                    }
                    continue;
                }
            }
        };
        tokio::time::sleep(wait).await;
    }
}

impl Slot {
    /// From now on the connection has to take what it is given.
    pub(super) fn on(mut self, pulse: &Arc<Pulse>, time: Duration) -> Slot {
        pulse.beat(time);
        self.pulse = Some(Arc::clone(pulse));
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(pulse) = &self.pulse {
            pulse.rest();
        }
        let mut state = self.uploads.lock();
        state.active = state.active.saturating_sub(1);
        leave(&mut state.peers, self.peer);
        let told = self.uploads.next(&mut state);
        drop(state);
        tell(told);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::Identity;

    const SOON: Duration = Duration::from_millis(50);

    fn uploads(limits: Limits) -> Arc<Uploads> {
        Uploads::new(&limits)
    }

    fn peer() -> PeerId {
        Identity::ephemeral().peer_id()
    }

    #[tokio::test]
    async fn one_node_gets_its_share_and_no_more_than_all_get_all() {
        let uploads = uploads(Limits {
            uploads: 3,
            peer_uploads: 2,
            queued: 2,
            ..Limits::default()
        });
        let (a, b) = (peer(), peer());
        let first = uploads.admit(a, Class::Demand, 1).await.unwrap();
        let second = uploads.admit(a, Class::Demand, 1).await.unwrap();
        let mut third = Box::pin(uploads.admit(a, Class::Demand, 1));
        assert!(timeout(SOON, &mut third).await.is_err());
        // Another one is not held up by it.
        let others = timeout(SOON, uploads.admit(b, Class::Prefetch, 1)).await;
        let others = others.unwrap().unwrap();
        let mut fourth = Box::pin(uploads.admit(b, Class::Demand, 1));
        assert!(timeout(SOON, &mut fourth).await.is_err());
        let busy = uploads.admit(peer(), Class::Demand, 1).await.unwrap_err();
        assert!(busy.retry_after >= RETRY.0);
        drop(first);
        let third = timeout(SOON, third).await.unwrap().unwrap();
        // Who has given up does not take a place.
        drop(fourth);
        drop((second, third, others));
        let _all = [
            uploads.admit(a, Class::Demand, 1).await.unwrap(),
            uploads.admit(a, Class::Demand, 1).await.unwrap(),
            uploads.admit(b, Class::Demand, 1).await.unwrap(),
        ];
    }

    #[tokio::test]
    async fn who_has_given_up_makes_nobody_wait_longer() {
        let uploads = uploads(Limits {
            uploads: 1,
            queued: 1,
            ..Limits::default()
        });
        let held = uploads.admit(peer(), Class::Demand, 1).await.unwrap();
        for _ in 0..100 {
            let gone = uploads.admit(peer(), Class::Demand, 1 << 30);
            assert!(timeout(Duration::from_millis(1), gone).await.is_err());
        }
        let mut waits = Box::pin(uploads.admit(peer(), Class::Demand, 1));
        assert!(timeout(Duration::from_millis(1), &mut waits).await.is_err());
        let busy = uploads.admit(peer(), Class::Demand, 1).await.unwrap_err();
        assert_eq!(busy.retry_after, RETRY.0);
        drop(held);
        waits.await.unwrap();
    }

    #[tokio::test]
    async fn bytes_are_paced_and_demand_goes_first() {
        let uploads = uploads(Limits {
            bytes_per_second: Some(8 << 20),
            ..Limits::default()
        });
        let (a, b) = (peer(), peer());
        // Leaves a debt, and so does each of the next.
        uploads.pace(a, Class::Demand, 2 << 20).await;
        let mut prefetch = Box::pin(uploads.pace(a, Class::Prefetch, 1 << 20));
        let mut demand = Box::pin(uploads.pace(b, Class::Demand, 1 << 20));
        tokio::select! {
            biased;
            () = &mut prefetch => panic!("it has waited for less"),
            () = &mut demand => {}
        }
        prefetch.await;
    }
}
