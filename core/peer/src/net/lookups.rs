//! Who is looking for which layer, and what was found a moment ago.

use std::collections::HashMap;
use std::time::Duration;

use libp2p_kad::QueryId;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::store::StoreKey;
use crate::{Peer, PeerId};

/// How long what was found is told again without a query; and that nothing was.
const FOUND_HOLDS: Duration = Duration::from_secs(5);
const NOTHING_HOLDS: Duration = Duration::from_millis(500);

/// How long a query may take.
pub(super) const LOOKUP_MAX: Duration = Duration::from_secs(2);

/// How many queries run at a time, how many wait for one, how many answers are kept.
const RUNNING_MAX: usize = 256;
const WAITING_MAX: usize = 256;
const KEPT_MAX: usize = 16_384;

/// With so many peers, a query has found enough. It is also what a waiting caller has room for.
pub(super) const FOUND_MAX: usize = 64;

/// All that is being looked for.
#[derive(Default)]
pub(super) struct Lookups {
    running: HashMap<StoreKey, Running>,
    queries: HashMap<QueryId, StoreKey>,
    kept: HashMap<StoreKey, Kept>,
}

struct Running {
    query: QueryId,
    ends: Instant,
    found: Vec<Peer>,
    waiting: Vec<Sender<Peer>>,
}

struct Kept {
    until: Instant,
    peers: Vec<Peer>,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It was answered, or waits for a query that runs.
    Served,
    /// There is too much going on.
    Busy,
    /// A query has to be begun for it.
    Begin,
}

impl Lookups {
    /// Answers what can be answered.
    pub(super) fn ask(&mut self, key: &StoreKey, waiter: &Sender<Peer>) -> Asked {
        if let Some(kept) = self.kept.get(key) {
            if kept.until > Instant::now() {
                tell(waiter, &kept.peers);
                return Asked::Served;
            }
            self.kept.remove(key);
        }
        let is_room = self.running.len() < RUNNING_MAX;
        match self.running.get_mut(key) {
            Some(running) if running.waiting.len() < WAITING_MAX => {
                tell(waiter, &running.found);
                running.waiting.push(waiter.clone());
                Asked::Served
            }
            Some(_) => Asked::Busy,
            None if is_room => Asked::Begin,
            None => Asked::Busy,
        }
    }

    /// A query has begun for what [`ask`](Self::ask) wanted begun.
    pub(super) fn begun(&mut self, key: StoreKey, query: QueryId, waiter: Sender<Peer>) {
        let running = Running {
            query,
            ends: Instant::now() + LOOKUP_MAX,
            found: Vec::new(),
            waiting: vec![waiter],
        };
        self.queries.insert(query, key);
        self.running.insert(key, running);
    }

    /// A query has found peers. Whether that is enough.
    pub(super) fn found(&mut self, query: &QueryId, peers: &[Peer]) -> bool {
        let running = self.queries.get(query);
        let Some(running) = running.and_then(|key| self.running.get_mut(key)) else {
            return true;
        };
        for peer in peers {
            let is_new = running.found.iter().all(|found| found.id != peer.id);
            if is_new && running.found.len() < FOUND_MAX {
                running.found.push(*peer);
                running
                    .waiting
                    .retain(|waiter| waiter.try_send(*peer).is_ok());
            }
        }
        running.found.len() >= FOUND_MAX
    }

    /// A query is over: nobody waits for it any more. Whether it had found somebody; `None` if it was none of these.
    pub(super) fn ended(&mut self, query: &QueryId) -> Option<bool> {
        let key = self.queries.remove(query)?;
        let running = self.running.remove(&key)?;
        let holds = match running.found.is_empty() {
            true => NOTHING_HOLDS,
            false => FOUND_HOLDS,
        };
        let now = Instant::now();
        if self.kept.len() >= KEPT_MAX {
            self.kept.retain(|_, kept| kept.until > now);
        }
        let found = !running.found.is_empty();
        if self.kept.len() < KEPT_MAX {
            let kept = Kept {
                until: now + holds,
                peers: running.found,
            };
            self.kept.insert(key, kept);
        }
        Some(found)
    }

    /// The queries that have run for long enough.
    pub(super) fn overdue(&self) -> Vec<QueryId> {
        let now = Instant::now();
        let overdue = self.running.values().filter(|running| running.ends <= now);
        overdue.map(|running| running.query).collect()
    }

    /// When the next one has.
    pub(super) fn next(&self) -> Option<Instant> {
        self.running.values().map(|running| running.ends).min()
    }

