//! The one thread of a cache: makes durable what was put, evicts, deletes what was thrown away.

use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cache::Shared;
use crate::disk::is_full;
use crate::layer::CachedLayer;
use crate::slot::{DATA, META, READY, lock};
use crate::{Error, Result};

/// What was put is durable after this long, on a disk that keeps up. On one that does not, the thread waits four times
/// as long as the last flush took, so that the cache never takes most of a disk's syncs.
pub const FLUSH_DELAY: Duration = Duration::from_secs(1);

/// The longest wait between two flushes.
const FLUSH_DELAY_MAX: Duration = Duration::from_secs(30);

/// How often space and accesses are looked at when nothing happens.
const TICK: Duration = Duration::from_secs(10);

/// An access is written down when it is this much after the last one that was, in milliseconds.
const ACCESS_STEP: u64 = 600_000;

/// Evictions come not closer together than this, so that one that has nothing to evict costs little.
const RELIEF_STEP: Duration = Duration::from_millis(200);

/// What the thread has to do.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    items: Mutex<Items>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Items {
    /// Layers with something pending, and since when there are any.
    layers: Vec<Arc<CachedLayer>>,
    since: Option<Instant>,
    relieve: bool,
    stop: bool,
}

/// When the thread may do things again.
#[derive(Debug)]
struct Schedule {
    tick: Instant,
    flush: Instant,
    relieve: Instant,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Stop,
    Flush,
    Relieve,
    Tick,
}

impl Agenda {
    fn add(&self, layer: Arc<CachedLayer>) {
        let mut items = lock(&self.items);
        if items.stop {
            // Nobody comes for it any more.
            return;
        }
        items.layers.push(layer);
        if items.since.is_none() {
            items.since = Some(Instant::now());
            self.changed.notify_all();
        }
    }

    /// Something should be evicted.
    pub(crate) fn relieve(&self) {
        lock(&self.items).relieve = true;
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        lock(&self.items).stop = true;
        self.changed.notify_all();
    }

    fn take_layers(&self) -> Vec<Arc<CachedLayer>> {
        let mut items = lock(&self.items);
        items.since = None;
        mem::take(&mut items.layers)
    }

