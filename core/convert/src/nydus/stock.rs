//! The chunks and the blobs of an image, as far as it is converted.

use std::collections::HashMap;

use pontoon_layer::Digest;

/// The raw hash of a chunk, decompressed.
pub(super) type Hash = [u8; 32];

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) hash: Hash,
    /// The number of its blob in the image.
    pub(super) blob: u32,
    /// Its number in the blob.
    pub(super) index: u32,
    pub(super) compressed: bool,
    /// Where it begins in the blob, and how many bytes it has there.
    pub(super) offset: u64,
    pub(super) stored_bytes: u32,
    /// Where it begins in the blob, were that decompressed and each chunk at a multiple of the block.
    pub(super) data_offset: u64,
    pub(super) bytes: u32,
}

/// A blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    /// All of it.
    pub(super) bytes: u64,
    pub(super) chunks: u32,
    /// Bytes of its chunks, decompressed and each at a multiple of the block.
    pub(super) data_bytes: u64,
    pub(super) table: Table,
}

/// Where a blob says where its chunks are, and how that is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) compression: super::ChunkCompression,
    pub(super) offset: u64,
    pub(super) stored_bytes: u64,
    pub(super) bytes: u64,
}

/// What the layers of an image have brought so far. A chunk's number is its place in `chunks`.
#[derive(Debug, Default)]
pub(super) struct Stock {
    pub(super) chunks: Vec<Chunk>,
    pub(super) blobs: Vec<Blob>,
    numbers: HashMap<Hash, u32>,
}

impl Stock {
    /// The number of the chunk with this hash.
    pub(super) fn find(&self, hash: &Hash) -> Option<u32> {
        self.numbers.get(hash).copied()
    }

    /// Goes on with what one more layer has brought.
    pub(super) fn extend(&mut self, chunks: &[Chunk], blob: Option<&Blob>) {
        for chunk in chunks {
            let number = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
            self.numbers.insert(chunk.hash, number);
            self.chunks.push(*chunk);
        }
        self.blobs.extend(blob.cloned());
    }
}
