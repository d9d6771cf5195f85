//! Whether it is worth while to wait for what another node is about to fetch. Pure, but for the counting.
//!
//! Nodes that start the same program want the same bytes at the same time: then waiting for the one that fetches them spares the registry,
//! and takes no longer. Nodes that do different things with an image wait in vain. Which it is shows soon, so whoever has waited with
//! success waits longer the next time, and whoever has in vain shorter.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// So many times what the policy says is waited, at first and at most. At least it is once.
const FIRST: u32 = 4;
const MOST: u32 = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Trust(AtomicU32);

impl Default for Trust {
    fn default() -> Self {
        Trust(AtomicU32::new(FIRST))
    }
}

impl Trust {
    /// How long is waited where the policy says `hold`.
    pub(crate) fn stretch(&self, hold: Duration) -> Duration {
        hold.saturating_mul(self.0.load(Ordering::Relaxed))
    }

    /// What was waited for came.
    pub(crate) fn was_right(&self) {
        self.change(|times| (times * 2).min(MOST));
    }

    /// It did not.
    pub(crate) fn was_in_vain(&self) {
        self.change(|times| (times / 2).max(1));
    }

    fn change(&self, change: impl Fn(u32) -> u32) {
        // Two that change it at once may count once: it is an estimate.
        let times = self.0.load(Ordering::Relaxed);
        self.0.store(change(times), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_follows_success() {
        let trust = Trust::default();
        let hold = Duration::from_millis(100);
        assert_eq!(trust.stretch(hold), hold * FIRST);
        (0..9).for_each(|_| trust.was_right());
        assert_eq!(trust.stretch(hold), hold * MOST);
        (0..9).for_each(|_| trust.was_in_vain());
        assert_eq!(trust.stretch(hold), hold);
        assert_eq!(trust.stretch(Duration::ZERO), Duration::ZERO);
    }
}
