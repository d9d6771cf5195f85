//! The file `digests`: which chunks have which digest, of layers that give chunks to others.
//!
//! It is made when a chunk is looked for the first time, and mapped. It decides nothing: what is found in it is compared
//! with the chunk table. So one that is missing, damaged or another table's is made again, none is ever synced, and on a
//! disk that takes none it is kept in memory.
//!
//! 64 bytes: the magic number `PNTdgst1`, 32 bytes SHA-256 of the table's own and of what follows the 64 bytes, zeros. Then
//! 12 bytes for each chunk that is not all zeros, in ascending order, which is that of their digests: the first 8 bytes of
//! the digest, and the big-endian u32 index of the chunk.

use std::io;
use std::path::Path;

use bytes::Bytes;
use pontoon_layer::{Algorithm, ChunkTableRef, Digest, Hasher, Verified};
use pontoon_linux::Map;

use crate::dir::{open_file, read_file};
use crate::disk::Disk;
use crate::layer::CachedLayer;
use crate::slot::{DIGESTS, Slot, allocated};
use crate::{Read, cache::Shared};

const MAGIC: [u8; 8] = *b"PNTdgst1";
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 12;

/// See the module.
#[derive(Debug)]
pub(crate) enum Index {
    Mapped(Map),
    /// As it would be in the file.
    Memory(Vec<u8>),
}

impl Index {
    /// The index of a layer, from its file or made anew.
    fn open_or_make(shared: &Shared, slot: &Slot, table: &ChunkTableRef<'_>) -> Index {
        let path = slot.path(DIGESTS);
        if let Some(index) = Index::open(&path, &slot.stored.table, table.len()) {
            return index;
        }
        let bytes = encode(&slot.stored.table, table);
        // Whoever has the directory after us has it for himself.
        if shared.is_closed() {
            return Index::Memory(bytes);
        }
        let made = write(&*shared.disk, slot, &path, &bytes).and_then(|()| {
            shared.measure_index(slot);
            Map::of(&open_file(&path)?).map_err(|error| error.source)
        });
        match made {
            Ok(map) => Index::Mapped(map),
            Err(error) => {
                tracing::debug!(layer = %slot.key, %error, "cannot write which digests a cached layer has; keeping that in memory");
                Index::Memory(bytes)
            }
        }
    }

    /// The file, if it is the one that was written for this table.
    fn open(path: &Path, table: &Digest, chunks: usize) -> Option<Index> {
        let file = open_file(path).ok()?;
        let longest = HEADER_BYTES.saturating_add(chunks.saturating_mul(RECORD_BYTES));
        // Read before it is mapped: a bad sector is an error here, and a signal there.
        let bytes = read_file(file.try_clone().ok()?, longest.saturating_add(1)).ok()?;
        let (header, records) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let is_it = bytes.len() <= longest && *header == self::header(table, records);
        let map = is_it.then(|| Map::of(&file))?.ok()?;
        Some(Index::Mapped(map))
    }

    /// The chunks whose digests begin so.
    fn find(&self, prefix: u64) -> impl Iterator<Item = usize> {
        let bytes: &[u8] = match self {
            Index::Mapped(map) => map,
            Index::Memory(bytes) => bytes,
        };
        let bytes = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let (records, _) = bytes.as_chunks::<RECORD_BYTES>();
        let first = records.partition_point(|record| prefix_of(record) < prefix);
        let same = records.get(first..).unwrap_or_default().iter();
        same.take_while(move |record| prefix_of(record) == prefix)
            .map(index_of)
    }
}

fn prefix_of(record: &[u8; RECORD_BYTES]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *record;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn index_of(record: &[u8; RECORD_BYTES]) -> usize {
    let [.., a, b, c, d] = *record;
    u32::from_be_bytes([a, b, c, d]) as usize
}

fn header(table: &Digest, records: &[u8]) -> [u8; HEADER_BYTES] {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(table.bytes());
    hasher.update(records);
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..40].copy_from_slice(hasher.finish().bytes());
    header
}

/// The file for the table `table`, whose digest is `digest`.
fn encode(digest: &Digest, table: &ChunkTableRef<'_>) -> Vec<u8> {
    let chunks = (0..=u32::MAX).zip(table.iter());
    let fetched = chunks.filter(|(_, chunk)| !chunk.is_zeros());
    let mut records: Vec<[u8; RECORD_BYTES]> = fetched
        .map(|(index, chunk)| {
            let mut record = [0; RECORD_BYTES];
            record[..8].copy_from_slice(&chunk.digest_prefix().to_be_bytes());
            record[8..].copy_from_slice(&index.to_be_bytes());
            record
        })
        .collect();
    records.sort_unstable();
    let records = records.as_flattened();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + records.len());
    bytes.extend_from_slice(&header(digest, records));
    bytes.extend_from_slice(records);
    bytes
}

fn write(disk: &dyn Disk, slot: &Slot, path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Renamed when it is whole: what is mapped is never written to.
    let new = slot.path("digests.new");
    match disk.remove_file(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let file = disk.create(&new)?;
    disk.write_at(&file, bytes, 0)?;
    disk.rename(&new, path)
}

impl Shared {
    /// The index of `slot` takes space now.
    fn measure_index(&self, slot: &Slot) {
        let bytes = allocated(&slot.path(DIGESTS));
        let state = slot.state();
        // What was removed is not counted any more.
        if !state.removed {
            self.resize_index(slot, bytes);
        }
    }
}

impl CachedLayer {
    /// A chunk that can be read and has the digest `digest` and `length` bytes. The first time this reads the whole chunk
    /// table and writes an index of it.
    pub fn find(&self, digest: &Digest, length: u32) -> Option<usize> {
        let table = self.chunks();
        if digest.algorithm() != table.algorithm() {
            return None;
        }
        let prefix = digest.bytes().first_chunk().copied()?;
        self.prepare_to_find();
        let mut found = self.index.get()?.find(u64::from_be_bytes(prefix));
        found.find(|index| {
            let is_it = |chunk: pontoon_layer::Chunk| {
                !chunk.is_zeros() && chunk.length == length && chunk.digest() == *digest
            };
            self.is_ready(*index) && table.get(*index).is_some_and(is_it)
        })
    }

    /// Makes what [`CachedLayer::find`] needs.
    pub fn prepare_to_find(&self) {
        let make = || Index::open_or_make(&self.shared, &self.slot, &self.chunks());
        self.index.get_or_init(make);
    }

    /// Whether [`CachedLayer::find`] is quick.
    pub fn is_prepared_to_find(&self) -> bool {
        self.index.get().is_some()
    }

    /// The bytes of chunk `index`, verified anew, for another layer that has the same chunk. `None` if it cannot be read; one
    /// that the disk has changed is dropped.
    pub fn verified(&self, index: usize) -> Option<Verified<Bytes>> {
        let chunk = self.chunks().get(index)?;
        if !self.is_ready(index) || chunk.is_zeros() {
            return None;
        }
        let mut bytes = vec![0; chunk.length as usize];
        let Ok(Read::Done) = self.read_at(chunk.data_offset, &mut bytes) else {
            return None;
        };
        let verified = Verified::check(Bytes::from(bytes), &chunk.digest());
        if verified.is_err() {
            let _alone = self.doubts.alone(index);
            self.check(index);
        }
        verified.ok()
    }
}
