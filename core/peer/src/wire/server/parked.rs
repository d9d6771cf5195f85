//! Questions that wait for something to change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::PeerId;
use crate::wire::Limits;

use super::guests::{enter, leave};

/// How many wait, within their limits. What is beyond is answered at once.
#[derive(Debug)]
pub(super) struct Parked {
    limits: Limits,
    counts: Mutex<(usize, HashMap<PeerId, usize>)>,
}

/// A question that waits.
#[derive(Debug)]
pub(super) struct Place {
    parked: Arc<Parked>,
    peer: PeerId,
}

impl Parked {
    pub(super) fn new(limits: &Limits) -> Arc<Parked> {
        Arc::new(Parked {
            limits: limits.clone(),
            counts: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, (usize, HashMap<PeerId, usize>)> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a question of `peer`, if there is one.
    pub(super) fn park(self: &Arc<Self>, peer: PeerId) -> Option<Place> {
        let mut counts = self.lock();
        if counts.0 >= self.limits.parked {
            return None;
        }
        enter(&mut counts.1, peer, self.limits.peer_parked)?;
        counts.0 += 1;
        Some(Place {
            parked: Arc::clone(self),
            peer,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.parked.lock();
        counts.0 -= 1;
        leave(&mut counts.1, self.peer);
    }
}
