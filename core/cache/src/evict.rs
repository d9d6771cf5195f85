//! Space: quota, watermark, a full disk, and what is evicted for them.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::cache::{Config, Shared};
use crate::dir::open_file;
use crate::disk::Space;
use crate::ready;
use crate::slot::{DATA, READY, Slot, lock};
use crate::{Error, Key, Result, Stats};

/// A disk counts as full until it has this much free, or a twentieth of itself: room for the largest chunk.
const FULL_UNTIL: u64 = 64 << 20;

/// A failing disk is complained of once in this time, in milliseconds.
const COMPLAINT_STEP: u64 = 60_000;

/// After a write that failed nothing is fetched ahead for so long, in milliseconds: it would be thrown away.
const FAILURE_PAUSE: u64 = 10_000;

/// How tight the space is.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    over_quota: AtomicBool,
    low_space: AtomicBool,
    full: AtomicBool,
    /// Something has asked for an eviction.
    wanted: AtomicBool,
    complained: AtomicU64,
    /// When a write has failed last, in milliseconds since 1970.
    failed: AtomicU64,
    /// One eviction at a time, so that two do not free the same bytes twice.
    relieving: Mutex<()>,
}

/// A layer that could be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Candidate {
    index: usize,
    bytes: u64,
    accessed: u64,
}

/// Which candidates to evict, first the one that was not used for longest, until `need` bytes are free.
fn choose(mut candidates: Vec<Candidate>, need: u64) -> Vec<Candidate> {
    candidates.retain(|candidate| candidate.bytes > 0);
    candidates.sort_by_key(|candidate| (candidate.accessed, candidate.index));
    let mut freed = 0u64;
    candidates
        .into_iter()
        .take_while(|candidate| {
            let more = freed < need;
            freed = freed.saturating_add(candidate.bytes);
            more
        })
        .collect()
}

impl Config {
    /// Eviction begins above this.
    fn high(&self) -> u64 {
        self.max_bytes - self.max_bytes / 16
    }

    /// How much is to be freed of `bytes` that are allocated.
    fn over(&self, bytes: u64) -> u64 {
        match self.max_bytes != 0 && bytes > self.high() {
            true => bytes - (self.max_bytes - self.max_bytes / 8),
            false => 0,
        }
    }

    /// How much is to be freed on a filesystem that has `free` bytes left.
    fn short(&self, free: u64) -> u64 {
        match free < self.free_bytes_min {
            true => self.free_bytes_min.saturating_add(self.free_bytes_min / 8) - free,
            false => 0,
        }
    }
}

impl Shared {
    pub(crate) fn admits_background(&self) -> bool {
        let Config { max_bytes, .. } = self.config;
        let pressure = &self.pressure;
        (max_bytes == 0 || self.bytes() < max_bytes)
            && !pressure.low_space.load(Ordering::Relaxed)
            && !pressure.full.load(Ordering::Relaxed)
            && !self.is_failing()
    }

    /// Whether a write has failed a moment ago. A clock that was set back ends it too.
    fn is_failing(&self) -> bool {
        let failed = self.pressure.failed.load(Ordering::Relaxed);
        let now = self.disk.now();
        failed <= now && now - failed < FAILURE_PAUSE
    }

    /// Something has grown.
    pub(crate) fn look_at_quota(&self) {
        if self.config.over(self.bytes()) > 0 {
            self.want_relief();
        }
    }

    /// Something may be different now: can be evicted, is gone, or some time has passed.
    pub(crate) fn look_again(&self) {
        let pressure = &self.pressure;
        let tight = self.config.over(self.bytes()) > 0
            || [&pressure.low_space, &pressure.full, &pressure.over_quota]
                .iter()
                .any(|flag| flag.load(Ordering::Relaxed));
        if tight {
            self.want_relief();
        }
    }

    fn want_relief(&self) {
        if !self.pressure.wanted.swap(true, Ordering::AcqRel) {
            self.agenda.relieve();
        }
    }

