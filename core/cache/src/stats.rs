//! What a cache counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Key, Usage};

/// What a cache has and has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Layers that are known.
    pub layers: u64,
    /// Layers that are pinned.
    pub pinned_layers: u64,
    /// Allocated by all layers, in bytes.
    pub bytes: u64,
    /// Allocated by pinned layers, in bytes.
    pub pinned_bytes: u64,
    /// Chunks stored, and their bytes.
    pub stored_chunks: u64,
    /// See `stored_chunks`.
    pub stored_bytes: u64,
    /// Chunks that could not be stored, for whatever reason.
    pub not_stored_chunks: u64,
    /// Chunks that are not trusted any more, because the disk failed to read or to sync them, or has changed them.
    pub distrusted_chunks: u64,
    /// Those of them that the disk has changed: they were read and had another digest than when they were put.
    pub damaged_chunks: u64,
    /// Layers whose data was evicted, and the bytes that this gave.
    pub evicted_layers: u64,
    /// See `evicted_layers`.
    pub evicted_bytes: u64,
    /// Layers that were damaged and removed.
    pub damaged_layers: u64,
    /// Syncs of files, for all layers.
    pub syncs: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// How often the cache's thread has panicked: a bug. It goes on each time, a few seconds later.
    pub thread_panics: u64,
    /// How often the cache went over its quota because what is pinned left no other way.
    pub over_quota_times: u64,
    /// It is over its quota now.
    pub over_quota: bool,
    /// Less than `free_bytes_min` was free when this was looked at last.
    pub low_space: bool,
    /// The disk is full.
    pub full: bool,
}

/// One layer of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerStatus {
    /// What it is known by.
    pub key: Key,
    /// What it takes on disk.
    pub usage: Usage,
    /// The size of all its data, in bytes.
    pub data_size: u64,
    /// Whether it is pinned.
    pub pinned: bool,
    /// When it was used last: milliseconds since 1970, coarse.
    pub accessed: u64,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) stored_chunks: Counter,
    pub(crate) stored_bytes: Counter,
    pub(crate) not_stored_chunks: Counter,
    pub(crate) distrusted_chunks: Counter,
    pub(crate) damaged_chunks: Counter,
    pub(crate) evicted_layers: Counter,
    pub(crate) evicted_bytes: Counter,
    pub(crate) damaged_layers: Counter,
    pub(crate) syncs: Counter,
    pub(crate) failed_syncs: Counter,
    pub(crate) thread_panics: Counter,
    pub(crate) over_quota_times: Counter,
}
