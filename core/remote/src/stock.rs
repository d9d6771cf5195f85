//! The lazy layers that are here: their trees, their data, and who refers to them.
//!
//! A layer is known by its tree. A tree belongs to the snapshots that have it in their records, and to the offers that
//! are about to; when nobody is left, its file, and the cached data if no other tree has the same, are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pontoon_cache::{Cache, Key, Meta};
use pontoon_fuse::LayerTable;
use pontoon_layer::ChunkTable;
use pontoon_lazyfs::{LazyLayer, Prefetch};
use pontoon_overlay::{Recorded, SnapshotId};
use pontoon_snapshot::{Error, Result};
use pontoon_source::{Reference, Registry};

use crate::anywhere::Anywhere;
use crate::numbers::Numbers;
use crate::profile::Profile;
use crate::profiles;
use crate::reason::Refusal;
use crate::record::{Facts, Record};
use crate::trees::Trees;

/// How long a deletion waits for readers to let go.
const READERS_PATIENCE: Duration = Duration::from_secs(1);
const READERS_PAUSE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Stock {
    trees: Arc<Trees>,
    pub(crate) cache: Arc<Cache>,
    numbers: Numbers,
    engine: Arc<pontoon_lazyfs::Engine>,
    registry: Registry,
    /// What the FUSE server shows.
    pub(crate) table: Arc<LayerTable>,
    items: Mutex<BTreeMap<String, Arc<Item>>>,
}

/// A tree that is here.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) record: Record,
    key: Key,
    where_from: Arc<Anywhere>,
    users: Mutex<Users>,
    layer: Mutex<Option<Arc<LazyLayer>>>,
    /// Whether all of it was asked for already.
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Users {
    snapshots: BTreeSet<SnapshotId>,
    holds: usize,
}

#[derive(Debug, Default)]
struct Asked {
    first: bool,
    everything: bool,
    /// The names of the profiles that were followed.
    followed: BTreeSet<String>,
}

/// A layer that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) item: Arc<Item>,
    pub(crate) layer: Arc<LazyLayer>,
    /// Whether it was not before.
    pub(crate) is_new: bool,
}

/// Keeps a tree that no snapshot refers to yet.
#[derive(Debug)]
pub(crate) struct Hold {
    stock: Arc<Stock>,
    pub(crate) item: Arc<Item>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.item.users).holds -= 1;
        if let Err(error) = self
            .stock
            .forget_unused(&self.item.record.tree, &self.item.key)
        {
            tracing::warn!(
                layer = self.item.record.blob(),
                error = &error as &dyn std::error::Error,
                "a layer that nobody wants is not deleted; the next start tries again"
            );
        }
    }
}

impl Stock {
    pub(crate) fn open(
        directory: &Path,
        cache: Arc<Cache>,
        engine: Arc<pontoon_lazyfs::Engine>,
        registry: Registry,
    ) -> io::Result<Arc<Self>> {
        let trees = Arc::new(Trees::open(directory.join("trees"))?);
        Ok(Arc::new(Stock {
            numbers: Numbers::open(&directory.join("number"))?,
            trees,
            cache,
            engine,
            registry,
            table: Arc::default(),
            items: Mutex::default(),
        }))
    }

    /// Takes up what was recorded, and deletes the rest.
    pub(crate) fn reconcile(&self, layers: &[Recorded]) {
        let mut undecodable = false;
        for Recorded { id, record } in layers {
            match Record::decode(record).and_then(|record| Ok((record.key()?, record))) {
                Ok((key, record)) => {
                    self.numbers.skip(record.number);
                    let image = record.image.clone();
                    let item = self.item_of(&mut lock(&self.items), key, record);
                    item.where_from.add(&image);
                    lock(&item.users).snapshots.insert(*id);
                }
                Err(error) => {
                    undecodable = true;
                    tracing::error!(%id, error = &error as &dyn std::error::Error, "the record of a layer cannot be read");
                }
            }
        }
        // Something may belong to what cannot be read.
        if undecodable {
            return;
        }
        if let Err(error) = self.sweep() {
            tracing::warn!(%error, "what crashes have left is not deleted; the next start tries again");
        }
    }

    fn sweep(&self) -> io::Result<()> {
        let items = lock(&self.items);
        for name in self.trees.names()? {
            if !items.contains_key(&name) {
                self.trees.remove(&name)?;
            }
        }
        let wanted: BTreeSet<&Key> = items.values().map(|item| &item.key).collect();
        let swept = self.cache.sweep(|key| wanted.contains(key));
        if swept.removed > 0 {
            tracing::info!(
                layers = swept.removed,
                bytes = swept.bytes,
                "deleted layers that no snapshot refers to"
            );
        }
        Ok(())
    }

