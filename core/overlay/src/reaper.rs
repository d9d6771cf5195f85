//! Deletes what was removed: by itself after a while, or when Cleanup asks for it.
//!
//! A removed snapshot is a row in the store until its directory is gone, so neither a crash nor a directory that
//! cannot be deleted is forgotten.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pontoon_metastore::{Removed, SnapshotId};
use pontoon_snapshot::{Error, Result};

use crate::engine::Core;
use crate::tree::Cancel;

/// Deletion begins when nothing was removed for this long: callers that do call Cleanup have then done so.
const QUIET: Duration = Duration::from_secs(10);

/// Deletion begins at the latest this long after the first removal.
const PATIENCE: Duration = Duration::from_secs(60);

/// What could not be deleted is tried again after this long, or when Cleanup is called.
const RETRY: Duration = Duration::from_secs(300);

/// How many deletions are recorded in one transaction.
const BATCH: usize = 128;

#[derive(Debug)]
pub(crate) struct Reaper {
    agenda: Mutex<Agenda>,
    changed: Condvar,
    /// One deletion at a time.
    sweeping: Mutex<()>,
    stopped: Cancel,
}

#[derive(Debug, Default)]
struct Agenda {
    /// When the first and the last removal since the last sweep were.
    removals: Option<(Instant, Instant)>,
    /// When to try again what failed.
    retry: Option<Instant>,
    /// Whether the last run left something to delete.
    overdue: bool,
    /// Directories that no record knows.
    orphans: Vec<SnapshotId>,
}

impl Agenda {
    fn due(&self) -> Option<Instant> {
        let removals = self
            .removals
            .map(|(first, last)| (last + QUIET).min(first + PATIENCE));
        removals.into_iter().chain(self.retry).min()
    }

    fn note(&mut self) {
        let now = Instant::now();
        let first = self.removals.map_or(now, |(first, _)| first);
        self.removals = Some((first, now));
    }
}

impl Reaper {
    /// A reaper that begins with what the last run left: `orphans`, and removed snapshots if `removed`.
    pub(crate) fn new(orphans: Vec<SnapshotId>, removed: bool) -> Self {
        let agenda = Agenda {
            overdue: removed || !orphans.is_empty(),
            orphans,
            ..Agenda::default()
        };
        Reaper {
            agenda: Mutex::new(agenda),
            changed: Condvar::new(),
            sweeping: Mutex::new(()),
            stopped: Cancel::default(),
        }
    }

    /// A snapshot was removed.
    pub(crate) fn removed(&self) {
        self.lock().note();
        self.changed.notify_all();
    }

    /// The directory of `id` has no record and could not be deleted.
    pub(crate) fn abandoned(&self, id: SnapshotId) {
        let mut agenda = self.lock();
        agenda.orphans.push(id);
        agenda.note();
        self.changed.notify_all();
    }

    /// Ends [`Reaper::run`] and whatever is being deleted.
    pub(crate) fn stop(&self) {
        let _agenda = self.lock();
        self.stopped.set();
        self.changed.notify_all();
    }

    /// Sweeps whenever it is due, until it is stopped.
    pub(crate) fn run(&self, core: &Core) {
        while self.wait_until_due() {
            if let Err(error) = self.sweep(core)
                && !self.stopped.is_set()
            {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot delete removed snapshots; trying again later"
                );
                self.retry_later();
            }
        }
    }

    /// Whether there is something to do; else it was stopped.
    fn wait_until_due(&self) -> bool {
        let mut agenda = self.lock();
        loop {
            if self.stopped.is_set() {
                return false;
            }
            if agenda.overdue {
                return true;
            }
            agenda = match agenda.due() {
                None => self
                    .changed
                    .wait(agenda)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(due) => {
                    let now = Instant::now();
                    if due <= now {
                        return true;
                    }
                    let waited = self.changed.wait_timeout(agenda, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Deletes everything that was removed before the call. What cannot be deleted is logged, kept and tried again
    /// later.
    pub(crate) fn sweep(&self, core: &Core) -> Result<()> {
        let _one_at_a_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let orphans = {
            let mut agenda = self.lock();
            agenda.overdue = false;
            agenda.removals = None;
            agenda.retry = None;
            mem::take(&mut agenda.orphans)
        };
        for orphan in orphans {
            if !self.try_delete_directory(core, orphan) {
                self.lock().orphans.push(orphan);
            }
        }
        let removed = core.store.removed()?;
        for batch in removed.chunks(BATCH) {
            let deleted: Vec<SnapshotId> = batch
                .iter()
                .filter(|removed| self.try_delete(core, removed))
                .map(|removed| removed.id)
                .collect();
            if !deleted.is_empty() {
                core.store.forget_removed(&deleted)?;
            }
        }
        if self.stopped.is_set() {
            return Err(Error::Unavailable {
                operation: "deleting removed snapshots".to_owned(),
                reason: "the daemon is stopping; the next one deletes the rest".to_owned(),
            });
        }
        Ok(())
    }

    /// Deletes one removed snapshot now. As in [`Reaper::sweep`], a failure is not the caller's.
    pub(crate) fn delete(&self, core: &Core, removed: &Removed) {
        let _one_at_a_time = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.try_delete(core, removed) {
            return;
        }
        if let Err(error) = core.store.forget_removed(&[removed.id]) {
            tracing::warn!(id = %removed.id, error = &error as &dyn std::error::Error, "a deleted snapshot stays on the list of those to delete");
            self.retry_later();
        }
    }

    /// Whether the directory of a removed snapshot is gone now, and its layer released.
    fn try_delete(&self, core: &Core, removed: &Removed) -> bool {
        if self.stopped.is_set() {
            return false;
        }
        if let Some(layer) = &removed.layer
            && let Err(error) = core.provider.release(removed.id, layer)
        {
            tracing::warn!(id = %removed.id, error = &error as &dyn std::error::Error, "a removed layer is not released; trying again later");
            self.retry_later();
            return false;
        }
        self.try_delete_directory(core, removed.id)
    }

    fn try_delete_directory(&self, core: &Core, id: SnapshotId) -> bool {
        match core.root.remove_unless(id, &self.stopped) {
            Ok(()) => true,
            Err(_) if self.stopped.is_set() => false,
            Err(error) => {
                tracing::warn!(%id, error = &error as &dyn std::error::Error, "the directory of a removed snapshot is not deleted; trying again later");
                self.retry_later();
                false
            }
        }
    }

    fn retry_later(&self) {
        self.lock().retry = Some(Instant::now() + RETRY);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
