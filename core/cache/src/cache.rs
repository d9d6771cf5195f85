//! The cache: which layers there are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use pontoon_layer::ChunkTable;
use pontoon_linux::DirLock;

use crate::build::{self, Made};
use crate::dir::{self, Found};
use crate::disk::{Disk, System};
use crate::evict::Pressure;
use crate::flush::Agenda;
use crate::layer::CachedLayer;
use crate::open;
use crate::slot::{Slot, lock};
use crate::stats::Counters;
use crate::verify::{self, Checks};
use crate::{Error, Key, LayerStatus, Meta, Result, Stats, Usage, trust};

/// How much a cache may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Config {
    /// Bytes that all layers together may have allocated; 0 for no limit.
    pub max_bytes: u64,
    /// Bytes of the filesystem that are left free, as far as evicting can do it; 0 for none.
    pub free_bytes_min: u64,
}

/// The cached layers of a daemon, in one directory.
///
/// What is pending becomes durable when it is dropped.
#[derive(Debug)]
pub struct Cache {
    pub(crate) shared: Arc<Shared>,
    flusher: Mutex<Option<JoinHandle<()>>>,
    /// Only if something is in doubt.
    checker: Mutex<Option<JoinHandle<()>>>,
    _lock: DirLock,
}

/// What a removal does to those who have the layer without a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    CutOff,
    Respect,
}

/// What the cache, its layers and its thread have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: PathBuf,
    pub(crate) config: Config,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) counters: Counters,
    pub(crate) agenda: Agenda,
    pub(crate) pressure: Pressure,
    slots: RwLock<BTreeMap<Key, Arc<Slot>>>,
    /// Held while a layer's directory comes to its place or leaves it.
    places: Mutex<()>,
    /// Allocated by all slots.
    bytes: AtomicU64,
    next_discard: AtomicU64,
    closed: AtomicBool,
    /// Layers whose chunks may not be what was published: see [`trust`].
    pub(crate) doubted: Mutex<BTreeSet<Key>>,
    /// Asks the thread that checks them.
    pub(crate) checks: Mutex<Option<Checks>>,
}

impl Cache {
    /// Opens the cache in `dir`, which is made if it is not there. Its parent must be.
    ///
    /// Looks at every layer's meta, but opens none. What was being made or deleted when the last daemon ended is
    /// deleted, and so are layers that are damaged. Starts a thread.
    ///
    /// [`Error::Locked`] if another cache has it open, [`Error::Newer`] if a newer Pontoon wrote it.
    pub fn open(dir: &Path, config: Config) -> Result<Cache> {
        Cache::open_on(Arc::new(System), dir, config)
    }