    /// The item of `record`, made if it is not there.
    fn item_of(
        &self,
        items: &mut BTreeMap<String, Arc<Item>>,
        key: Key,
        record: Record,
    ) -> Arc<Item> {
        let item = items.entry(record.tree.clone()).or_insert_with(|| {
            let registry = self.registry.clone();
            let where_from = Anywhere::new(registry, key.blob.clone(), record.blob_bytes);
            Arc::new(Item {
                record,
                key,
                where_from: Arc::new(where_from),
                users: Mutex::default(),
                layer: Mutex::default(),
                asked: Mutex::default(),
            })
        });
        Arc::clone(item)
    }

    /// Where the trees are.
    pub(crate) fn trees(&self) -> &Arc<Trees> {
        &self.trees
    }

    /// What the cache noted about a layer when its table of contents was read.
    pub(crate) fn notes(&self, key: &Key) -> Option<Meta> {
        let cached = self.cache.layer(key).ok().flatten()?;
        Some(cached.meta().clone())
    }

    /// Whether the layer `key` is here and was read from the repository of `reference`.
    ///
    /// From another one it has to be read first, at least its table of contents: a manifest may name any layer, and an
    /// attacker's registry claims to have any. Who has the table has the layer.
    pub(crate) fn is_proven(&self, key: &Key, reference: &Reference) -> bool {
        let items = lock(&self.items);
        let mut same = items.values().filter(|item| item.key == *key);
        same.any(|item| item.where_from.is_in(reference)) && self.notes(key).is_some()
    }

    /// Keeps the tree `tree`, if it is here with its data, undamaged. May read all of it.
    pub(crate) fn hold(self: &Arc<Self>, tree: &str, key: &Key) -> Option<Hold> {
        let is_known = lock(&self.items).contains_key(tree);
        if !is_known || !self.trees.is_sound(tree) {
            return None;
        }
        let items = lock(&self.items);
        let item = Arc::clone(items.get(tree)?);
        // Half of it may be gone if its deletion failed.
        self.notes(key).filter(|_| self.trees.exists(tree))?;
        lock(&item.users).holds += 1;
        let stock = Arc::clone(self);
        Some(Hold { stock, item })
    }

    /// Stores a layer: its tree `image` under the name `tree`, and its chunk table.
    pub(crate) fn store(
        self: &Arc<Self>,
        key: &Key,
        tree: &str,
        image: &[u8],
        chunks: &ChunkTable,
        facts: Facts,
        meta: &Meta,
    ) -> Result<Hold, Refusal> {
        let failed = |error: io::Error| Refusal::store(&error);
        self.trees.write(tree, image).map_err(failed)?;
        let made = self.cache.create(key, chunks, meta.clone());
        if let Err(pontoon_cache::Error::OtherTable { .. }) = made {
            // Another version of ours made it. If it is in use, that version's tree is too.
            let removed = self.cache.remove(key);
            removed.map_err(|error| Refusal::store(&error))?;
        }
        let mut items = lock(&self.items);
        // What a deletion at the same moment has taken, is made again: nothing is deleted while `items` is locked.
        let cached = self.cache.create(key, chunks, meta.clone());
        cached.map_err(|error| Refusal::store(&error))?;
        if !self.trees.exists(tree) {
            self.trees.write(tree, image).map_err(failed)?;
        }
        let number = match items.get(tree) {
            Some(item) => item.record.number,
            None => self.numbers.take().map_err(failed)?,
        };
        let record = Record::new(key, tree, number, "", meta.blob_bytes, facts);
        let item = self.item_of(&mut items, key.clone(), record);
        lock(&item.users).holds += 1;
        let stock = Arc::clone(self);
        Ok(Hold { stock, item })
    }

    /// The layer of a record, opened if it is not. Asks no registry.
    pub(crate) fn open_layer(&self, record: &Record) -> Result<Opened> {
        let item = {
            let mut items = lock(&self.items);
            self.item_of(&mut items, record.key()?, record.clone())
        };
        item.where_from.add(&record.image);
        let mut opened = lock(&item.layer);
        let is_new = opened.is_none();
        let layer = match &*opened {
            Some(layer) => Arc::clone(layer),
            None => {
                let layer = self.read_layer(&item)?;
                self.table.insert(item.record.number, Arc::clone(&layer));
                Arc::clone(opened.insert(layer))
            }
        };
        drop(opened);
        Ok(Opened {
            item,
            layer,
            is_new,
        })
    }

