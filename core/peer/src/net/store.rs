//! The provider records that this node keeps for others, and its own.
//!
//! The store that comes with libp2p holds 1,024 keys in all and the first 20 providers of each, own ones included; a layer that
//! many nodes have would always be fetched from the same ones. Here a full key gives a random place to a newcomer, one peer may hold
//! only so many records, and what this node provides itself always has a place.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use libp2p_core::Multiaddr;
use libp2p_kad::store::{Error, RecordStore, Result};
use libp2p_kad::{ProviderRecord, Record, RecordKey};
use rand::seq::SliceRandom;
use tokio::time::Instant;

use crate::PeerId;

/// A layer as others know it: see [`key`](super::key).
pub(super) type StoreKey = [u8; 32];

/// How many layers of one node are kept.
pub(super) const PER_PROVIDER_MAX: usize = 16_384;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Keys in all.
    pub(super) keys: usize,
    /// Records in all; one takes about 20 bytes, with its part of the key.
    pub(super) records: usize,
    /// Providers of one key.
    pub(super) per_key: usize,
    /// Records of one provider.
    pub(super) per_provider: usize,
    /// How long a record holds.
    pub(super) ttl: Duration,
}

impl Limits {
    pub(super) fn new(ttl: Duration) -> Limits {
        Limits {
            keys: 1_000_000,
            records: 4_000_000,
            per_key: 64,
            per_provider: PER_PROVIDER_MAX,
            ttl,
        }
    }
}

/// Our records, and what is kept for others.
pub(super) struct Store {
    local: PeerId,
    limits: Limits,
    keys: HashMap<StoreKey, Vec<Entry>>,
    records: usize,
    providers: HashMap<PeerId, Number>,
    /// By number. A number whose provider has no record is free.
    by_number: Vec<Provider>,
    free: Vec<Number>,
    /// Every record that is not ours, once, by when it has to be looked at again.
    expiring: VecDeque<(Instant, StoreKey, Number)>,
}

type Number = u32;

/// What a record costs: that a peer provides a key is its number and a time.
#[derive(Debug, Clone, Copy)]
struct Entry {
    provider: Number,
    /// `None`: ours, which holds until it is withdrawn.
    expires: Option<Instant>,
}

