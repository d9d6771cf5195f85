//! A lazy layer that is here: who has it, and whether it is open.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_cache::Key;
use pontoon_lazyfs::{LazyLayer, Prefetch};
use pontoon_overlay::SnapshotId;

use crate::anywhere::Anywhere;
use crate::build;
use crate::first::First;
use crate::profile::Profile;
use crate::profiles;
use crate::record::Record;

/// A tree that is here.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) record: Record,
    pub(crate) key: Key,
    pub(crate) where_from: Arc<Anywhere>,
    pub(crate) users: Mutex<Users>,
    pub(crate) layer: Mutex<Option<Arc<LazyLayer>>>,
    /// Whether all of it was asked for already.
    asked: Mutex<Asked>,
}

/// Who has a layer.
#[derive(Debug, Default)]
pub(crate) struct Users {
    pub(crate) snapshots: BTreeSet<SnapshotId>,
    pub(crate) holds: usize,
}

impl Users {
    /// Whether anybody has it.
    pub(crate) fn any(&self) -> bool {
        self.holds > 0 || !self.snapshots.is_empty()
    }
}

#[derive(Debug, Default)]
struct Asked {
    first: bool,
    everything: bool,
    /// The names of the profiles that were followed.
    followed: BTreeSet<String>,
}

impl Item {
    /// The layer of `record`, which nobody has yet and which is not open.
    pub(crate) fn new(key: Key, record: Record, where_from: Anywhere) -> Self {
        Item {
            record,
            key,
            where_from: Arc::new(where_from),
            users: Mutex::default(),
            layer: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    /// Has what the layer's landmark or its prefetch table names, or `bytes` of its blob if it does not say, fetched before
    /// the rest.
    pub(crate) fn prefetch_first(&self, layer: &Arc<LazyLayer>, bytes: Option<u64>) {
        if std::mem::replace(&mut lock(&self.asked).first, true) {
            return;
        }
        let cached = layer.cached();
        let up_to = self.record.facts.landmark.or(bytes).unwrap_or_default();
        if let Some(text) = cached.meta().notes.get(build::NOTE_FIRST) {
            let chunks = First::chunks(text, cached.chunks().len());
            layer.prefetch(Prefetch::Named(chunks));
        } else if up_to > 0 {
            layer.prefetch(Prefetch::BlobUpTo(up_to));
        }
    }

    /// Has what a start of an image with this layer has read fetched before all else. Once.
    pub(crate) fn follow(&self, layer: &Arc<LazyLayer>, profile: &Profile) {
        if lock(&self.asked).followed.insert(profile.name()) {
            profiles::follow(profile, layer);
        }
    }

    /// Has all of the layer fetched in the background.
    pub(crate) fn prefetch_everything(&self, layer: &Arc<LazyLayer>) {
        let mut asked = lock(&self.asked);
        if !std::mem::replace(&mut asked.everything, true) && !layer.cached().is_complete() {
            layer.prefetch(Prefetch::Everything);
        }
    }

    /// The layer, if it is open.
    pub(crate) fn opened(&self) -> Option<Arc<LazyLayer>> {
        lock(&self.layer).clone()
    }

    /// The image whose registry is asked.
    pub(crate) fn image(&self) -> String {
        self.where_from.image()
    }

    /// How many snapshots have it.
    pub(crate) fn snapshots(&self) -> usize {
        lock(&self.users).snapshots.len()
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

/// Locks; a panic of somebody else has been logged.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