    fn read_layer(&self, item: &Item) -> Result<Arc<LazyLayer>> {
        let lost = |reason: String| Error::Corrupt {
            what: format!("lazy layer {}", item.record.blob()),
            reason: format!("{reason}; remove the image and pull it again"),
        };
        let tree = self.trees.map(&item.record.tree);
        let tree = tree.map_err(|error| lost(format!("its tree cannot be used: {error}")))?;
        let cached = self.cache.layer(&item.key);
        let cached = cached.map_err(|error| lost(error.to_string()))?;
        let cached = cached.ok_or_else(|| lost("its chunk table is missing".to_owned()))?;
        let connect = Arc::clone(&item.where_from);
        LazyLayer::open(&self.engine, tree, &cached, connect).map_err(|error| lost(error.whole()))
    }

    /// Notes that the snapshot `id` has `item`, pulled with `image`, and answers its record.
    pub(crate) fn refer(&self, item: &Item, id: SnapshotId, image: &str) -> Record {
        lock(&item.users).snapshots.insert(id);
        item.where_from.add(image);
        let mut record = item.record.clone();
        record.image = image.to_owned();
        record
    }

    /// The snapshot `id` has the layer no more. True if its number is free of a layer now.
    pub(crate) fn release(&self, id: SnapshotId, record: &Record) -> Result<bool> {
        let item = lock(&self.items).get(&record.tree).cloned();
        if let Some(item) = item {
            lock(&item.users).snapshots.remove(&id);
        }
        self.forget_unused(&record.tree, &record.key()?)
    }

    /// Deletes the tree unless somebody has it, and the data unless another tree has it. Whether it did.
    fn forget_unused(&self, tree: &str, key: &Key) -> Result<bool> {
        let mut waited = Duration::ZERO;
        loop {
            match self.try_forget(tree, key) {
                // Requests under way hold it for a moment.
                Err(pontoon_cache::Error::InUse { .. }) if waited < READERS_PATIENCE => {
                    thread::sleep(READERS_PAUSE);
                    waited += READERS_PAUSE;
                }
                Err(error) => {
                    return Err(Error::Unavailable {
                        operation: format!("deleting layer {}", key.blob),
                        reason: format!("{error}; it is tried again"),
                    });
                }
                Ok(forgotten) => return Ok(forgotten),
            }
        }
    }

    fn try_forget(&self, tree: &str, key: &Key) -> pontoon_cache::Result<bool> {
        let mut items = lock(&self.items);
        if let Some(item) = items.get(tree) {
            let users = lock(&item.users);
            if users.holds > 0 || !users.snapshots.is_empty() {
                return Ok(false);
            }
            self.table.remove(item.record.number);
            if let Some(layer) = lock(&item.layer).take() {
                layer.close();
            }
        }
        let mut others = items.iter().filter(|(name, _)| *name != tree);
        if !others.any(|(_, other)| other.key == *key) {
            self.cache.remove(key)?;
        }
        self.trees
            .remove(tree)
            .map_err(|source| pontoon_cache::Error::Io {
                operation: "deleting",
                path: self.trees.path(tree),
                source,
            })?;
        items.remove(tree);
        Ok(true)
    }

    /// All items, for reports.
    pub(crate) fn items(&self) -> Vec<Arc<Item>> {
        lock(&self.items).values().cloned().collect()
    }

    /// Of each of `keys` a layer that is open, if there is one. What was pulled before the start and not mounted since is
    /// not.
    pub(crate) fn opened(&self, keys: &[Key]) -> Vec<Arc<LazyLayer>> {
        let items = self.items();
        let of = |key: &Key| {
            let mut same = items.iter().filter(|item| item.key == *key);
            same.find_map(|item| item.opened())
        };
        keys.iter().filter_map(of).collect()
    }

    /// Ends all reading.
    pub(crate) fn close(&self) {
        for item in self.items() {
            self.table.remove(item.record.number);
            if let Some(layer) = lock(&item.layer).take() {
                layer.close();
            }
        }
    }
}

impl Item {
    /// Has what the layer's landmark names, or `bytes` of its blob if it does not say, fetched before the rest.
    pub(crate) fn prefetch_first(&self, layer: &Arc<LazyLayer>, bytes: Option<u64>) {
        let up_to = self.record.facts.landmark.or(bytes).unwrap_or_default();
        let mut asked = lock(&self.asked);
        if !std::mem::replace(&mut asked.first, true) && up_to > 0 {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
