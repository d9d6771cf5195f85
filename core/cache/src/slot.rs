//! What is known of every layer, whether it is open or not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::Key;
use crate::layer::CachedLayer;
use crate::meta::StoredMeta;

/// Accesses closer together than this are one, in milliseconds.
const ACCESS_STEP: u64 = 1000;

/// What something takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated, in bytes: holes do not count.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// A layer in the cache.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    pub(crate) dir: PathBuf,
    pub(crate) stored: StoredMeta,
    /// Allocated by everything but `data` and `digests`.
    pub(crate) fixed_bytes: u64,
    /// Allocated by `digests`.
    index_bytes: AtomicU64,
    /// Allocated by `data`.
    data_bytes: AtomicU64,
    accessed: AtomicU64,
    /// The access that is written down on disk.
    noted_access: AtomicU64,
    /// Pins that live. More come only with `state` locked, so that who wants to evict or remove sees them; looking takes
    /// no lock, for that may be held while a disk is slow.
    pins: AtomicUsize,
    /// Held by whoever writes `ready`, unlinks `data` or takes the directory away. Taken before `state`.
    pub(crate) durable: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Its directory is not in its place any more.
    pub(crate) removed: bool,
    /// The layer, while somebody has it. So there is never more than one of it.
    pub(crate) open: Weak<CachedLayer>,
}

impl State {
    /// Whether somebody has the layer, but for the flusher. Only with the slot's `durable` held: the flusher has
    /// a layer while it is on its list, or while it holds that.
    pub(crate) fn has_users(&self) -> bool {
        self.open.upgrade().is_some_and(|layer| {
            let listed = lock(&layer.pending).listed;
            Arc::strong_count(&layer) > 1 + usize::from(listed)
        })
    }
}

/// The files in a layer's directory.
pub(crate) const CHUNKS: &str = "chunks";
pub(crate) const META: &str = "meta";
pub(crate) const DATA: &str = "data";
pub(crate) const READY: &str = "ready";
/// Only of layers that were looked for digests.
pub(crate) const DIGESTS: &str = "digests";

/// A directory and four files, without the digests.
const INODES: u64 = 5;

impl Slot {
    pub(crate) fn new(dir: PathBuf, stored: StoredMeta, fixed_bytes: u64, accessed: u64) -> Self {
        Slot {
            key: stored.key.clone(),
            dir,
            stored,
            fixed_bytes,
            index_bytes: AtomicU64::new(0),
            data_bytes: AtomicU64::new(0),
            accessed: AtomicU64::new(accessed),
            noted_access: AtomicU64::new(accessed),
            pins: AtomicUsize::new(0),
            durable: Mutex::default(),
            state: Mutex::default(),
        }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether somebody has it pinned.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }

    /// One pin more. `_state` is its state, locked.
    pub(crate) fn add_pin(&self, _state: &State) {
        self.pins.fetch_add(1, Ordering::AcqRel);
    }

    /// One pin less.
    pub(crate) fn remove_pin(&self) {
        self.pins.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn usage(&self) -> Usage {
        let index_bytes = self.index_bytes.load(Ordering::Relaxed);
        Usage {
            bytes: self.fixed_bytes + index_bytes + self.data_bytes(),
            inodes: INODES + u64::from(index_bytes > 0),
        }
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes.load(Ordering::Relaxed)
    }

    /// Notes what `digests` takes now and answers what it took before.
    pub(crate) fn swap_index_bytes(&self, bytes: u64) -> u64 {
        self.index_bytes.swap(bytes, Ordering::Relaxed)
    }

    /// Notes what `data` takes now and answers what it took before.
    pub(crate) fn swap_data_bytes(&self, bytes: u64) -> u64 {
        self.data_bytes.swap(bytes, Ordering::Relaxed)
    }

    pub(crate) fn accessed(&self) -> u64 {
        self.accessed.load(Ordering::Relaxed)
    }

    pub(crate) fn touch(&self, now: u64) {
        // Most reads only look: a counter that every read changes would go from processor to processor. An access in the
        // future was before the clock was set back: it must not keep the layer longer than others.
        if self.accessed().abs_diff(now) >= ACCESS_STEP {
            self.accessed.store(now, Ordering::Relaxed);
        }
    }

    /// The last access, if it is more than `step` milliseconds after the one that is written down; it counts as
    /// written down then.
    pub(crate) fn access_to_note(&self, step: u64) -> Option<u64> {
        let accessed = self.accessed();
        if accessed
            <= self
                .noted_access
                .load(Ordering::Relaxed)
                .saturating_add(step)
        {
            return None;
        }
        self.noted_access.store(accessed, Ordering::Relaxed);
        Some(accessed)
    }
}

/// Whatever a thread that panicked has left is used on: nothing here is half changed under a lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allocated bytes of what is at `path`; 0 if it is not there.
pub(crate) fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.symlink_metadata()
        .map_or(0, |metadata| metadata.blocks() * 512)
}