impl Entry {
    fn holds(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

struct Provider {
    id: PeerId,
    addresses: Vec<Multiaddr>,
    records: usize,
}

impl Store {
    pub(super) fn new(local: PeerId, limits: Limits) -> Store {
        Store {
            local,
            limits,
            keys: HashMap::new(),
            records: 0,
            providers: HashMap::new(),
            by_number: Vec::new(),
            free: Vec::new(),
            expiring: VecDeque::new(),
        }
    }

    /// How many keys, and how many records there are.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.keys.len(), self.records)
    }

    /// Where a provider was when it told something last.
    pub(super) fn addresses(&self, provider: &PeerId) -> Vec<Multiaddr> {
        let number = self.providers.get(provider);
        let provider = number.and_then(|number| self.by_number.get(*number as usize));
        provider.map_or(Vec::new(), |provider| provider.addresses.clone())
    }

    /// Drops what has expired.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        while let Some((at, key, number)) = self.expiring.front().copied() {
            if at > now {
                return;
            }
            self.expiring.pop_front();
            match self.entry(&key, number) {
                // It was told again since.
                Some(entry) if entry.holds(now) => {
                    let at = entry.expires.unwrap_or(now);
                    self.expiring.push_back((at, key, number));
                }
                Some(_) => self.remove(&key, number),
                None => {}
            }
        }
    }

    /// Drops whatever a peer has told.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        let Some(number) = self.providers.get(peer).copied() else {
            return;
        };
        let held = |entries: &Vec<Entry>| entries.iter().any(|entry| entry.provider == number);
        let keys: Vec<StoreKey> = self
            .keys
            .iter()
            .filter(|(_, entries)| held(entries))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.remove(&key, number);
        }
    }

    fn entry(&self, key: &StoreKey, number: Number) -> Option<Entry> {
        let entries = self.keys.get(key)?;
        entries
            .iter()
            .find(|entry| entry.provider == number)
            .copied()
    }

    fn remove(&mut self, key: &StoreKey, number: Number) {
        let Some(entries) = self.keys.get_mut(key) else {
            return;
        };
        let before = entries.len();
        entries.retain(|entry| entry.provider != number);
        if entries.len() == before {
            return;
        }
        if entries.is_empty() {
            self.keys.remove(key);
        }
        self.records -= 1;
        self.release(number);
    }

    /// Counts a provider's record off.
    fn release(&mut self, number: Number) {
        let Some(provider) = self.by_number.get_mut(number as usize) else {
            return;
        };
        provider.records -= 1;
        if provider.records == 0 {
            provider.addresses = Vec::new();
            self.providers.remove(&provider.id);
            self.free.push(number);
        }
    }

    /// The provider's number, with one record more.
    fn enter(&mut self, id: PeerId, addresses: Vec<Multiaddr>) -> Number {
        if let Some(number) = self.providers.get(&id).copied() {
            let provider = &mut self.by_number[number as usize];
            provider.records += 1;
            provider.addresses = addresses;
            return number;
        }
        let provider = Provider {
            id,
            addresses,
            records: 1,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.by_number[number as usize] = provider;
                number
            }
            None => {
                self.by_number.push(provider);
                (self.by_number.len() - 1) as Number
            }
        };
        self.providers.insert(id, number);
        number
    }

    /// Takes a record that is not there yet.
    fn add(&mut self, key: StoreKey, id: PeerId, addresses: Vec<Multiaddr>) -> Result<()> {
        let ours = id == self.local;
        let entries = self.keys.get(&key).map_or(0, Vec::len);
        if !ours {
            let held = self.providers.get(&id).map(|number| *number as usize);
            let held = held.map_or(0, |number| self.by_number[number].records);
            let is_full = entries == 0 && self.keys.len() >= self.limits.keys
                || self.records >= self.limits.records && entries < self.limits.per_key;
            if held >= self.limits.per_provider || is_full {
                return Err(Error::MaxProvidedKeys);
            }
        }
        if entries >= self.limits.per_key {
            let Some(gone) = self.replaced(&key) else {
                return Err(Error::MaxProvidedKeys);
            };
            self.remove(&key, gone);
        }
        let expires = (!ours).then(|| Instant::now() + self.limits.ttl);
        let provider = self.enter(id, addresses);
        self.keys
            .entry(key)
            .or_default()
            .push(Entry { provider, expires });
        self.records += 1;
        if let Some(expires) = expires {
            self.expiring.push_back((expires, key, provider));
        }
        if self.expiring.len() > 2 * self.records + 1024 {
            self.compact();
        }
        Ok(())
    }

    /// Leaves in the queue what is still there. Whoever tells and withdraws in turn would fill it otherwise.
    fn compact(&mut self) {
        let records = self.keys.iter().flat_map(|(key, entries)| {
            let expiring = |entry: &Entry| Some((entry.expires?, *key, entry.provider));
            entries.iter().filter_map(expiring)
        });
        let mut expiring: Vec<_> = records.collect();
        expiring.sort_unstable();
        self.expiring = expiring.into();
    }

    /// Who gives its place at a full key to a newcomer: anybody but us.
    fn replaced(&self, key: &StoreKey) -> Option<Number> {
        let others: Vec<Number> = self
            .keys
            .get(key)?
            .iter()
            .filter(|entry| entry.expires.is_some())
            .map(|entry| entry.provider)
            .collect();
        (!others.is_empty()).then(|| others[rand::random_range(0..others.len())])
    }
}

/// The key of one of our records. Of another length it is not one of this protocol.
pub(super) fn store_key(key: &RecordKey) -> Option<StoreKey> {
    key.as_ref().try_into().ok()
}

