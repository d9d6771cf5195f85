//! Checks what is on the disk against the digests of its chunks: what is in doubt before it is read, and in the background,
//! and everything when somebody asks for it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::{self, JoinHandle};

use pontoon_layer::{Chunk, Digest, Hasher};

use crate::bits::Bits;
use crate::cache::{Cache, Shared};
use crate::layer::CachedLayer;
use crate::slot::lock;
use crate::{Result, trust};

/// So much of a chunk is read at once, in bytes.
const STEP: usize = 256 << 10;

/// Chunks with numbers that differ by less than this are checked side by side.
const SIDE_BY_SIDE: usize = 16;

/// What [`Cache::scrub`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Layers that were read.
    pub layers: u64,
    /// Chunks that were right.
    pub chunks: u64,
    /// The bytes of those.
    pub bytes: u64,
    /// Chunks that were wrong or could not be read. They are fetched again when they are read.
    pub dropped_chunks: u64,
    /// Layers of which nothing can be used. They are fetched again when they are pulled.
    pub removed_layers: u64,
    /// Layers whose wrong chunks may come back, because the disk did not take the note that they are dropped.
    pub failed_layers: u64,
}

/// The chunks of a layer that are published and not checked yet.
#[derive(Debug)]
pub(crate) struct Doubts {
    bits: Bits,
    count: AtomicUsize,
    /// One is held while a chunk is checked, so that it is by one. A reader never waits for another chunk's: whoever
    /// checks all of them, one after another, would take a single lock again and again before the reader had it.
    checking: [Mutex<()>; SIDE_BY_SIDE],
}

impl Doubts {
    /// Of a layer with `len` chunks, those in `chunks`.
    pub(crate) fn new(len: usize, chunks: impl Iterator<Item = usize>) -> Self {
        let bits = Bits::new(len);
        let count = chunks.filter(|index| bits.set(*index)).count();
        Doubts {
            bits,
            count: AtomicUsize::new(count),
            checking: Default::default(),
        }
    }

