//! The lazy layers that are here: their trees, their data, and who refers to them.
//!
//! A layer is known by its tree. A tree belongs to the snapshots that have it in their records, and to the offers that
//! are about to; when nobody is left, its file, and the cached data if no other tree has the same, are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use pontoon_cache::{Cache, Key, Meta};
use pontoon_fuse::LayerTable;
use pontoon_layer::ChunkTable;
use pontoon_lazyfs::{LazyLayer, Peers};
use pontoon_overlay::{Recorded, SnapshotId};
use pontoon_snapshot::{Error, Result};
use pontoon_source::{Reference, Registry};
use tokio::runtime::Handle;

use crate::anywhere::{Anywhere, Place};
use crate::erofs::Erofs;
use crate::item::{Item, lock};
use crate::kin::Neighbours;
use crate::numbers::Numbers;
use crate::reason::Refusal;
use crate::record::{Facts, Record};
use crate::restore::Failures;
use crate::trees::Trees;

/// The directory of the trees.
pub(crate) const TREES: &str = "trees";

/// How long a deletion waits for readers to let go.
const READERS_PATIENCE: Duration = Duration::from_secs(1);
const READERS_PAUSE: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Stock {
    me: Weak<Stock>,
    trees: Arc<Trees>,
    pub(crate) cache: Arc<Cache>,
    numbers: Numbers,
    engine: Arc<pontoon_lazyfs::Engine>,
    registry: Registry,
    runtime: Handle,
    /// What the FUSE server shows.
    pub(crate) table: Arc<LayerTable>,
    /// What the kernel shows.
    erofs: Arc<Erofs>,
    /// Who is told which layers are open, and asked for their chunks. By digests alone: no name, no tag, no credential goes
    /// there.
    peers: Option<Arc<dyn Peers>>,
    items: Mutex<BTreeMap<String, Arc<Item>>>,
    /// Nothing is deleted any more: another daemon may have taken over. Changes while `items` is locked.
    pub(crate) closed: AtomicBool,
    pub(crate) failures: Failures,
}

/// A layer that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) item: Arc<Item>,
    pub(crate) layer: Arc<LazyLayer>,
    /// Whether it was not before.
    pub(crate) is_new: bool,
}

/// What is known of a layer that is to be stored, beside its tree and its chunk table.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) facts: Facts,
    pub(crate) meta: Meta,
    /// Where its bytes are, if not in its own blob.
    pub(crate) blobs: Vec<Place>,
}

/// Keeps a tree that no snapshot refers to yet.
#[derive(Debug)]
pub(crate) struct Hold {
    stock: Arc<Stock>,
    pub(crate) item: Arc<Item>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let is_used = {
            let mut users = lock(&self.item.users);
            users.holds -= 1;
            users.any()
        };
        if is_used {
            return;
        }
        let (stock, item) = (Arc::clone(&self.stock), Arc::clone(&self.item));
        // It deletes files and waits for readers, and this thread may be one that answers them. A runtime that ends
        // drops it; then the next start deletes the layer.
        drop(self.stock.runtime.spawn_blocking(move || {
            if let Err(error) = stock.forget_unused(&item.record.tree, &item.key) {
                tracing::warn!(
                    layer = item.record.blob(),
                    error = &error as &dyn std::error::Error,
                    "a layer that nobody wants is not deleted; the next start tries again"
                );
            }
        }));
    }
}

impl Stock {
    pub(crate) fn open(
        directory: &Path,
        cache: Arc<Cache>,
        engine: Arc<pontoon_lazyfs::Engine>,
        registry: Registry,
        erofs: Arc<Erofs>,
        peers: Option<Arc<dyn Peers>>,
        runtime: Handle,
    ) -> io::Result<Arc<Self>> {
        let trees = Arc::new(Trees::open(directory.join(TREES))?);
        let numbers = Numbers::open(&directory.join("number"))?;
        Ok(Arc::new_cyclic(|me| Stock {
            me: Weak::clone(me),
            numbers,
            trees,
            cache,
            engine,
            registry,
            runtime,
            table: Arc::default(),
            erofs,
            peers,
            items: Mutex::default(),
            closed: AtomicBool::new(false),
            failures: Failures::default(),
        }))
    }

