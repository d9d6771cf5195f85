//! Who is connected.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::PeerId;
use crate::wire::Limits;

/// The connections that are open, within their limits.
#[derive(Debug)]
pub(super) struct Guests {
    limits: Limits,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    all: usize,
    strangers: HashMap<IpAddr, usize>,
    peers: HashMap<PeerId, usize>,
}

/// A connection of which nobody knows yet whose it is.
#[derive(Debug)]
pub(super) struct Stranger {
    guests: Arc<Guests>,
    from: IpAddr,
}

/// A connection of a node.
#[derive(Debug)]
pub(super) struct Seat {
    guests: Arc<Guests>,
    peer: PeerId,
}

impl Guests {
    pub(super) fn new(limits: &Limits) -> Arc<Guests> {
        Arc::new(Guests {
            limits: limits.clone(),
            present: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there are.
    pub(super) fn len(&self) -> usize {
        self.lock().all
    }

    /// A connection from this address, if there is room for it.
    pub(super) fn come(self: &Arc<Self>, from: IpAddr) -> Option<Stranger> {
        let mut present = self.lock();
        if present.all >= self.limits.connections {
            return None;
        }
        enter(&mut present.strangers, from, self.limits.strangers)?;
        present.all += 1;
        Some(Stranger {
            guests: Arc::clone(self),
            from,
        })
    }
}

impl Stranger {
    /// It is a connection of `peer`. None if that has too many.
    pub(super) fn introduce(self, peer: PeerId) -> Option<Seat> {
        let mut present = self.guests.lock();
        enter(
            &mut present.peers,
            peer,
            self.guests.limits.peer_connections,
        )?;
        // The stranger goes, and takes its place along.
        present.all += 1;
        drop(present);
        Some(Seat {
            guests: Arc::clone(&self.guests),
            peer,
        })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut present = self.guests.lock();
        present.all -= 1;
        leave(&mut present.strangers, self.from);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut present = self.guests.lock();
        present.all -= 1;
        leave(&mut present.peers, self.peer);
    }
}

/// One more of `who`, if that is not more than `most`.
pub(super) fn enter<T: Hash + Eq>(
    counts: &mut HashMap<T, usize>,
    who: T,
    most: usize,
) -> Option<()> {
    let count = counts.entry(who).or_default();
    (*count < most).then(|| *count += 1)
}

/// One less of `who`.
pub(super) fn leave<T: Hash + Eq>(counts: &mut HashMap<T, usize>, who: T) {
    if let Some(count) = counts.get_mut(&who) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&who);
        }
    }
}
