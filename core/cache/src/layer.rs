//! One layer: chunks are put into it and read from it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak};

use pontoon_layer::{Chunk, ChunkTableRef, Digest, Verified};

use crate::bits::Bits;
use crate::cache::Shared;
use crate::change::Changes;
use crate::disk::is_full;
use crate::index::Index;
use crate::open::Files;
use crate::pending::Pending;
use crate::ready::Ready;
use crate::slot::{Slot, lock};
use crate::table::Table;
use crate::verify::Doubts;
use crate::{Error, Key, Meta, Result, Usage};

/// A layer in the cache, to read from and to put chunks into. There is one of it, however many have it.
#[derive(Debug)]
pub struct CachedLayer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slot: Arc<Slot>,
    table: Table,
    /// What can be read. Zero chunks always can.
    bits: Bits,
    ready_chunks: AtomicUsize,
    ready_bytes: AtomicU64,
    /// Held shared by whoever reads or writes `data`, so that nobody reads one file with the bits of another.
    gate: RwLock<Gate>,
    pub(crate) pending: Mutex<Pending>,
    /// What the file `ready` says. Taken with the slot's `durable`.
    pub(crate) ready: Mutex<Ready>,
    /// Of what is ready. Nobody reads it before it is checked.
    pub(crate) doubts: Doubts,
    pub(crate) index: OnceLock<Index>,
    pub(crate) changes: Changes,
    pub(crate) me: Weak<CachedLayer>,
}

/// The file `data`.
#[derive(Debug)]
enum Gate {
    Open(Arc<File>),
    /// Evicted: there is no file until something is put.
    Evicted,
    /// Being evicted, or removed for good.
    Closed,
}

/// What became of a chunk that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It can be read now.
    Stored,
    /// It could be read before.
    Known,
    /// It cannot be read from the cache. Whoever waits for it is answered from memory.
    NotStored(NotStored),
}

/// Why a chunk was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    /// The disk is full.
    Full,
    /// The disk failed; the log says how.
    Failed,
    /// The layer was removed from the cache, is being evicted, or the cache was closed.
    Gone,
    /// The bytes are not this chunk's: a mistake of the caller's.
    Unfit,
}

/// What became of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The whole buffer is filled.
    Done,
    /// This chunk, the first one, has to be fetched. The content of the buffer means nothing.
    Missing(usize),
}

impl CachedLayer {
    /// A layer with these files. If it is in doubt, all that is ready is to be checked.
    pub(crate) fn new(
        shared: Arc<Shared>,
        slot: Arc<Slot>,
        files: Files,
        is_doubted: bool,
    ) -> Arc<Self> {
        let Files { table, ready, data } = files;
        let bits = Bits::new(table.get().len());
        let is_in_doubt = |index: &usize| {
            let chunk = table.get().get(*index);
            is_doubted && chunk.is_some_and(|chunk| !chunk.is_zeros())
        };
        let doubts = Doubts::new(bits.len(), ready.iter().filter(is_in_doubt));
        let changes = Changes::new(shared.disk.now());
        Arc::new_cyclic(|me| {
            let layer = CachedLayer {
                shared,
                slot,
                table,
                bits,
                ready_chunks: AtomicUsize::new(0),
                ready_bytes: AtomicU64::new(0),
                gate: RwLock::new(data.map_or(Gate::Evicted, |file| Gate::Open(Arc::new(file)))),
                pending: Mutex::default(),
                ready: Mutex::new(ready),
                doubts,
                index: OnceLock::new(),
                changes,
                me: me.clone(),
            };
            layer.set_zero_chunks();
            for index in lock(&layer.ready).iter() {
                layer.set(index);
            }
            layer
        })
    }

    /// What it is known by.
    pub fn key(&self) -> &Key {
        &self.slot.key
    }

    /// What was given when it was created.
    pub fn meta(&self) -> &Meta {
        &self.slot.stored.meta
    }

