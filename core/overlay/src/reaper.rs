//! Deletes what was removed: by itself after a while, or when Cleanup asks for it.
//!
//! A removed snapshot is a row in the store until its directory is gone, so neither a crash nor a directory that
//! cannot be deleted is forgotten.

use std::collections::BTreeSet;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pontoon_metastore::{Removed, SnapshotId};
use pontoon_snapshot::{Error, Result};

use crate::engine::{Core, survive};
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
    /// One sweep at a time, so that Cleanup also waits for what another one deletes.
    sweeping: Mutex<()>,
    /// What is being deleted, by a sweep or alone.
    deleting: Mutex<BTreeSet<SnapshotId>>,
    deleted: Condvar,
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
    /// Directories that no record knows, and the layers of those that a layer provider brought.
    orphans: Vec<Removed>,
}

impl Agenda {
    fn due(&self) -> Option<Instant> {
        let removals = self
            .removals
            .map(|(first, last)| (last + QUIET).min(first + PATIENCE));
        removals.into_iter().chain(self.retry).min()
    }

    /// Notes a removal. Whether it is the first one: later ones only put off when deletion is due, which is seen then.
    fn note(&mut self) -> bool {
        let now = Instant::now();
        let first = self.removals.map(|(first, _)| first);
        self.removals = Some((first.unwrap_or(now), now));
        first.is_none()
    }
}

impl Reaper {
    /// A reaper that begins with what the last run left: `orphans`, and removed snapshots if `removed`.
    pub(crate) fn new(orphans: Vec<SnapshotId>, removed: bool) -> Self {
        let orphans = orphans.into_iter().map(|id| Removed { id, layer: None });
        let orphans: Vec<Removed> = orphans.collect();
        let agenda = Agenda {
            overdue: removed || !orphans.is_empty(),
            orphans,
            ..Agenda::default()
        };
        Reaper {
            agenda: Mutex::new(agenda),
            changed: Condvar::new(),
            sweeping: Mutex::new(()),
            deleting: Mutex::default(),
            deleted: Condvar::new(),
            stopped: Cancel::default(),
        }
    }

    /// A snapshot was removed.
    pub(crate) fn removed(&self) {
        if self.lock().note() {
            self.changed.notify_all();
        }
    }

    /// The directory of `orphan` has no record and is not deleted yet, or nobody knows whether it has one.
    pub(crate) fn abandoned(&self, orphan: Removed) {
        let mut agenda = self.lock();
        agenda.orphans.push(orphan);
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
            match survive("a deletion of removed snapshots", || self.sweep(core)) {
                Some(Ok(())) => {}
                Some(Err(_)) if self.stopped.is_set() => {}
                Some(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot delete removed snapshots; trying again later"
                    );
                    self.retry_later();
                }
                None => self.retry_later(),
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
            if !self.try_delete_orphan(core, &orphan) {
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

    /// Deletes one removed snapshot now, without waiting for a sweep of others. As in [`Reaper::sweep`], a failure is
    /// not the caller's.
    pub(crate) fn delete(&self, core: &Core, removed: &Removed) {
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
        let _alone = self.claim(removed.id);
        if self.stopped.is_set() {
            return false;
        }
        let deleted = survive("the deletion of a removed snapshot", || {
            self.release_and_delete(core, removed)
        });
        deleted.unwrap_or_else(|| {
            self.retry_later();
            false
        })
    }

    fn release_and_delete(&self, core: &Core, removed: &Removed) -> bool {
        if let Some(layer) = &removed.layer
            && let Err(error) = core.provider.release(removed.id, layer)
        {
            tracing::warn!(id = %removed.id, error = &error as &dyn std::error::Error, "a removed layer is not released; trying again later");
            self.retry_later();
            return false;
        }
        self.try_delete_directory(core, removed.id)
    }

    /// Whether the directory is gone now and its layer released, or it has a record after all.
    fn try_delete_orphan(&self, core: &Core, orphan: &Removed) -> bool {
        let id = orphan.id;
        match core.store.contains(id) {
            Ok(true) => true,
            Ok(false) => self.try_delete(core, orphan),
            Err(error) => {
                tracing::warn!(%id, error = &error as &dyn std::error::Error, "nobody knows whether a directory is a snapshot's; asking again later");
                self.retry_later();
                false
            }
        }
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

    /// Waits until nobody else deletes `id`.
    fn claim(&self, id: SnapshotId) -> Claim<'_> {
        let mut deleting = self.deleting();
        while !deleting.insert(id) {
            let waited = self.deleted.wait(deleting);
            deleting = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Claim { reaper: self, id }
    }

    fn deleting(&self) -> MutexGuard<'_, BTreeSet<SnapshotId>> {
        self.deleting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retry_later(&self) {
        self.lock().retry = Some(Instant::now() + RETRY);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to delete one snapshot, until it is dropped.
struct Claim<'a> {
    reaper: &'a Reaper,
    id: SnapshotId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.reaper.deleting().remove(&self.id);
        self.reaper.deleted.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_removal_wakes_the_reaper() {
        let mut agenda = Agenda::default();
        assert!(agenda.note());
        let due = agenda.due();
        assert!(!agenda.note());
        assert!(agenda.due() >= due);
    }
}