    fn wait(&self, schedule: &Schedule) -> Due {
        let mut items = lock(&self.items);
        loop {
            if items.stop {
                return Due::Stop;
            }
            let flush = items
                .since
                .map(|since| (since + FLUSH_DELAY).max(schedule.flush));
            let relieve = items.relieve.then_some(schedule.relieve);
            let due = [
                relieve.map(|at| (at, Due::Relieve)),
                flush.map(|at| (at, Due::Flush)),
                Some((schedule.tick, Due::Tick)),
            ];
            let next = due.into_iter().flatten().min_by_key(|(at, _)| *at);
            let (at, due) = next.unwrap_or((schedule.tick, Due::Tick));
            let now = Instant::now();
            if at <= now {
                items.relieve &= due != Due::Relieve;
                return due;
            }
            let waited = self.changed.wait_timeout(items, at - now);
            items = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Starts the thread, which first deletes `discarded`.
pub(crate) fn start(shared: Arc<Shared>, discarded: Vec<PathBuf>) -> io::Result<JoinHandle<()>> {
    let run = move || {
        for path in discarded {
            if shared.is_closed() {
                break;
            }
            shared.discard(&path);
        }
        run(&shared);
    };
    thread::Builder::new()
        .name("pontoon-cache".to_owned())
        .spawn(run)
}

fn run(shared: &Arc<Shared>) {
    let now = Instant::now();
    let mut schedule = Schedule {
        tick: now + TICK,
        flush: now,
        relieve: now,
    };
    loop {
        let due = shared.agenda.wait(&schedule);
        match due {
            Due::Relieve => {
                shared.relieve();
                schedule.relieve = Instant::now() + RELIEF_STEP;
            }
            Due::Flush | Due::Stop => {
                let start = Instant::now();
                let flushed = shared.flush();
                let end = Instant::now();
                let pause = ((end - start) * 4).min(FLUSH_DELAY_MAX);
                schedule.flush = end + pause;
                if let Err(error) = flushed {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cached chunks are not durable; those that were lost are fetched again"
                    );
                    schedule.flush = end + FLUSH_DELAY_MAX;
                }
            }
            Due::Tick => {
                shared.look_at_space();
                shared.look_again();
                shared.note_accesses(ACCESS_STEP);
                schedule.tick = Instant::now() + TICK;
            }
        }
        if due == Due::Stop {
            shared.note_accesses(0);
            return;
        }
    }
}

impl Shared {
    /// Puts a layer with something pending on the list.
    pub(crate) fn list(&self, layer: Arc<CachedLayer>) {
        self.agenda.add(layer);
    }

    /// Makes durable what is pending. The last error, if there was one.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut outcome = Ok(());
        for layer in self.agenda.take_layers() {
            if let Err(error) = self.flush_layer(layer) {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Data and fdatasync, then bits and fdatasync.
    fn flush_layer(&self, layer: Arc<CachedLayer>) -> Result<()> {
        let slot = layer.slot.clone();
        let _durable = lock(&slot.durable);
        // Dropped before the lock is: see `State::has_users`.
        let layer = layer;
        let (set, clear) = {
            let mut pending = lock(&layer.pending);
            pending.listed = false;
            (mem::take(&mut pending.set), mem::take(&mut pending.clear))
        };
        let Some(data) = layer.data() else {
            return Ok(());
        };
        if !clear.is_empty()
            && let Err(error) = self.write_bits(&layer, &[], &clear)
        {
            self.try_again(&layer, set, clear);
            return Err(Error::io("writing", &slot.path(READY), error));
        }
        if set.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.sync(&data) {
            layer.forget(set);
            return Err(Error::io("syncing", &slot.path(DATA), error));
        }
        layer.measure(&data);
        if let Err(error) = self.write_bits(&layer, &set, &[]) {
            self.try_again(&layer, set, Vec::new());
            return Err(Error::io("writing", &slot.path(READY), error));
        }
        Ok(())
    }

    fn sync(&self, data: &std::fs::File) -> io::Result<()> {
        self.counters.syncs.add(1);
        self.disk.sync_data(data).inspect_err(|error| {
            self.counters.failed_syncs.add(1);
            if is_full(error) {
                self.note_full(error);
            }
        })
    }

    fn write_bits(&self, layer: &CachedLayer, set: &[usize], clear: &[usize]) -> io::Result<()> {
        let mut ready = lock(&layer.ready);
        clear.iter().for_each(|index| ready.clear(*index));
        set.iter().for_each(|index| ready.set(*index));
        if !ready.is_dirty() {
            return Ok(());
        }
        let file = self.disk.open(&layer.slot.path(READY))?;
        self.counters.syncs.add(1);
        ready.write(&*self.disk, &file).inspect_err(|error| {
            self.counters.failed_syncs.add(1);
            if is_full(error) {
                self.note_full(error);
            }
        })
    }

    /// The data is synced, or was before; only the bits are to be written again.
    fn try_again(&self, layer: &CachedLayer, set: Vec<usize>, clear: Vec<usize>) {
        let mut pending = lock(&layer.pending);
        // What became pending meanwhile comes after.
        let later = mem::replace(&mut pending.clear, clear);
        pending.clear.extend(later);
        pending.set.extend(set);
        layer.list(&mut pending);
    }

    /// Writes down the accesses that are more than `step` milliseconds after those that are.
    fn note_accesses(&self, step: u64) {
        for slot in self.slots() {
            if let Some(accessed) = slot.access_to_note(step)
                && let Err(error) = self.disk.touch(&slot.path(META), accessed)
            {
                // It only decides what is evicted first.
                tracing::debug!(layer = %slot.key, %error, "cannot write the access of a layer down");
            }
        }
    }
}
