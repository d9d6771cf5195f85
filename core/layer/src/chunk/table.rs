//! A chunk table in the making, and how it is written.

use super::view::{Header, RECORD_BYTES, Version};
use super::{Chunk, ChunkTableError, ChunkTableRef};
use crate::digest::Algorithm;
use crate::inflate::Compression;

/// All chunks of a layer, sorted by their place in the data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTable {
    compression: Compression,
    algorithm: Algorithm,
    data_size: u64,
    chunks: Vec<Chunk>,
}

impl ChunkTable {
    /// A table of `chunks`, for a data file of `data_size` bytes, if it is one that [`ChunkTableRef::open`] accepts:
    /// sorted, not empty, not overlapping, inside the data file, with digests of one algorithm. `compression` is that of
    /// the blob; a chunk may have another one.
    pub fn new(
        compression: Compression,
        data_size: u64,
        chunks: Vec<Chunk>,
    ) -> Result<ChunkTable, ChunkTableError> {
        super::view::check(data_size, chunks.iter().copied())?;
        let algorithm = chunks.first().map(|chunk| chunk.algorithm);
        Ok(ChunkTable {
            compression,
            algorithm: algorithm.unwrap_or(Algorithm::Sha256),
            data_size,
            chunks,
        })
    }

    /// How the blob is compressed. What a chunk says of itself goes before.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The hash function of all digests.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Bytes of the data file.
    pub fn data_size(&self) -> u64 {
        self.data_size
    }

    /// The chunks.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// How many chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether the layer has no data.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The table as it is kept on disk: see [`ChunkTableRef`].
    pub fn encode(&self) -> Vec<u8> {
        let header = Header {
            version: self.version(),
            compression: self.compression,
            algorithm: self.algorithm,
            chunks: self.chunks.len() as u64,
            data_size: self.data_size,
            repeats: self.repeats(),
            contexts: 0,
        };
        let mut bytes = header.encode();
        bytes.reserve_exact(self.chunks.len() * RECORD_BYTES);
        for chunk in &self.chunks {
            // `check` has left the highest byte free.
            let inner = match header.version {
                Version::One => chunk.inner_offset,
                Version::Two => u64::from(chunk.compression.code()) << 56 | chunk.inner_offset,
            };
            bytes.extend_from_slice(&chunk.data_offset.to_le_bytes());
            bytes.extend_from_slice(&chunk.blob_offset.to_le_bytes());
            bytes.extend_from_slice(&inner.to_le_bytes());
            bytes.extend_from_slice(&chunk.length.to_le_bytes());
            bytes.extend_from_slice(&chunk.blob_length.to_le_bytes());
            bytes.extend_from_slice(&chunk.digest);
        }
        ChunkTableRef::seal(&mut bytes);
        bytes
    }

    /// The oldest version that can say it: what an older Pontoon has cached stays the same, and older ones can read what
    /// we cache.
    fn version(&self) -> Version {
        let mut chunks = self.chunks.iter();
        let is_plain = self.algorithm == Algorithm::Sha256
            && self.compression != Compression::Lz4Block
            && chunks.all(|chunk| chunk.compression == self.compression);
        match is_plain && !self.has_scattered_members() {
            true => Version::One,
            false => Version::Two,
        }
    }

    /// Whether chunks that do not follow each other come out of the same bytes of the blob.
    fn has_scattered_members(&self) -> bool {
        let fetched = self.chunks.iter().filter(|chunk| !chunk.is_zeros());
        let mut before = None;
        let starts = fetched.filter_map(|chunk| {
            let follows = before.is_some_and(|before: &Chunk| before.is_followed_by(chunk));
            before = Some(chunk);
            (!follows).then_some(chunk.blob_offset)
        });
        is_any_twice(starts.collect())
    }

    /// Whether two chunks have the same digest, as far as its first bytes tell.
    fn repeats(&self) -> bool {
        let fetched = self.chunks.iter().filter(|chunk| !chunk.is_zeros());
        is_any_twice(fetched.map(Chunk::digest_prefix).collect())
    }
}

fn is_any_twice(mut values: Vec<u64>) -> bool {
    values.sort_unstable();
    values.windows(2).any(|pair| pair[0] == pair[1])
}