    /// A write has failed because the disk is full.
    pub(crate) fn note_full(&self, error: &io::Error) {
        if !self.pressure.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(dir = %self.dir.display(), %error, "the disk of the cache is full; nothing is fetched ahead until there is space");
        }
        self.want_relief();
    }

    /// A write has failed for another reason.
    pub(crate) fn note_failure(&self, key: &Key, error: &io::Error) {
        let now = self.disk.now();
        self.pressure.failed.store(now, Ordering::Relaxed);
        let last = self.pressure.complained.load(Ordering::Relaxed);
        if now >= last.saturating_add(COMPLAINT_STEP) || now < last {
            self.pressure.complained.store(now, Ordering::Relaxed);
            tracing::warn!(layer = %key, %error, "cannot store chunks; readers are answered without the cache");
        }
    }

    /// Looks whether the filesystem has enough space, and whether the disk is still full.
    pub(crate) fn look_at_space(&self) {
        let Some(Space { total, free }) = self.space() else {
            return;
        };
        self.note_short(free);
        if free >= FULL_UNTIL.min(total / 20) && self.pressure.full.swap(false, Ordering::Relaxed) {
            tracing::info!(dir = %self.dir.display(), "the disk of the cache has space again");
        }
    }

    fn space(&self) -> Option<Space> {
        let space = self.disk.space(&self.dir);
        space
            .inspect_err(|error| {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot see how much space is left");
            })
            .ok()
    }

    /// How much is to be freed for the filesystem's sake.
    fn note_short(&self, free: u64) -> u64 {
        let Config { free_bytes_min, .. } = self.config;
        let short = self.config.short(free);
        let was = self.pressure.low_space.swap(short > 0, Ordering::Relaxed);
        if short > 0 && !was {
            tracing::warn!(
                free,
                free_bytes_min,
                "little space is left; evicting cached layers that are not mounted"
            );
        }
        short
    }

    /// Evicts what quota, watermark and a full disk ask for, and answers the bytes that it gave.
    pub(crate) fn relieve(&self) -> u64 {
        let _one_at_a_time = lock(&self.pressure.relieving);
        self.pressure.wanted.store(false, Ordering::Release);
        let short = self.space().map_or(0, |space| self.note_short(space.free));
        let full = self.pressure.full.load(Ordering::Relaxed);
        // Nobody knows how much it wants.
        let for_full = if full { (self.bytes() / 8).max(1) } else { 0 };
        let need = self.config.over(self.bytes()).max(short).max(for_full);
        let freed = if need == 0 { 0 } else { self.evict(need) };
        if freed > 0 {
            self.pressure.full.store(false, Ordering::Relaxed);
            self.look_at_space();
        }
        self.look_whether_over();
        freed
    }

    fn look_whether_over(&self) {
        let Config { max_bytes, .. } = self.config;
        let bytes = self.bytes();
        let over = max_bytes != 0 && bytes > max_bytes;
        if over && !self.pressure.over_quota.swap(true, Ordering::Relaxed) {
            self.counters.over_quota_times.add(1);
            tracing::warn!(
                bytes,
                max_bytes,
                "the cache is over its quota, and everything in it is mounted; nothing is fetched ahead. Raise max_bytes, or stop containers"
            );
        } else if !over {
            self.pressure.over_quota.store(false, Ordering::Relaxed);
        }
    }

    /// Evicts at least `need` bytes, if there are so many to evict.
    fn evict(&self, need: u64) -> u64 {
        let slots = self.slots();
        let unpinned = slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| !slot.is_pinned());
        let candidates = unpinned.map(|(index, slot)| Candidate {
            index,
            bytes: slot.data_bytes(),
            accessed: slot.accessed(),
        });
        let mut freed = 0;
        // If one of the chosen is pinned meanwhile, the next time takes another.
        for candidate in choose(candidates.collect(), need) {
            let Some(slot) = slots.get(candidate.index) else {
                continue;
            };
            match self.evict_layer(slot) {
                Ok(bytes) => freed += bytes,
                Err(error) => {
                    tracing::warn!(layer = %slot.key, error = &error as &dyn std::error::Error, "cannot evict a layer; trying again later");
                }
            }
        }
        freed
    }

    /// Evicts the data of one layer, unless it is pinned or removed. First the bits, durably, then the space.
    pub(crate) fn evict_layer(&self, slot: &Slot) -> Result<u64> {
        // With the last one who has the file open go its blocks, which takes seconds for many GB: after all locks.
        let (freed, _data) = self.evict_data(slot)?;
        Ok(freed)
    }

    fn evict_data(&self, slot: &Slot) -> Result<(u64, Option<Arc<File>>)> {
        let _durable = lock(&slot.durable);
        let mut state = slot.state();
        if slot.is_pinned() || state.removed {
            return Ok((0, None));
        }
        let layer = state.open.upgrade();
        let cleared = match &layer {
            // Nobody can open it anew and look at the bits while we have it: so nobody needs to wait for the sync.
            Some(layer) => {
                drop(state);
                let cleared = self.clear_bits(slot);
                state = slot.state();
                if cleared.is_err() || slot.is_pinned() {
                    layer.restore_bits();
                    return failed("clearing", slot, READY, cleared).map(|()| (0, None));
                }
                cleared
            }
            None => self.clear_bits(slot),
        };
        failed("clearing", slot, READY, cleared)?;
        let data = match &layer {
            Some(layer) => layer.close(),
            None => open_file(&slot.path(DATA)).ok().map(Arc::new),
        };
        let removed = match self.disk.remove_file(&slot.path(DATA)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        if let Some(layer) = &layer {
            lock(&layer.ready).clear_all();
            layer.reopen(data.clone().filter(|_| removed.is_err()));
        }
        failed("evicting", slot, DATA, removed)?;
        let freed = slot.data_bytes();
        self.resize(slot, 0);
        drop(state);
        self.counters.evicted_layers.add(1);
        self.counters.evicted_bytes.add(freed);
        tracing::debug!(layer = %slot.key, freed, "evicted the data of a layer");
        Ok((freed, data))
    }

    fn clear_bits(&self, slot: &Slot) -> io::Result<()> {
        self.counters.syncs.add(1);
        ready::clear_file(&*self.disk, &slot.path(READY))
    }

    pub(crate) fn stats(&self) -> Stats {
        let slots = self.slots();
        let pinned: Vec<&Arc<Slot>> = slots.iter().filter(|slot| slot.is_pinned()).collect();
        let counters = &self.counters;
        Stats {
            layers: slots.len() as u64,
            pinned_layers: pinned.len() as u64,
            bytes: self.bytes(),
            pinned_bytes: pinned.iter().map(|slot| slot.usage().bytes).sum(),
            stored_chunks: counters.stored_chunks.get(),
            stored_bytes: counters.stored_bytes.get(),
            not_stored_chunks: counters.not_stored_chunks.get(),
            distrusted_chunks: counters.distrusted_chunks.get(),
            damaged_chunks: counters.damaged_chunks.get(),
            evicted_layers: counters.evicted_layers.get(),
            evicted_bytes: counters.evicted_bytes.get(),
            damaged_layers: counters.damaged_layers.get(),
            syncs: counters.syncs.get(),
            failed_syncs: counters.failed_syncs.get(),
            thread_panics: counters.thread_panics.get(),
            over_quota_times: counters.over_quota_times.get(),
            over_quota: self.pressure.over_quota.load(Ordering::Relaxed),
            low_space: self.pressure.low_space.load(Ordering::Relaxed),
            full: self.pressure.full.load(Ordering::Relaxed),
        }
    }
}

fn failed(operation: &'static str, slot: &Slot, file: &str, outcome: io::Result<()>) -> Result<()> {
    outcome.map_err(|error| Error::io(operation, &slot.path(file), error))
}