    pub(crate) fn open_on(disk: Arc<dyn Disk>, dir: &Path, config: Config) -> Result<Cache> {
        let dir_lock = dir::lock_dir(&*disk, dir)?;
        let Found {
            slots,
            next_discard,
            discarded,
            damaged,
        } = dir::scan(&*disk, dir)?;
        let known = slots.iter().map(|slot| slot.key.clone()).collect();
        let doubted = trust::doubted(&*disk, dir, known);
        trust::begin(&*disk, dir, &doubted)?;
        let bytes = slots.iter().map(|slot| slot.usage().bytes).sum();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            config,
            disk,
            counters: Counters::default(),
            agenda: Agenda::default(),
            pressure: Pressure::default(),
            slots: RwLock::new(
                slots
                    .into_iter()
                    .map(|slot| (slot.key.clone(), Arc::new(slot)))
                    .collect(),
            ),
            places: Mutex::default(),
            bytes: AtomicU64::new(bytes),
            next_discard: AtomicU64::new(next_discard),
            closed: AtomicBool::new(false),
            doubted: Mutex::new(doubted),
            checks: Mutex::default(),
        });
        shared.counters.damaged_layers.add(damaged);
        shared.look_at_space();
        let failed = |error| Error::io("starting the threads of the cache", dir, error);
        let cache = Cache {
            shared,
            flusher: Mutex::default(),
            checker: Mutex::default(),
            _lock: dir_lock,
        };
        let flusher = crate::flush::start(cache.shared.clone(), discarded).map_err(failed)?;
        *lock(&cache.flusher) = Some(flusher);
        *lock(&cache.checker) = verify::start(&cache.shared).map_err(failed)?;
        Ok(cache)
    }

    /// The layer `key`, if it is in the cache. A damaged one is removed and counts as not there.
    pub fn layer(&self, key: &Key) -> Result<Option<Arc<CachedLayer>>> {
        match self.shared.slot(key) {
            Some(slot) => self.shared.open_layer(&slot),
            None => Ok(None),
        }
    }

    /// Makes the layer `key`, or answers the one that is there if it has the same chunks. It is durable then, without
    /// any chunk.
    ///
    /// [`Error::OtherTable`] if it has other chunks, [`Error::Unfit`] if `meta` cannot be stored.
    pub fn create(&self, key: &Key, chunks: &ChunkTable, meta: Meta) -> Result<Arc<CachedLayer>> {
        if let Some(reason) = meta.flaw() {
            let key = Box::new(key.clone());
            return Err(Error::Unfit { key, reason });
        }
        let layer = self.layer(key)?;
        let made = Made::new(key, chunks, meta);
        let layer = match layer {
            Some(layer) => layer,
            None => self.shared.make_layer(&made)?,
        };
        match layer.slot.stored.table == made.stored.table {
            true => Ok(layer),
            false => Err(Error::OtherTable {
                key: Box::new(key.clone()),
            }),
        }
    }

    /// Removes the layer `key` and what it takes. False if it was not there.
    ///
    /// Whoever still has it reads nothing more from it. [`Error::InUse`] if it is pinned.
    pub fn remove(&self, key: &Key) -> Result<bool> {
        match self.shared.slot(key) {
            Some(slot) => self.shared.remove(&slot, Users::CutOff),
            None => Ok(false),
        }
    }

    /// Evicts now what quota and watermark ask for, and answers how many bytes that gave. The cache does it by itself
    /// too.
    pub fn evict(&self) -> u64 {
        self.shared.relieve()
    }

    /// Whether something should be fetched that nobody waits for: the cache is inside its quota, the disk is not full,
    /// enough is free, and no write has failed a moment ago.
    pub fn admits_background(&self) -> bool {
        self.shared.admits_background()
    }

    /// Makes durable what was put before the call.
    ///
    /// The error is the last one; what could not be made durable is tried again later, or fetched again.
    pub fn flush(&self) -> Result<()> {
        self.shared.flush()
    }

    /// Makes durable what was put, and stores nothing from now on; what is there can still be read. The next cache
    /// in this directory, also after a restart of the machine, trusts what this one did. Dropping the cache closes it too.
    pub fn close(&self) {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        drop(lock(&self.shared.checks).take());
        if let Some(checker) = lock(&self.checker).take()
            && checker.join().is_err()
        {
            tracing::error!(
                "the thread that checks cached layers has panicked; the next start checks what it has left"
            );
        }
        self.shared.agenda.stop();
        if let Some(flusher) = lock(&self.flusher).take()
            && flusher.join().is_err()
        {
            tracing::error!(
                "the thread of the cache has panicked; what it had not synced is fetched again"
            );
        }
        self.shared.note_closed();
    }

    /// What the layer `key` takes on disk, if it is there. Takes constant time.
    pub fn usage(&self, key: &Key) -> Option<Usage> {
        self.shared.slot(key).map(|slot| slot.usage())
    }

    /// Every layer.
    pub fn layers(&self) -> Vec<LayerStatus> {
        let status = |slot: Arc<Slot>| LayerStatus {
            key: slot.key.clone(),
            usage: slot.usage(),
            data_size: slot.stored.data_size,
            pinned: slot.is_pinned(),
            accessed: slot.accessed(),
        };
        self.shared.slots().into_iter().map(status).collect()
    }

    /// What it has and has done since it was opened.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn slot(&self, key: &Key) -> Option<Arc<Slot>> {
        self.read_slots().get(key).cloned()
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.read_slots().values().cloned().collect()
    }

    fn read_slots(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Key, Arc<Slot>>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_slots(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Key, Arc<Slot>>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The data file of `slot` takes `bytes` now.
    pub(crate) fn resize(&self, slot: &Slot, bytes: u64) {
        let was = slot.swap_data_bytes(bytes);
        // A layer that is removed is not counted any more, but may still have been written to.
        self.bytes
            .fetch_add(bytes.wrapping_sub(was), Ordering::Relaxed);
        if bytes > was {
            self.look_at_quota();
        }
    }

    /// The index of `slot` takes `bytes` now.
    pub(crate) fn resize_index(&self, slot: &Slot, bytes: u64) {
        let was = slot.swap_index_bytes(bytes);
        self.bytes
            .fetch_add(bytes.wrapping_sub(was), Ordering::Relaxed);
        self.look_at_quota();
    }

    /// The layer of `slot`; None if it was removed meanwhile, or now because it is damaged.
    pub(crate) fn open_layer(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
    ) -> Result<Option<Arc<CachedLayer>>> {
        let mut state = slot.state();
        if state.removed {
            return Ok(None);
        }
        slot.touch(self.disk.now());
        if let Some(layer) = state.open.upgrade() {
            return Ok(Some(layer));
        }
        match open::open_layer(self, slot)? {
            Ok(layer) => {
                state.open = Arc::downgrade(&layer);
                drop(state);
                self.check_soon(&layer);
                Ok(Some(layer))
            }
            Err(reason) => {
                drop(state);
                tracing::warn!(layer = %slot.key, reason, "a cached layer is damaged; removing it, so that it is fetched again");
                self.counters.damaged_layers.add(1);
                self.remove(slot, Users::CutOff)?;
                Ok(None)
            }
        }
    }

    fn make_layer(self: &Arc<Self>, made: &Made) -> Result<Arc<CachedLayer>> {
        let (building, stranger) = (self.discard_path(), self.discard_path());
        let place = dir::place(&self.dir, &made.stored.key);
        let built = build::build(self, &building, made);
        let placed = built.and_then(|()| {
            let _places = lock(&self.places);
            if let Some(slot) = self.slot(&made.stored.key) {
                return Ok((slot, false));
            }
            build::rename(self, &building, &place, &stranger)?;
            let slot = Arc::new(dir::slot(&*self.disk, place, made.stored.clone()));
            self.bytes.fetch_add(slot.usage().bytes, Ordering::Relaxed);
            self.write_slots().insert(slot.key.clone(), slot.clone());
            Ok((slot, true))
        });
        self.discard(&stranger);
        if !matches!(placed, Ok((_, true))) {
            self.discard(&building);
        }
        let (slot, _) = placed?;
        let layer = self.open_layer(&slot)?;
        layer.ok_or_else(|| Error::Removed {
            key: Box::new(slot.key.clone()),
        })
    }

    /// Takes the layer of `slot` away. False if somebody else has done so.
    pub(crate) fn remove(&self, slot: &Slot, users: Users) -> Result<bool> {
        let durable = lock(&slot.durable);
        let places = lock(&self.places);
        let mut state = slot.state();
        if state.removed {
            return Ok(false);
        }
        if slot.is_pinned() || (users == Users::Respect && state.has_users()) {
            return Err(Error::InUse {
                key: Box::new(slot.key.clone()),
            });
        }
        // Before its directory goes, so that nobody makes a file in it.
        let layer = state.open.upgrade();
        let data = layer.as_ref().and_then(|layer| layer.close());
        let gone = self.discard_path();
        match self.disk.rename(&slot.dir, &gone) {
            // Somebody else's hands were faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                // Its bits are as they were on the disk, but not here: what is put again is known there already.
                if let Some(layer) = layer {
                    layer.reopen(data);
                }
                return Err(Error::io("removing", &slot.dir, error));
            }
            Ok(()) => {}
        }
        drop((layer, data));
        state.removed = true;
        self.write_slots().remove(&slot.key);
        lock(&self.doubted).remove(&slot.key);
        self.bytes.fetch_sub(slot.usage().bytes, Ordering::Relaxed);
        drop((state, places, durable));
        self.discard(&gone);
        self.look_again();
        Ok(true)
    }

    /// A name for what is to be thrown away, or not yet in its place. Never used twice.
    fn discard_path(&self) -> PathBuf {
        let number = self.next_discard.fetch_add(1, Ordering::Relaxed);
        self.dir.join(dir::DISCARD).join(number.to_string())
    }

    /// Deletes what is at `path`. If that fails the next start does it.
    pub(crate) fn discard(&self, path: &Path) {
        if let Err(error) = dir::remove_all(&*self.disk, path) {
            tracing::warn!(path = %path.display(), %error, "cannot delete what the cache has thrown away; the next start tries again");
        }
    }
}
