//! What the task that drives libp2p, connections that are being made, and callers share.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU16, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::contact::Contacts;
use super::door::Strangers;
use super::hello::Hello;
use super::store::StoreKey;
use crate::admission::Token;
use crate::{PeerId, Refused};

/// How many layers wait for the task to take notice.
const CHANGES_MAX: usize = 65_536;

/// How many of its own addresses a node knows not to dial.
const MYSELF_MAX: usize = 64;

/// How often, at most, a refusal is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) dialled: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) refused_us: AtomicU64,
    pub(super) too_many: AtomicU64,
    pub(super) records_refused: AtomicU64,
    pub(super) lookups: AtomicU64,
    pub(super) lookups_busy: AtomicU64,
    pub(super) lookups_found: AtomicU64,
    pub(super) announced: AtomicU64,
}

/// What the task last saw.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gauges {
    pub(super) connected: usize,
    pub(super) table: usize,
    pub(super) keys: usize,
    pub(super) records: usize,
    pub(super) announced: usize,
    pub(super) lookups: usize,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) counts: Counts,
    /// What the task is to do besides what it is asked: [`Shared::changes`].
    pub(super) wake: Notify,
    port: AtomicU16,
    https_port: u16,
    address: Option<IpAddr>,
    contacts: Mutex<Contacts>,
    strangers: Strangers,
    changes: Mutex<HashMap<StoreKey, bool>>,
    myself: Mutex<HashSet<SocketAddr>>,
    gauges: Mutex<Gauges>,
    logged_refused: Mutex<Option<Instant>>,
    logged_refused_us: Mutex<Option<Instant>>,
}

/// Nothing is left half done in what is locked here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever is refused can try again as often as it likes: the log shall not show.
fn may_log(logged: &Mutex<Option<Instant>>) -> bool {
    let mut logged = lock(logged);
    let may = logged.is_none_or(|at| at.elapsed() >= LOG_EVERY);
    if may {
        *logged = Some(Instant::now());
    }
    may
}

impl Shared {
    pub(super) fn new(https_port: u16, address: Option<IpAddr>) -> Shared {
        Shared {
            counts: Counts::default(),
            wake: Notify::new(),
            port: AtomicU16::new(0),
            https_port,
            address,
            contacts: Mutex::default(),
            strangers: Strangers::default(),
            changes: Mutex::default(),
            myself: Mutex::default(),
            gauges: Mutex::default(),
            logged_refused: Mutex::default(),
            logged_refused_us: Mutex::default(),
        }
    }

    pub(super) fn contacts(&self) -> MutexGuard<'_, Contacts> {
        lock(&self.contacts)
    }

    pub(super) fn gauges(&self) -> MutexGuard<'_, Gauges> {
        lock(&self.gauges)
    }

    /// Where libp2p listens.
    pub(super) fn listens(&self, port: u16) {
        self.port.store(port, Relaxed);
    }

    pub(super) fn port(&self) -> u16 {
        self.port.load(Relaxed)
    }

    /// What this node tells of itself.
    pub(super) fn hello(&self, token: Option<Token>) -> Hello {
        Hello {
            port: self.port(),
            https_port: self.https_port,
            address: self.address,
            token,
        }
    }

    /// Room for somebody who has not been admitted yet, until that is dropped.
    pub(super) fn stranger(self: &Arc<Self>, from: IpAddr) -> Option<Stranger> {
        if !self.strangers.enter(from) {
            self.counts.too_many.fetch_add(1, Relaxed);
            return None;
        }
        Some(Stranger {
            shared: Arc::clone(self),
            from,
        })
    }

    /// We refuse a peer.
    pub(super) fn refused(&self, peer: PeerId, address: IpAddr, why: Refused) {
        self.counts.refused.fetch_add(1, Relaxed);
        if may_log(&self.logged_refused) {
            tracing::info!(%peer, %address, "a peer is refused: {why}");
        }
    }

    /// A peer refuses us.
    pub(super) fn refused_us(&self, peer: PeerId, address: IpAddr, why: Refused) {
        self.counts.refused_us.fetch_add(1, Relaxed);
        if may_log(&self.logged_refused_us) {
            tracing::warn!(%peer, %address, "a peer refuses this node: {why}");
        }
    }

    /// That address is ours.
    pub(super) fn found_myself(&self, address: SocketAddr) {
        let mut myself = lock(&self.myself);
        if myself.len() < MYSELF_MAX {
            myself.insert(address);
        }
    }

    pub(super) fn is_myself(&self, address: SocketAddr) -> bool {
        lock(&self.myself).contains(&address)
    }

    /// Has the task announce the layer, or withdraw it. The last word counts.
    pub(super) fn change(&self, key: StoreKey, wanted: bool) {
        let mut changes = lock(&self.changes);
        if changes.len() >= CHANGES_MAX && !changes.contains_key(&key) {
            return;
        }
        changes.insert(key, wanted);
        drop(changes);
        self.wake.notify_one();
    }

    /// What was asked for since the last call.
    pub(super) fn changes(&self) -> HashMap<StoreKey, bool> {
        std::mem::take(&mut lock(&self.changes))
    }
}

/// Somebody who has not been admitted yet.
pub(super) struct Stranger {
    shared: Arc<Shared>,
    from: IpAddr,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.shared.strangers.leave(self.from);
    }
}
