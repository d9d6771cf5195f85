//! Measures committed snapshots in the background, so that Commit need not and Usage need only look it up.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pontoon_metastore::SnapshotId;
use pontoon_snapshot::Usage;

use crate::engine::{Core, survive};
use crate::tree::{self, Cancel};

/// At most one transaction in this time.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Measurer {
    work: Mutex<Work>,
    changed: Condvar,
    cancel: Cancel,
}

#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<SnapshotId>,
    measured: Vec<(SnapshotId, Usage)>,
    stopped: bool,
}

enum Step {
    Measure(SnapshotId),
    Store(Vec<(SnapshotId, Usage)>),
    End(Vec<(SnapshotId, Usage)>),
}

impl Measurer {
    /// A measurer that begins with what the last run left.
    pub(crate) fn new(unmeasured: Vec<SnapshotId>) -> Self {
        Measurer {
            work: Mutex::new(Work {
                waiting: unmeasured.into(),
                ..Work::default()
            }),
            changed: Condvar::new(),
            cancel: Cancel::default(),
        }
    }

    /// A snapshot was committed that has not been measured.
    pub(crate) fn committed(&self, id: SnapshotId) {
        self.lock().waiting.push_back(id);
        self.changed.notify_all();
    }

    /// Somebody could not wait and has measured a committed snapshot.
    pub(crate) fn found(&self, id: SnapshotId, usage: Usage) {
        self.lock().measured.push((id, usage));
        self.changed.notify_all();
    }

    /// Ends [`Measurer::run`]; what was measured is still stored.
    pub(crate) fn stop(&self) {
        self.cancel.set();
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Measures and stores until it is stopped.
    pub(crate) fn run(&self, core: &Core) {
        let mut stored = None;
        loop {
            match self.next(stored) {
                Step::Measure(id) => {
                    survive("a measurement", || self.measure(core, id));
                }
                Step::Store(usages) => {
                    survive("storing measurements", || store(core, &usages));
                    stored = Some(Instant::now());
                }
                Step::End(usages) => {
                    store(core, &usages);
                    return;
                }
            }
        }
    }

    fn next(&self, stored: Option<Instant>) -> Step {
        let mut work = self.lock();
        loop {
            if work.stopped {
                return Step::End(std::mem::take(&mut work.measured));
            }
            let now = Instant::now();
            let wait = stored.map_or(Duration::ZERO, |at| {
                (at + INTERVAL).saturating_duration_since(now)
            });
            let may_store = !work.measured.is_empty() && wait.is_zero();
            if may_store && (work.waiting.is_empty() || stored.is_some()) {
                return Step::Store(std::mem::take(&mut work.measured));
            }
            if let Some(id) = work.waiting.pop_front() {
                return Step::Measure(id);
            }
            work = if work.measured.is_empty() {
                let waited = self.changed.wait(work);
                waited.unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = self.changed.wait_timeout(work, wait);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    fn measure(&self, core: &Core, id: SnapshotId) {
        match tree::usage(Path::new(&core.root.upper(id)), &self.cancel) {
            Ok(usage) => self.lock().measured.push((id, usage)),
            // Removed meanwhile, or Usage measures it and answers the error.
            Err(error) => {
                tracing::debug!(%id, error = &error as &dyn std::error::Error, "a committed snapshot was not measured");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is not stored is measured again when it is asked for or at the next start.
fn store(core: &Core, usages: &[(SnapshotId, Usage)]) {
    if !usages.is_empty()
        && let Err(error) = core.store.put_usages(usages)
    {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the usage of committed snapshots was not stored"
        );
    }
}