    /// Its chunks.
    pub fn chunks(&self) -> ChunkTableRef<'_> {
        self.table.get()
    }

    /// Whether chunk `index` need not be fetched. Takes no lock. After a power cut it may turn out to be wrong when it is
    /// read.
    pub fn is_ready(&self, index: usize) -> bool {
        self.bits.get(index)
    }

    /// Whether all chunks can be read, also from the file itself: none is in doubt.
    pub fn is_complete(&self) -> bool {
        self.doubts.is_empty() && self.ready_chunks() == self.bits.len()
    }

    /// How many chunks can be read.
    pub fn ready_chunks(&self) -> usize {
        self.ready_chunks.load(Ordering::Relaxed)
    }

    /// The sum of their lengths, in bytes.
    pub fn ready_bytes(&self) -> u64 {
        self.ready_bytes.load(Ordering::Relaxed)
    }

    /// The first chunk that has to be fetched before the bytes `data` of the layer's data can be read.
    pub fn first_missing(&self, data: Range<u64>) -> Option<usize> {
        self.bits.first(self.chunks().find(data), false)
    }

    /// The runs of chunks in `chunks` that have to be fetched, in order.
    pub fn missing(&self, chunks: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        self.bits.runs(chunks, false)
    }

    /// The runs of chunks in `chunks` that can be read, in order.
    pub fn ready_ranges(&self, chunks: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        self.bits.runs(chunks, true)
    }

    /// What it takes on disk. Takes constant time.
    pub fn usage(&self) -> Usage {
        self.slot.usage()
    }

    /// Fills `buffer` with the layer's data from `offset` on, if all of it can be read.
    ///
    /// What the disk fails to read is fetched again: it counts as missing. [`Error::OutOfRange`] if the layer has
    /// no such data.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<Read> {
        let length = buffer.len() as u64;
        let data_size = self.slot.stored.data_size;
        let end = offset.checked_add(length).filter(|end| *end <= data_size);
        let Some(end) = end else {
            return Err(Error::OutOfRange {
                key: Box::new(self.key().clone()),
                offset,
                length,
                data_size,
            });
        };
        self.slot.touch(self.shared.disk.now());
        let chunks = self.chunks().find(offset..end);
        self.settle(chunks.clone());
        let gate = self.gate();
        if let Some(missing) = self.bits.first(chunks.clone(), false) {
            return Ok(Read::Missing(missing));
        }
        if chunks.clone().all(|index| self.is_zeros(index)) {
            buffer.fill(0);
            return Ok(Read::Done);
        }
        let Gate::Open(file) = &*gate else {
            return Ok(Read::Missing(chunks.start));
        };
        match self.shared.disk.read_at(file, buffer, offset) {
            Ok(()) => Ok(Read::Done),
            Err(error) => {
                drop(gate);
                tracing::warn!(layer = %self.key(), offset, length, %error, "cannot read cached data; fetching it again");
                self.distrust(chunks.clone());
                Ok(Read::Missing(chunks.start))
            }
        }
    }

    /// Stores chunk `index`. It can be read when this returns, and is durable soon after.
    ///
    /// What cannot be stored is not an error: its reader is answered from memory.
    pub fn put<B: AsRef<[u8]>>(&self, index: usize, bytes: Verified<B>) -> Put {
        let digest = bytes.digest();
        let bytes = bytes.as_ref();
        let put = match self.chunks().get(index) {
            Some(chunk) if fits(&chunk, bytes, digest) => self.store(index, &chunk, bytes),
            _ => {
                tracing::error!(layer = %self.key(), index, length = bytes.len(), "bytes of another chunk were to be stored");
                Put::NotStored(NotStored::Unfit)
            }
        };
        let counters = &self.shared.counters;
        match put {
            Put::Stored => {
                counters.stored_chunks.add(1);
                counters.stored_bytes.add(bytes.len() as u64);
            }
            Put::Known => {}
            Put::NotStored(_) => counters.not_stored_chunks.add(1),
        }
        put
    }

    fn store(&self, index: usize, chunk: &Chunk, bytes: &[u8]) -> Put {
        if self.is_ready(index) {
            return Put::Known;
        }
        if self.shared.is_closed() {
            return Put::NotStored(NotStored::Gone);
        }
        let mut gate = self.gate();
        if matches!(*gate, Gate::Evicted) {
            drop(gate);
            if let Err(error) = self.make_data() {
                return self.not_stored(&error);
            }
            gate = self.gate();
        }
        let Gate::Open(file) = &*gate else {
            return Put::NotStored(NotStored::Gone);
        };
        let file = file.clone();
        let written = self.shared.disk.write_at(&file, bytes, chunk.data_offset);
        if let Err(error) = written {
            return self.not_stored(&error);
        }
        // Still behind the gate: an eviction comes wholly before or wholly after.
        let put = if self.set(index) {
            self.want_durable(index);
            Put::Stored
        } else {
            Put::Known
        };
        self.measure(&file);
        drop(gate);
        self.slot.touch(self.shared.disk.now());
        put
    }

    fn not_stored(&self, error: &io::Error) -> Put {
        if is_full(error) {
            self.shared.note_full(error);
            return Put::NotStored(NotStored::Full);
        }
        self.shared.note_failure(self.key(), error);
        Put::NotStored(NotStored::Failed)
    }

    /// The data file, if there is one.
    pub(crate) fn data(&self) -> Option<Arc<File>> {
        match &*self.gate() {
            Gate::Open(file) => Some(file.clone()),
            Gate::Evicted | Gate::Closed => None,
        }
    }

    /// Looks at the data file, if there is one. It stays the layer's meanwhile.
    pub(crate) fn with_data<T>(&self, look: impl FnOnce(&File) -> T) -> Option<T> {
        match &*self.gate() {
            Gate::Open(file) => Some(look(file)),
            Gate::Evicted | Gate::Closed => None,
        }
    }

    pub(crate) fn make_data(&self) -> io::Result<()> {
        let mut gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*gate, Gate::Evicted) {
            let file = crate::open::make_data(&self.shared, &self.slot)?;
            *gate = Gate::Open(Arc::new(file));
        }
        Ok(())
    }

    /// Nothing can be read or put any more. Answers the file, which is not used by anybody here then.
    pub(crate) fn close(&self) -> Option<Arc<File>> {
        let mut gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let was = std::mem::replace(&mut *gate, Gate::Closed);
        self.bits.runs(0..self.bits.len(), true).for_each(|run| {
            for index in run {
                self.unset(index);
            }
        });
        self.doubts.clear_all();
        self.set_zero_chunks();
        let mut pending = lock(&self.pending);
        pending.set.clear();
        pending.clear.clear();
        match was {
            Gate::Open(file) => Some(file),
            Gate::Evicted | Gate::Closed => None,
        }
    }

    /// After [`CachedLayer::close`]: chunks can be put again, into `data` or into a new file.
    pub(crate) fn reopen(&self, data: Option<Arc<File>>) {
        let mut gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        *gate = data.map_or(Gate::Evicted, Gate::Open);
    }

    /// Notes what the data file takes now.
    pub(crate) fn measure(&self, file: &File) {
        // If it fails the next one tells.
        if let Ok(metadata) = file.metadata() {
            self.shared.resize(&self.slot, metadata.blocks() * 512);
        }
    }

    /// Nobody is in the middle of a read or a put while the answer lives.
    pub(crate) fn alone(&self) -> impl Drop + '_ {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self) -> RwLockReadGuard<'_, Gate> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_zeros(&self, index: usize) -> bool {
        self.chunks()
            .get(index)
            .is_some_and(|chunk| chunk.is_zeros())
    }

    fn set_zero_chunks(&self) {
        for (index, chunk) in self.chunks().iter().enumerate() {
            if chunk.is_zeros() {
                self.set(index);
            }
        }
    }

    fn set(&self, index: usize) -> bool {
        let set = self.bits.set(index);
        if set && let Some(chunk) = self.chunks().get(index) {
            self.ready_chunks.fetch_add(1, Ordering::Relaxed);
            self.ready_bytes
                .fetch_add(u64::from(chunk.length), Ordering::Relaxed);
            self.changes.note();
        }
        set
    }

    pub(crate) fn unset(&self, index: usize) -> bool {
        let cleared = self.bits.clear(index);
        if cleared && let Some(chunk) = self.chunks().get(index) {
            self.ready_chunks.fetch_sub(1, Ordering::Relaxed);
            self.ready_bytes
                .fetch_sub(u64::from(chunk.length), Ordering::Relaxed);
            self.changes.note();
        }
        cleared
    }
}

/// Whether `bytes`, which have the digest `digest`, are those of `chunk`.
fn fits(chunk: &Chunk, bytes: &[u8], digest: &Digest) -> bool {
    let same = bytes.len() as u64 == u64::from(chunk.length);
    same && (chunk.is_zeros() || *digest == chunk.digest())
}
