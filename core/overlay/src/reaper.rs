//! Deletes what was removed: by itself after a while, or when Cleanup asks for it.
//!
//! A removed snapshot is a row in the store until its directory is gone, so neither a crash nor a directory that
//! cannot be deleted is forgotten.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pontoon_metastore::{Removed, SnapshotId};
use pontoon_snapshot::Result;

use crate::engine::Core;

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
}

#[derive(Debug, Default)]
struct Agenda {
    /// When the first and the last removal since the last sweep were.
    removals: Option<(Instant, Instant)>,
    /// When to try again what failed.
    retry: Option<Instant>,
    /// Whether the last run left something to delete.
    overdue: bool,
    /// Entries of `snapshots/` that no record knows.
    orphans: Vec<String>,
    stopped: bool,
}

impl Agenda {
    fn due(&self) -> Option<Instant> {
        let removals = self
            .removals
            .map(|(first, last)| (last + QUIET).min(first + PATIENCE));
        removals.into_iter().chain(self.retry).min()
    }

    fn retry_later(&mut self) {
        self.retry = Some(Instant::now() + RETRY);
    }

    fn note(&mut self) {
        let now = Instant::now();
        let first = self.removals.map_or(now, |(first, _)| first);
        self.removals = Some((first, now));
    }
}

impl Reaper {
    /// A reaper that begins with what the last run left: `orphans`, and removed snapshots if `removed`.
    pub(crate) fn new(orphans: Vec<String>, removed: bool) -> Self {
        let agenda = Agenda {
            overdue: removed || !orphans.is_empty(),
            orphans,
            ..Agenda::default()
        };
        Reaper {
            agenda: Mutex::new(agenda),
            changed: Condvar::new(),
            sweeping: Mutex::new(()),
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
        agenda.orphans.push(id.to_string());
        agenda.note();
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Sweeps whenever it is due, until it is stopped.
    pub(crate) fn run(&self, core: &Core) {
        while self.wait_until_due() {
            if let Err(error) = self.sweep(core) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot delete removed snapshots; trying again later"
                );
                self.lock().retry_later();
            }
        }
    }

    /// Whether there is something to do; else it was stopped.
    fn wait_until_due(&self) -> bool {
        let mut agenda = self.lock();
        loop {
            if agenda.stopped {
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
            if let Err(error) = core.root.remove_entry(&orphan) {
                warn_kept(&orphan, &error);
                let mut agenda = self.lock();
                agenda.orphans.push(orphan);
                agenda.retry_later();
            }
        }
        let removed = core.store.removed()?;
        for batch in removed.chunks(BATCH) {
            let deleted: Vec<SnapshotId> = batch
                .iter()
                .filter(|removed| self.try_delete(core, removed))
                .map(|removed| removed.id)
                .collect();
            core.store.forget_removed(&deleted)?;
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
            self.lock().retry_later();
        }
    }

    fn try_delete(&self, core: &Core, removed: &Removed) -> bool {
        let released = match &removed.layer {
            Some(layer) => core.provider.release(removed.id, layer),
            None => Ok(()),
        };
        let deleted = match &released {
            Ok(()) => core
                .root
                .remove(removed.id)
                .map_err(|error| warn_kept(&removed.id.to_string(), &error))
                .is_ok(),
            Err(error) => {
                tracing::warn!(id = %removed.id, error = error as &dyn std::error::Error, "a removed layer is still in use; trying again later");
                false
            }
        };
        if !deleted {
            self.lock().retry_later();
        }
        deleted
    }

    fn lock(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warn_kept(name: &str, error: &std::io::Error) {
    tracing::warn!(
        directory = name,
        error = error as &dyn std::error::Error,
        "cannot delete the directory of a removed snapshot; trying again later"
    );
}
