//! Requests under way.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Ask;

/// A request under way.
#[derive(Debug)]
pub(super) struct Underway<P> {
    pub(super) ask: Ask<P>,
    pub(super) began: Instant,
    /// When the last chunk came.
    pub(super) progress: Instant,
    /// Since when somebody waits for it.
    pub(super) urgent_since: Option<Instant>,
    /// What was asked for.
    pub(super) bytes: u64,
    /// What came.
    pub(super) came: u64,
    /// What came from elsewhere meanwhile.
    pub(super) forgone: u64,
    /// What is still to come and wanted.
    pub(super) rest: BTreeSet<usize>,
    /// It was considered to ask another node.
    pub(super) is_hedged: bool,
    /// It was considered to ask the registry.
    pub(super) is_late: bool,
    /// The registry was asked.
    pub(super) is_given_over: bool,
}

impl<P> Underway<P> {
    /// Since when nothing has come, and somebody waits if somebody does.
    pub(super) fn silent_since(&self) -> Instant {
        let since = self.began.max(self.progress);
        self.urgent_since.map_or(since, |urgent| since.max(urgent))
    }
}