    /// Takes up what was recorded, and deletes the rest.
    pub(crate) fn reconcile(&self, layers: &[Recorded]) {
        let mut undecodable = false;
        for Recorded { id, record } in layers {
            match Record::decode(record) {
                Ok(Some(record)) => {
                    self.numbers.skip(record.number);
                    let image = record.image.clone();
                    match self.item_of(&mut lock(&self.items), record) {
                        Ok(item) => {
                            item.where_from.add(&image);
                            lock(&item.users).snapshots.insert(*id);
                        }
                        // It was looked at.
                        Err(_) => undecodable = true,
                    }
                }
                // Nothing of it is kept here.
                Ok(None) => {}
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

    /// Goes on with what an earlier daemon has mounted.
    pub(crate) fn adopt(&self) {
        let items = self.items().into_iter();
        let trees = items.map(|item| (item.record.number, item.record.tree.clone()));
        let kept = self.erofs.adopt(&trees.collect());
        if kept > 0 {
            tracing::info!(layers = kept, "the kernel goes on serving layers");
        }
    }

    /// How often bytes of each open layer were read, by number.
    pub(crate) fn reads(&self) -> Vec<(u32, u64)> {
        let items = self.items().into_iter();
        let opened = items.filter_map(|item| Some((item.record.number, item.opened()?)));
        let counted = opened.map(|(number, layer)| (number, layer.status().counted));
        let reads =
            counted.map(|(number, counted)| (number, counted.ready_reads + counted.waited_reads));
        reads.collect()
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
        record: Record,
    ) -> Result<Arc<Item>> {
        if let Some(item) = items.get(&record.tree) {
            return Ok(Arc::clone(item));
        }
        let key = record.key()?;
        let registry = self.registry.clone();
        let where_from = Anywhere::new(registry, key.blob.clone(), record.places()?);
        let tree = record.tree.clone();
        let item = Arc::new(Item::new(key, record, where_from));
        items.insert(tree, Arc::clone(&item));
        Ok(item)
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
        made: Made,
    ) -> Result<Hold, Refusal> {
        let Made { facts, meta, blobs } = made;
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
        let record = Record::new(key, tree, number, "", meta.blob_bytes, facts, blobs);
        let item = self.item_of(&mut items, record);
        let item = item.map_err(|error| Refusal::store(&error))?;
        lock(&item.users).holds += 1;
        let stock = Arc::clone(self);
        Ok(Hold { stock, item })
    }

    /// The layer of a record, opened if it is not. Asks no registry.
    pub(crate) fn open_layer(&self, record: &Record) -> Result<Opened> {
        let item = {
            let mut items = lock(&self.items);
            self.item_of(&mut items, record.clone())?
        };
        item.where_from.add(&record.image);
        let mut opened = lock(&item.layer);
        let is_new = opened.is_none();
        let layer = match &*opened {
            Some(layer) => Arc::clone(layer),
            None => {
                let layer = self.read_layer(&item)?;
                layer.set_kin(Arc::new(Neighbours::of(&self.me, &item)));
                if let Some(peers) = &self.peers {
                    layer.share(&**peers);
                }
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
        let known = lock(&self.items).get(tree).cloned();
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
                Ok(true) => {
                    // Without a lock that answering the kernel takes.
                    if let Some(item) = known {
                        self.erofs.uncover(item.record.number);
                    }
                    return Ok(true);
                }
                Ok(false) => return Ok(false),
            }
        }
    }

    fn try_forget(&self, tree: &str, key: &Key) -> pontoon_cache::Result<bool> {
        let mut items = lock(&self.items);
        if self.closed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if let Some(item) = items.get(tree) {
            let users = lock(&item.users);
            if users.any() {
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
            let mut same = items.iter().filter(|item| item.key() == key);
            same.find_map(|item| item.opened())
        };
        keys.iter().filter_map(of).collect()
    }

    /// Ends all reading, and all deleting.
    pub(crate) fn close(&self) {
        {
            let _items = lock(&self.items);
            self.closed.store(true, Ordering::Relaxed);
        }
        for item in self.items() {
            self.table.remove(item.record.number);
            if let Some(layer) = lock(&item.layer).take() {
                layer.close();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use crate::fixture;
    use crate::parents::Parents;
    use pontoon_layer::Digest;

    fn held(stock: &Arc<Stock>) -> (Key, Hold) {
        let key = Key::new(Digest::of(b"blob"), Digest::of(b"toc"));
        let layer = fixture::layer(&["etc/", "etc/name"]);
        let hold = build::build(stock, &key, 1, layer.into(), &Parents::ordinary(&[])).unwrap();
        (key, hold)
    }

    #[test]
    fn who_drops_a_layer_does_not_wait_for_its_readers() {
        let fixture = fixture::stock();
        let (key, hold) = held(&fixture.stock);
        let tree = hold.item.record.tree.clone();
        let pin = fixture.stock.cache.layer(&key).unwrap().unwrap().pin();
        let pin = pin.unwrap();
        // Waiting for the reader here would be in vain: it goes on afterwards.
        drop(hold);
        drop(pin);
        fixture::eventually(|| !fixture.stock.trees.exists(&tree));
        fixture::eventually(|| fixture.stock.notes(&key).is_none());
    }

    #[test]
    fn nothing_is_deleted_once_it_is_closed() {
        let fixture = fixture::stock();
        let (key, hold) = held(&fixture.stock);
        let tree = hold.item.record.tree.clone();
        fixture.stock.close();
        drop(hold);
        assert!(!fixture.stock.forget_unused(&tree, &key).unwrap());
        assert!(fixture.stock.trees.exists(&tree));
        assert!(fixture.stock.notes(&key).is_some());
    }
}