    /// Names a peer to nobody any more.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        for running in self.running.values_mut() {
            running.found.retain(|found| found.id != *peer);
        }
        for kept in self.kept.values_mut() {
            kept.peers.retain(|kept| kept.id != *peer);
        }
    }

    /// That nothing was found says nothing any more: there are others to ask now.
    pub(super) fn forget_nothing(&mut self) {
        self.kept.retain(|_, kept| !kept.peers.is_empty());
    }

    /// How many queries run.
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }
}

fn tell(waiter: &Sender<Peer>, peers: &[Peer]) {
    for peer in peers {
        // Who has no room, or no interest any more, has enough.
        if waiter.try_send(*peer).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const KEY: StoreKey = [1; 32];

    fn peer(port: u16) -> Peer {
        Peer {
            id: PeerId::random(),
            address: std::net::SocketAddr::from(([10, 0, 0, 1], port)),
        }
    }

    /// Real ones cannot be made without kad.
    fn query() -> QueryId {
        use libp2p_kad::store::MemoryStore;
        let peer = PeerId::random();
        let mut kad = libp2p_kad::Behaviour::new(peer, MemoryStore::new(peer));
        kad.get_providers(libp2p_kad::RecordKey::new(&KEY))
    }

    fn all(receiver: &mut mpsc::Receiver<Peer>) -> (Vec<Peer>, bool) {
        let mut peers = Vec::new();
        loop {
            match receiver.try_recv() {
                Ok(peer) => peers.push(peer),
                Err(mpsc::error::TryRecvError::Empty) => return (peers, false),
                Err(mpsc::error::TryRecvError::Disconnected) => return (peers, true),
            }
        }
    }

    fn ask(lookups: &mut Lookups) -> (Asked, mpsc::Sender<Peer>, mpsc::Receiver<Peer>) {
        let (waiter, found) = mpsc::channel(FOUND_MAX);
        (lookups.ask(&KEY, &waiter), waiter, found)
    }

    #[tokio::test(start_paused = true)]
    async fn one_query_serves_all_who_ask_and_its_result_those_who_ask_soon_after() {
        let mut lookups = Lookups::default();
        let (asked, waiter, mut first) = ask(&mut lookups);
        assert_eq!(asked, Asked::Begin);
        let query = query();
        lookups.begun(KEY, query, waiter);
        let (a, b) = (peer(1), peer(2));
        assert!(!lookups.found(&query, &[a, a]));
        let (asked, waiter, mut second) = ask(&mut lookups);
        drop(waiter);
        assert_eq!(asked, Asked::Served);
        lookups.found(&query, &[b]);
        assert_eq!(all(&mut first), (vec![a, b], false));
        assert_eq!(all(&mut second), (vec![a, b], false));
        assert_eq!(lookups.ended(&query), Some(true));
        assert!(all(&mut first).1 && all(&mut second).1);
        let (asked, waiter, mut third) = ask(&mut lookups);
        drop(waiter);
        assert_eq!(
            (asked, all(&mut third)),
            (Asked::Served, (vec![a, b], true))
        );
        lookups.forget(&a.id);
        let (_, waiter, mut fourth) = ask(&mut lookups);
        drop(waiter);
        assert_eq!(all(&mut fourth), (vec![b], true));
        tokio::time::advance(FOUND_HOLDS).await;
        assert_eq!(ask(&mut lookups).0, Asked::Begin);
        assert_eq!(lookups.ended(&query), None);
    }

    #[tokio::test(start_paused = true)]
    async fn that_nobody_has_it_holds_for_less_long_and_not_when_somebody_new_is_there() {
        let mut lookups = Lookups::default();
        for forget in [false, true] {
            let (asked, waiter, _found) = ask(&mut lookups);
            assert_eq!(asked, Asked::Begin);
            let query = query();
            lookups.begun(KEY, query, waiter);
            assert!(lookups.overdue().is_empty());
            tokio::time::advance(LOOKUP_MAX).await;
            assert_eq!(lookups.overdue(), [query]);
            assert_eq!(lookups.ended(&query), Some(false));
            assert_eq!(ask(&mut lookups).0, Asked::Served);
            match forget {
                true => lookups.forget_nothing(),
                false => tokio::time::advance(NOTHING_HOLDS).await,
            }
        }
        assert_eq!(ask(&mut lookups).0, Asked::Begin);
    }

    #[tokio::test]
    async fn one_answer_names_only_so_many() {
        let mut lookups = Lookups::default();
        let (_, waiter, mut found) = ask(&mut lookups);
        let query = query();
        lookups.begun(KEY, query, waiter);
        let many: Vec<Peer> = (1..200).map(peer).collect();
        assert!(lookups.found(&query, &many));
        assert_eq!(all(&mut found).0.len(), FOUND_MAX);
    }
}
