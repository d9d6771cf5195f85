//! The operations of a snapshotter.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::{Filter, Info, Key, LabelChange, Labels, Mount, Result, SnapshotterName, Usage};

/// One keyspace of snapshots.
///
/// Synchronous and callable from many threads at once; an asynchronous boundary runs it on blocking threads.
/// Every method that changes something has changed it durably when it returns `Ok`, and nothing when it
/// returns an error.
pub trait Snapshotter: Send + Sync {
    /// Makes an active (writable) snapshot `key` on `parent` and answers the mounts for its writer.
    ///
    /// `labels` with [`crate::LABEL_SNAPSHOT_REF`] make it the extraction of a layer: where the layer is
    /// already provided, the answer is [`crate::Error::LayerExists`] and a committed snapshot that carries the
    /// same label and parent is there.
    fn prepare(&self, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<Vec<Mount>>;

    /// Makes a view (read-only) `key` of `parent` and answers its mounts; without a parent an empty one.
    fn view(&self, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<Vec<Mount>>;

    /// The mounts of an active or view snapshot, as Prepare and View answered them. Idempotent.
    fn mounts(&self, key: &Key) -> Result<Vec<Mount>>;

    /// Turns active snapshot `key` into committed snapshot `name`; `key` is free again. Labels are replaced,
    /// not inherited. `parent` rebases a snapshot that was prepared without one. Takes constant time.
    fn commit(&self, name: &Key, key: &Key, parent: Option<&Key>, labels: Labels) -> Result<()>;

    /// Removes a snapshot that has no children. Its key is free at once; its space is freed by
    /// [`Snapshotter::cleanup`] or before.
    fn remove(&self, key: &Key) -> Result<()>;

    /// One snapshot's info.
    fn stat(&self, key: &Key) -> Result<Info>;

    /// Changes the labels of a snapshot and answers its new info.
    fn update(&self, key: &Key, change: LabelChange) -> Result<Info>;

    /// Visits every snapshot that `filter` matches, in the order of keys, as of one moment, until the visitor
    /// breaks. Other operations go on meanwhile, the visitor's own included.
    fn walk(&self, filter: &Filter, visit: Visit<'_>) -> Result<()>;

    /// What a snapshot takes on disk without its parents: constant time for committed ones, a scan for active ones.
    fn usage(&self, key: &Key) -> Result<Usage>;

    /// What [`Snapshotter::usage`] would answer, if that takes no more than a look-up in the metadata; else `None`.
    fn recorded_usage(&self, _key: &Key) -> Result<Option<Usage>> {
        Ok(None)
    }

    /// Frees the space of everything that was removed or abandoned before the call.
    fn cleanup(&self) -> Result<()>;
}

/// What [`Snapshotter::walk`] calls with each snapshot.
pub type Visit<'a> = &'a mut dyn FnMut(Info) -> ControlFlow<()>;

/// All keyspaces of a daemon, one per snapshotter name.
pub trait Keyspaces: Send + Sync {
    /// The keyspace of `name`; it is empty until something is created in it.
    fn open(&self, name: &SnapshotterName) -> Result<Arc<dyn Snapshotter>>;
}