impl RecordStore for Store {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    /// Nothing is kept: a value is how a layer is withdrawn, see [`super::task`].
    fn put(&mut self, _: Record) -> Result<()> {
        Ok(())
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let key = store_key(&record.key).ok_or(Error::ValueTooLarge)?;
        let known = self.providers.get(&record.provider).copied();
        let entries = self.keys.get_mut(&key);
        let entry = known.zip(entries).and_then(|(number, entries)| {
            entries.iter_mut().find(|entry| entry.provider == number)
        });
        match (entry, known) {
            (Some(entry), Some(number)) => {
                if entry.expires.is_some() {
                    entry.expires = Some(Instant::now() + self.limits.ttl);
                }
                self.by_number[number as usize].addresses = record.addresses;
                Ok(())
            }
            _ => {
                self.sweep();
                self.add(key, record.provider, record.addresses)
            }
        }
    }

    /// Those that hold, in random order: an answer has room for 20 of them.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = Instant::now();
        let entries = store_key(key).and_then(|key| self.keys.get(&key));
        let mut records: Vec<ProviderRecord> = entries
            .into_iter()
            .flatten()
            .filter(|entry| entry.holds(now))
            .map(|entry| {
                let provider = &self.by_number[entry.provider as usize];
                ProviderRecord::new(key.clone(), provider.id, provider.addresses.clone())
            })
            .collect();
        records.shuffle(&mut rand::rng());
        records
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let ours = self.providers.get(&self.local).copied();
        let is_ours = |entries: &Vec<Entry>| {
            let mut entries = entries.iter();
            entries.any(|entry| Some(entry.provider) == ours)
        };
        self.keys
            .iter()
            .filter(|(_, entries)| is_ours(entries))
            .map(|(key, _)| ProviderRecord::new(RecordKey::new(key), self.local, Vec::new()))
            .map(Cow::Owned)
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if let (Some(key), Some(number)) = (store_key(key), self.providers.get(provider).copied()) {
            self.remove(&key, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TTL: Duration = Duration::from_secs(900);

    fn store(limits: Limits) -> (Store, PeerId) {
        let local = PeerId::random();
        (Store::new(local, limits), local)
    }

    fn key(number: usize) -> RecordKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        RecordKey::new(&key)
    }

    fn add(store: &mut Store, number: usize, provider: PeerId) -> Result<()> {
        store.add_provider(ProviderRecord::new(key(number), provider, Vec::new()))
    }

    fn ids(store: &Store, number: usize) -> HashSet<PeerId> {
        let records = store.providers(&key(number));
        records.into_iter().map(|record| record.provider).collect()
    }

    #[tokio::test]
    async fn there_is_room_for_more_than_1024_keys_and_20_providers() {
        let (mut store, local) = store(Limits::new(TTL));
        for number in 0..5000 {
            add(&mut store, number, local).unwrap();
        }
        let others: Vec<PeerId> = (0..60).map(|_| PeerId::random()).collect();
        for other in &others {
            for number in 0..200 {
                add(&mut store, number, *other).unwrap();
            }
        }
        assert_eq!(store.size(), (5000, 5000 + 60 * 200));
        for number in 0..200 {
            let found = ids(&store, number);
            assert_eq!(found.len(), 61);
            assert!(others.iter().all(|other| found.contains(other)));
        }
        assert_eq!(store.provided().count(), 5000);
    }

    #[tokio::test]
    async fn at_a_full_key_a_newcomer_takes_a_random_place_but_never_ours() {
        let (mut store, local) = store(Limits::new(TTL));
        add(&mut store, 0, local).unwrap();
        let first: HashSet<PeerId> = (0..63).map(|_| PeerId::random()).collect();
        for peer in &first {
            add(&mut store, 0, *peer).unwrap();
        }
        let later: HashSet<PeerId> = (0..640).map(|_| PeerId::random()).collect();
        for peer in &later {
            add(&mut store, 0, *peer).unwrap();
        }
        let found = ids(&store, 0);
        assert_eq!(found.len(), 64);
        assert!(found.contains(&local));
        // By then a first one is still there with a probability of (62/63)^640: one in 28,000.
        assert!(found.intersection(&first).count() < 10);
        // Records that were displaced leave nothing behind.
        assert_eq!(store.providers.len(), 64);
        assert_eq!(store.size(), (1, 64));
    }

    #[tokio::test]
    async fn a_flood_by_one_peer_takes_its_share_and_no_more() {
        let limits = Limits {
            keys: 1000,
            records: 2000,
            per_provider: 100,
            ..Limits::new(TTL)
        };
        let (mut store, local) = store(limits);
        let hostile = PeerId::random();
        let refused = (0..10_000)
            .filter(|number| add(&mut store, *number, hostile).is_err())
            .count();
        assert_eq!(refused, 9900);
        assert_eq!(store.size(), (100, 100));
        assert_eq!(store.expiring.len(), 100);
        // Others still have room, and so have we when nobody else has.
        add(&mut store, 10_000, PeerId::random()).unwrap();
        let many: Vec<PeerId> = (0..20).map(|_| PeerId::random()).collect();
        for (at, peer) in many.iter().enumerate() {
            for number in 0..100 {
                let _ = add(&mut store, 20_000 + 100 * at + number, *peer);
            }
        }
        assert_eq!(store.size().0, 1000);
        assert!(add(&mut store, 50_000, PeerId::random()).is_err());
        for number in 50_000..50_100 {
            add(&mut store, number, local).unwrap();
            assert!(ids(&store, number).contains(&local));
        }
        // What is there can be told again, even now.
        add(&mut store, 0, hostile).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_holds_for_its_time_unless_it_is_told_again() {
        let (mut store, local) = store(Limits::new(TTL));
        let (once, again) = (PeerId::random(), PeerId::random());
        add(&mut store, 0, local).unwrap();
        add(&mut store, 0, once).unwrap();
        add(&mut store, 0, again).unwrap();
        tokio::time::advance(TTL / 2).await;
        for _ in 0..1000 {
            add(&mut store, 0, again).unwrap();
        }
        assert_eq!(store.expiring.len(), 2, "telling it again takes no room");
        tokio::time::advance(TTL / 2).await;
        assert_eq!(ids(&store, 0), HashSet::from([local, again]));
        store.sweep();
        assert_eq!(store.size(), (1, 2));
        tokio::time::advance(TTL).await;
        assert_eq!(ids(&store, 0), HashSet::from([local]));
        store.sweep();
        store.sweep();
        assert_eq!(store.size(), (1, 1));
        assert!(store.expiring.is_empty());
        store.remove_provider(&key(0), &local);
        assert_eq!((store.size(), store.providers.len()), ((0, 0), 0));
    }

    #[tokio::test]
    async fn what_a_peer_told_can_be_forgotten() {
        let (mut store, _) = store(Limits::new(TTL));
        let (good, bad) = (PeerId::random(), PeerId::random());
        for number in 0..10 {
            add(&mut store, number, good).unwrap();
            add(&mut store, number, bad).unwrap();
        }
        add(&mut store, 10, bad).unwrap();
        store.forget(&bad);
        assert_eq!(store.size(), (10, 10));
        assert!(ids(&store, 3) == HashSet::from([good]) && ids(&store, 10).is_empty());
        store.forget(&bad);
    }

    #[tokio::test]
    async fn telling_and_withdrawing_in_turn_leaves_nothing_behind() {
        let (mut store, _) = store(Limits::new(TTL));
        let (kept, hostile) = (PeerId::random(), PeerId::random());
        add(&mut store, 0, kept).unwrap();
        for number in 0..10_000 {
            add(&mut store, number, hostile).unwrap();
            store.remove_provider(&key(number), &hostile);
        }
        assert!(store.expiring.len() < 1100);
        assert_eq!((store.size(), store.by_number.len()), ((1, 1), 2));
    }

    #[tokio::test]
    async fn keys_of_another_length_and_values_are_not_kept() {
        let (mut store, local) = store(Limits::new(TTL));
        for bytes in [0, 31, 33, 4096] {
            let key = RecordKey::new(&vec![0; bytes]);
            let record = ProviderRecord::new(key.clone(), local, Vec::new());
            assert!(store.add_provider(record).is_err());
            assert!(store.providers(&key).is_empty());
        }
        store.put(Record::new(key(0), vec![0; 100])).unwrap();
        assert!(store.get(&key(0)).is_none());
        assert_eq!(store.size(), (0, 0));
    }
}
