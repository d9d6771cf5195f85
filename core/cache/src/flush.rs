//! The one thread of a cache: makes durable what was put, evicts, deletes what was thrown away.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// How long the thread does nothing after it panicked: what it was at will come again.
const PANIC_PAUSE: Duration = Duration::from_secs(5);

/// What the thread has to do.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    items: Mutex<Items>,
    changed: Condvar,
    /// Held over a whole flush, so that one that begins when another has taken everything ends after that.
    flushing: Mutex<()>,
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

    fn take_layers(&self) -> Taken<'_> {
        let mut items = lock(&self.items);
        items.since = None;
        Taken {
            agenda: self,
            layers: mem::take(&mut items.layers).into(),
        }
    }

    fn is_stopped(&self) -> bool {
        lock(&self.items).stop
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

/// Layers that are taken off the list. Those that are not flushed come back to it: they believe to be listed.
struct Taken<'a> {
    agenda: &'a Agenda,
    layers: VecDeque<Arc<CachedLayer>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.layers
            .drain(..)
            .for_each(|layer| self.agenda.add(layer));
    }
}

/// What is taken out of a layer's pending list. It comes back if a panic ends its flush.
struct Unwritten<'a> {
    layer: &'a CachedLayer,
    set: Vec<usize>,
    clear: Vec<usize>,
}

impl Unwritten<'_> {
    /// The data is synced, or will be by the next flush; the bits are to be written again.
    fn try_again(&mut self) {
        let mut pending = lock(&self.layer.pending);
        // What became pending meanwhile comes after.
        let later = mem::replace(&mut pending.clear, mem::take(&mut self.clear));
        pending.clear.extend(later);
        pending.set.append(&mut self.set);
        self.layer.list(&mut pending);
    }
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.try_again();
        }
    }
}

/// Starts the thread, which first deletes `discarded`.
pub(crate) fn start(shared: Arc<Shared>, discarded: Vec<PathBuf>) -> io::Result<JoinHandle<()>> {
    let run = move || {
        let mut discarded = discarded.into_iter();
        let (mut pause, mut stopped) = (Duration::ZERO, false);
        loop {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                // What made it panic is not tried again by this process.
                while !shared.is_closed()
                    && let Some(path) = discarded.next()
                {
                    shared.discard(&path);
                }
                run(&shared, pause);
            }));
            if outcome.is_ok() {
                return;
            }
            // Without it nothing would become durable or be evicted, and nobody would know.
            shared.counters.thread_panics.add(1);
            tracing::error!(
                dir = %shared.dir.display(),
                "the thread of the cache has panicked, which is a bug; it goes on, and chunks that were lost are fetched again"
            );
            // One more try for what was put since, and no more.
            if mem::replace(&mut stopped, shared.agenda.is_stopped()) {
                return;
            }
            pause = PANIC_PAUSE;
        }
    };
    thread::Builder::new()
        .name("pontoon-cache".to_owned())
        .spawn(run)
}

/// Does what is due until the cache is dropped, but nothing before `pause` is over.
fn run(shared: &Arc<Shared>, pause: Duration) {
    let start = Instant::now() + pause;
    let mut schedule = Schedule {
        tick: start + TICK,
        flush: start,
        relieve: start,
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
        let _one_at_a_time = lock(&self.agenda.flushing);
        let mut outcome = Ok(());
        let mut taken = self.agenda.take_layers();
        while let Some(layer) = taken.layers.pop_front() {
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
        let mut unwritten = {
            let mut pending = lock(&layer.pending);
            pending.listed = false;
            Unwritten {
                layer: &layer,
                set: mem::take(&mut pending.set),
                clear: mem::take(&mut pending.clear),
            }
        };
        let Some(data) = layer.data() else {
            return Ok(());
        };
        let is_dirty = lock(&layer.ready).is_dirty();
        if (is_dirty || !unwritten.clear.is_empty())
            && let Err(error) = self.write_bits(&layer, &[], &unwritten.clear)
        {
            unwritten.try_again();
            return Err(Error::io("writing", &slot.path(READY), error));
        }
        unwritten.clear.clear();
        if unwritten.set.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.sync(&data) {
            layer.forget(mem::take(&mut unwritten.set));
            return Err(Error::io("syncing", &slot.path(DATA), error));
        }
        layer.measure(&data);
        if let Err(error) = self.write_bits(&layer, &unwritten.set, &[]) {
            unwritten.try_again();
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
