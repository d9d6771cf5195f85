//! Layers with a content that can be told apart.

use std::time::{Duration, Instant};

use pontoon_layer::{Algorithm, Chunk, ChunkTable, Compression, Digest, Hasher, Verified};
use tempfile::TempDir;

use crate::{Cache, CachedLayer, Config, Key, Meta, Put, Read};

/// xorshift64*: random numbers that are the same in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 11) % limit as u64) as usize
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 1
    }
}

/// A layer to be cached.
pub(crate) struct Sample {
    pub(crate) key: Key,
    pub(crate) table: ChunkTable,
    contents: Vec<Vec<u8>>,
}

impl Sample {
    /// A layer of `count` chunks of `length` bytes, but every fifth is half as long and every seventh all zeros.
    pub(crate) fn new(seed: u64, count: usize, length: usize) -> Sample {
        Sample::of(Algorithm::Sha256, seed, count, length)
    }

    /// The same, with digests of this algorithm.
    pub(crate) fn of(algorithm: Algorithm, seed: u64, count: usize, length: usize) -> Sample {
        let mut random = Random::new(seed);
        let mut contents = Vec::new();
        let mut chunks = Vec::new();
        let mut data_offset = 0u64;
        let mut blob_offset = 0;
        for index in 0..count {
            let zeros = index % 7 == 6;
            let length = if index % 5 == 4 { length / 2 } else { length };
            let content: Vec<u8> = match zeros {
                true => vec![0; length],
                // Never a zero: what is lost is zeros, and must not look right.
                false => (0..length).map(|_| random.next() as u8 | 1).collect(),
            };
            let blob_length = if zeros { 0 } else { length as u32 };
            chunks.push(Chunk {
                data_offset,
                length: length as u32,
                blob_length,
                blob_offset,
                inner_offset: 0,
                compression: Compression::Gzip,
                algorithm,
                digest: hash(algorithm, &content),
            });
            blob_offset += u64::from(blob_length);
            data_offset = (data_offset + length as u64).next_multiple_of(4096);
            contents.push(content);
        }
        let end = chunks.last().map_or(0, Chunk::data_end);
        Sample {
            key: key(seed),
            table: ChunkTable::new(Compression::Gzip, end, chunks).unwrap(),
            contents,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.contents.len()
    }

    pub(crate) fn is_zeros(&self, index: usize) -> bool {
        self.table.chunks()[index].is_zeros()
    }

    /// The chunks that have to be put.
    pub(crate) fn real(&self) -> Vec<usize> {
        (0..self.len())
            .filter(|index| !self.is_zeros(*index))
            .collect()
    }

    pub(crate) fn chunk(&self, index: usize) -> Verified<&[u8]> {
        let digest = self.table.chunks()[index].digest();
        Verified::check(self.contents[index].as_slice(), &digest).unwrap()
    }

    pub(crate) fn meta(&self) -> Meta {
        Meta {
            blob_bytes: self.key.blob.bytes()[0].into(),
            ..Meta::default()
        }
    }

    pub(crate) fn create(&self, cache: &Cache) -> std::sync::Arc<CachedLayer> {
        cache.create(&self.key, &self.table, self.meta()).unwrap()
    }

    pub(crate) fn put(&self, layer: &CachedLayer, index: usize) -> Put {
        layer.put(index, self.chunk(index))
    }

    pub(crate) fn put_all(&self, layer: &CachedLayer) {
        for index in self.real() {
            assert!(matches!(self.put(layer, index), Put::Stored | Put::Known));
        }
    }

    /// Reads chunk `index`: None if it is missing; panics if it is wrong.
    pub(crate) fn read(&self, layer: &CachedLayer, index: usize) -> Option<()> {
        let chunk = self.table.chunks()[index];
        let mut buffer = vec![0xaa; chunk.length as usize];
        match layer.read_at(chunk.data_offset, &mut buffer).unwrap() {
            Read::Missing(missing) => {
                assert_eq!(missing, index);
                None
            }
            Read::Done => {
                assert!(buffer == self.contents[index], "chunk {index} is wrong");
                Some(())
            }
        }
    }

    /// The chunks that can be read, all of which are checked.
    pub(crate) fn ready(&self, layer: &CachedLayer) -> Vec<usize> {
        let ready: Vec<usize> = (0..self.len())
            .filter(|index| layer.is_ready(*index))
            .collect();
        for index in &ready {
            assert!(
                self.read(layer, *index).is_some(),
                "chunk {index} is ready and missing"
            );
        }
        assert_eq!(ready.len(), layer.ready_chunks());
        ready
    }
}

/// The bytes of a digest.
pub(crate) fn hash(algorithm: Algorithm, content: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(content);
    hasher.finish().bytes().try_into().unwrap()
}

pub(crate) fn key(seed: u64) -> Key {
    Key::new(
        Digest::of(format!("blob {seed}").as_bytes()),
        Digest::of(format!("table of contents {seed}").as_bytes()),
    )
}

/// A directory in memory, where there is one: most tests do not want to wait for a disk.
pub(crate) fn temporary() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

pub(crate) fn open(dir: &std::path::Path) -> Cache {
    Cache::open(dir, Config::default()).unwrap()
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