    /// Whether there are none. Who sees that also sees what became of them.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Until it is dropped nobody else checks chunk `index`.
    pub(crate) fn alone(&self, index: usize) -> MutexGuard<'_, ()> {
        let [first, ..] = &self.checking;
        lock(self.checking.get(index % SIDE_BY_SIDE).unwrap_or(first))
    }

    fn clear(&self, index: usize) {
        if self.bits.clear(index) {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// What they were about is gone.
    pub(crate) fn clear_all(&self) {
        for index in self.bits.runs(0..self.bits.len(), true).flatten() {
            self.clear(index);
        }
    }
}

impl CachedLayer {
    /// Checks what is in doubt of `chunks`, so that what is ready of them afterwards can be read.
    pub(crate) fn settle(&self, chunks: Range<usize>) {
        if self.doubts.is_empty() {
            return;
        }
        let mut next = chunks.start;
        while let Some(index) = self.doubts.bits.first(next..chunks.end, true) {
            let _alone = self.doubts.alone(index);
            // Somebody may have been faster.
            if self.doubts.bits.get(index) {
                self.check(index);
            }
            next = index + 1;
        }
    }

    /// Checks a chunk, and drops it if it is wrong. How many bytes of it are right.
    pub(crate) fn check(&self, index: usize) -> Option<u64> {
        let chunk = self.chunks().get(index)?;
        // An eviction comes wholly before or wholly after, and it takes the doubts along.
        let right = self.with_data(|file| {
            let is_published = self.is_ready(index);
            let right = is_published && self.is_right(index, &chunk, file);
            if is_published && !right {
                self.distrust(index..index + 1);
            }
            self.doubts.clear(index);
            right
        });
        right?.then_some(u64::from(chunk.length))
    }

    fn is_right(&self, index: usize, chunk: &Chunk, file: &File) -> bool {
        match self.digest_of(chunk, file) {
            Ok(digest) if digest == chunk.digest() => true,
            Ok(_) => {
                self.shared.counters.damaged_chunks.add(1);
                tracing::warn!(layer = %self.key(), chunk = index, "the disk has changed a cached chunk; fetching it again");
                false
            }
            Err(error) => {
                tracing::warn!(layer = %self.key(), chunk = index, %error, "cannot read a cached chunk; fetching it again");
                false
            }
        }
    }

    fn digest_of(&self, chunk: &Chunk, file: &File) -> io::Result<Digest> {
        let mut hasher = Hasher::new(chunk.algorithm);
        let mut step = vec![0; STEP.min(chunk.length as usize)];
        let (mut offset, end) = (chunk.data_offset, chunk.data_end());
        while offset < end {
            let length = (end - offset).min(step.len() as u64);
            let buffer = step.get_mut(..length as usize).unwrap_or_default();
            self.shared.disk.read_at(file, buffer, offset)?;
            hasher.update(buffer);
            offset += length;
        }
        Ok(hasher.finish())
    }

    /// Checks all that is in doubt, unless the cache is closed meanwhile.
    fn settle_all(&self) {
        for index in 0..self.chunks().len() {
            if self.shared.is_closed() {
                return;
            }
            self.settle(index..index + 1);
        }
        self.shared.believe(self);
    }

    /// Checks all that is ready, in doubt or not.
    fn scrub(&self, scrubbed: &mut Scrubbed) {
        for index in self.ready_ranges(0..self.chunks().len()).flatten() {
            if self.is_zeros(index) {
                continue;
            }
            let _alone = self.doubts.alone(index);
            if let Some(bytes) = self.check(index) {
                scrubbed.chunks += 1;
                scrubbed.bytes += bytes;
            }
        }
        scrubbed.layers += 1;
        scrubbed.failed_layers += u64::from(!self.shared.believe(self));
    }
}

impl Cache {
    /// Reads every chunk of every layer and drops, durably, those that are wrong. [`Scrubbed::dropped_chunks`] and
    /// [`Scrubbed::removed_layers`] count from when the cache was opened.
    ///
    /// The error of the disk if a layer cannot be opened.
    pub fn scrub(&self) -> Result<Scrubbed> {
        let mut scrubbed = Scrubbed::default();
        for slot in self.shared.slots() {
            if let Some(layer) = self.shared.open_layer(&slot)? {
                layer.scrub(&mut scrubbed);
            }
        }
        let stats = self.stats();
        scrubbed.dropped_chunks = stats.distrusted_chunks;
        scrubbed.removed_layers = stats.damaged_layers;
        Ok(scrubbed)
    }
}

impl Shared {
    /// Has a layer checked in the background if it is in doubt.
    pub(crate) fn check_soon(&self, layer: &Arc<CachedLayer>) {
        if lock(&self.doubted).contains(layer.key())
            && let Some(checks) = &*lock(&self.checks)
        {
            // Nobody takes it only if that thread has panicked. Readers check then.
            let _ = checks.send(Arc::downgrade(layer));
        }
    }

    /// A layer was checked: it is not in doubt any more, if what was dropped is so durably. Whether it is.
    fn believe(&self, layer: &CachedLayer) -> bool {
        // Its error may be another layer's.
        let _ = self.flush();
        let is_settled = layer.doubts.is_empty() && lock(&layer.pending).clear.is_empty();
        let mut doubted = lock(&self.doubted);
        if !is_settled {
            doubted.insert(layer.key().clone());
            return false;
        }
        if doubted.remove(layer.key())
            && let Err(error) = trust::note_open(&*self.disk, &self.dir, &doubted)
        {
            tracing::warn!(layer = %layer.key(), %error, "cannot note that a cached layer was checked; the next start may check it again");
        }
        true
    }

    /// All that was published is on the disk, and nothing more will be.
    pub(crate) fn note_closed(&self) {
        if let Err(error) = trust::note_closed(&*self.disk, &self.dir, &lock(&self.doubted)) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot note that the cache is closed; after a restart of the machine all of it is checked");
        }
    }
}

/// Layers that the thread is to check.
pub(crate) type Checks = Sender<Weak<CachedLayer>>;

/// Starts the thread that checks layers in the background, one after another, if any is in doubt.
pub(crate) fn start(shared: &Shared) -> io::Result<Option<JoinHandle<()>>> {
    if lock(&shared.doubted).is_empty() {
        return Ok(None);
    }
    let (checks, layers) = channel();
    let thread = thread::Builder::new().name("pontoon-check".to_owned());
    let thread = thread.spawn(move || run(&layers))?;
    *lock(&shared.checks) = Some(checks);
    Ok(Some(thread))
}

/// Ends when nobody can ask any more.
fn run(layers: &Receiver<Weak<CachedLayer>>) {
    for layer in layers {
        // What nobody has any more is checked when somebody opens it again.
        if let Some(layer) = layer.upgrade() {
            layer.settle_all();
        }
    }
}
