//! Which layers others are to know that this node has, and when to tell them again.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use libp2p_kad::QueryId;
use tokio::time::Instant;

use super::store::{PER_PROVIDER_MAX, StoreKey};

/// How many layers one node announces; a peer keeps no more of one provider either.
const LAYERS_MAX: usize = PER_PROVIDER_MAX;

/// How many are being told at a time. One costs about as many messages as there are replicas.
const RUNNING_MAX: usize = 16;

/// How long to wait before telling again what nobody heard.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// All layers that are announced, or were and are not yet withdrawn.
pub(super) struct Announced {
    /// How long a record holds at others.
    ttl: Duration,
    layers: HashMap<StoreKey, Layer>,
    queries: HashMap<QueryId, (StoreKey, Step)>,
    /// What is to be done, by when; nothing that is being done.
    due: BTreeSet<(Instant, StoreKey)>,
}

struct Layer {
    wanted: bool,
    /// Whether others may know of it.
    told: bool,
    running: bool,
    due: Instant,
    retry: Duration,
}

/// What is to be done about a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Tell others of it.
    Tell,
    /// Take that back.
    Withdraw,
}

impl Announced {
    pub(super) fn new(ttl: Duration) -> Announced {
        Announced {
            ttl,
            layers: HashMap::new(),
            queries: HashMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Whether others are to know of the layer.
    pub(super) fn want(&mut self, key: StoreKey, wanted: bool) {
        let now = Instant::now();
        let is_known = self.layers.contains_key(&key);
        if !is_known && (!wanted || self.layers.len() >= LAYERS_MAX) {
            return;
        }
        let layer = self.layers.entry(key).or_insert(Layer {
            wanted: false,
            told: false,
            running: false,
            due: now,
            retry: RETRY_MIN,
        });
        if layer.wanted == wanted {
            return;
        }
        layer.wanted = wanted;
        layer.retry = RETRY_MIN;
        self.plan(key, now);
    }

    /// Nobody wants any of them any more.
    pub(super) fn want_nothing(&mut self) {
        let keys: Vec<StoreKey> = self.layers.keys().copied().collect();
        for key in keys {
            self.want(key, false);
        }
    }

    /// There are others to tell, where there were none.
    pub(super) fn tell_all(&mut self) {
        let now = Instant::now();
        let keys: Vec<StoreKey> = self.layers.keys().copied().collect();
        for key in keys {
            self.plan(key, now);
        }
    }

    /// Has the layer's next step done at that time.
    fn plan(&mut self, key: StoreKey, at: Instant) {
        let Some(layer) = self.layers.get_mut(&key) else {
            return;
        };
        if layer.running {
            // What it is then is seen when that is over.
            return;
        }
        self.due.remove(&(layer.due, key));
        if !layer.wanted && !layer.told {
            self.layers.remove(&key);
            return;
        }
        layer.due = at;
        self.due.insert((at, key));
    }

    /// When there is something to do, as far as there is room.
    pub(super) fn next(&self) -> Option<Instant> {
        let first = self.due.first().map(|(at, _)| *at);
        first.filter(|_| self.queries.len() < RUNNING_MAX)
    }

    /// The next thing that is to be done now. [`begun`](Self::begun) or [`failed`](Self::failed) has to follow.
    pub(super) fn take(&mut self) -> Option<(StoreKey, Step)> {
        if self.next()? > Instant::now() {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        let layer = self.layers.get_mut(&key)?;
        layer.running = true;
        let step = match layer.wanted {
            true => Step::Tell,
            false => Step::Withdraw,
        };
        layer.told = true;
        Some((key, step))
    }

    /// What was taken is being done.
    pub(super) fn begun(&mut self, key: StoreKey, step: Step, query: QueryId) {
        self.queries.insert(query, (key, step));
    }

    /// What was taken could not be begun.
    pub(super) fn failed(&mut self, key: StoreKey, step: Step) {
        self.over(key, step, false);
    }

    /// A query is over, and was heard or not. Whether it was one of these.
    pub(super) fn ended(&mut self, query: &QueryId, heard: bool) -> bool {
        let Some((key, step)) = self.queries.remove(query) else {
            return false;
        };
        self.over(key, step, heard);
        true
    }

    fn over(&mut self, key: StoreKey, step: Step, heard: bool) {
        let now = Instant::now();
        let Some(layer) = self.layers.get_mut(&key) else {
            return;
        };
        layer.running = false;
        let at = match (step, heard) {
            // Nobody is asked twice to forget: what they know ends by itself.
            (Step::Withdraw, _) => {
                layer.told = false;
                now
            }
            (Step::Tell, _) if !layer.wanted => now,
            (Step::Tell, true) => {
                layer.retry = RETRY_MIN;
                // Not all nodes, and not all layers of one, at the same time.
                now + self.ttl.mul_f64(rand::random_range(0.4..0.6))
            }
            (Step::Tell, false) => {
                let delay = layer.retry;
                layer.retry = (delay * 2).min(RETRY_MAX);
                now + delay
            }
        };
        self.plan(key, at);
    }

    /// How many layers there are.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(900);
    const KEY: StoreKey = [1; 32];

    /// Does what is due, to be heard or not, without a query; what it was.
    fn act(announced: &mut Announced, heard: bool) -> Option<Step> {
        let (key, step) = announced.take()?;
        announced.over(key, step, heard);
        Some(step)
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_is_told_again_before_others_forget_it() {
        let mut announced = Announced::new(TTL);
        announced.want(KEY, true);
        announced.want(KEY, true);
        assert_eq!(act(&mut announced, true), Some(Step::Tell));
        for _ in 0..100 {
            assert_eq!(act(&mut announced, true), None);
            let wait = announced.next().unwrap() - Instant::now();
            assert!(
                wait >= TTL.mul_f64(0.4) && wait <= TTL.mul_f64(0.6),
                "{wait:?}"
            );
            tokio::time::advance(wait).await;
            assert_eq!(act(&mut announced, true), Some(Step::Tell));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_heard_is_told_again_soon_and_then_less_often() {
        let mut announced = Announced::new(TTL);
        announced.want(KEY, true);
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(act(&mut announced, false), Some(Step::Tell));
            let wait = announced.next().unwrap() - Instant::now();
            waits.push(wait);
            tokio::time::advance(wait).await;
        }
        assert_eq!(
            (waits[0], waits[1], waits[9]),
            (RETRY_MIN, RETRY_MIN * 2, RETRY_MAX)
        );
        assert_eq!(act(&mut announced, true), Some(Step::Tell));
        announced.tell_all();
        assert_eq!(act(&mut announced, true), Some(Step::Tell), "somebody new");
    }

    #[tokio::test(start_paused = true)]
    async fn a_layer_is_withdrawn_once_and_only_if_others_may_know_it() {
        let mut announced = Announced::new(TTL);
        announced.want(KEY, false);
        announced.want(KEY, true);
        announced.want(KEY, false);
        assert_eq!((act(&mut announced, true), announced.len()), (None, 0));
        announced.want(KEY, true);
        assert_eq!(act(&mut announced, true), Some(Step::Tell));
        announced.want(KEY, false);
        assert_eq!(act(&mut announced, false), Some(Step::Withdraw));
        assert_eq!((act(&mut announced, true), announced.len()), (None, 0));
        assert!(announced.due.is_empty() && announced.queries.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_mind_waits_for_what_is_under_way() {
        let mut announced = Announced::new(TTL);
        announced.want(KEY, true);
        let (key, step) = announced.take().unwrap();
        announced.want(KEY, false);
        assert_eq!(announced.take(), None);
        announced.over(key, step, true);
        let (key, step) = announced.take().unwrap();
        assert_eq!(step, Step::Withdraw);
        announced.want(KEY, true);
        announced.over(key, step, true);
        assert_eq!(act(&mut announced, true), Some(Step::Tell));
        announced.want(KEY, true);
        announced.want_nothing();
        assert_eq!(act(&mut announced, true), Some(Step::Withdraw));
        assert_eq!(announced.len(), 0);
    }
}
