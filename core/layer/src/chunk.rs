//! Chunks: which bytes of the blob make which bytes of the data file.

mod table;
#[cfg(test)]
mod tests;
mod view;

pub use table::ChunkTable;
pub use view::{ChunkTableError, ChunkTableRef};

use crate::digest::{Algorithm, Digest};
use crate::inflate::Compression;

/// The data of a file begins at a multiple of this many bytes of the data file: the block of EROFS and the page of
/// memory.
pub const BLOCK_BYTES: u64 = 4096;

/// A piece of a file: what is fetched, inflated and verified as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins in the layer's data file, in bytes.
    pub data_offset: u64,
    /// Its decompressed length in bytes, at least 1.
    pub length: u32,
    /// How many bytes of the blob have to be fetched for it. 0: it is all zeros and nothing is fetched.
    pub blob_length: u32,
    /// Where these begin in the blob. Several chunks may share them. If the data is in several blobs, it is in all of
    /// them joined, one after another.
    pub blob_offset: u64,
    /// Where the chunk begins in what these inflate to.
    pub inner_offset: u64,
    /// How these are compressed.
    pub compression: Compression,
    /// The hash function of its digest: SHA-256 or BLAKE3.
    pub algorithm: Algorithm,
    /// The digest of the decompressed chunk. Meaningless if it is all zeros.
    pub digest: [u8; 32],
}

impl Chunk {
    /// The end of the chunk in the data file.
    pub fn data_end(&self) -> u64 {
        self.data_offset.saturating_add(u64::from(self.length))
    }

    /// The end of what has to be fetched.
    pub fn blob_end(&self) -> u64 {
        self.blob_offset.saturating_add(u64::from(self.blob_length))
    }

    /// Whether it is all zeros, so that nothing is fetched for it.
    pub fn is_zeros(&self) -> bool {
        self.blob_length == 0
    }

    /// Its digest, for [`crate::Verified::check`].
    pub fn digest(&self) -> Digest {
        match self.algorithm {
            Algorithm::Blake3 => Digest::blake3(self.digest),
            // No table has another one.
            Algorithm::Sha256 | Algorithm::Sha512 => Digest::sha256(self.digest),
        }
    }

    /// The first 8 bytes of its digest, in an order of which all that matters is that it is one.
    pub fn digest_prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.digest;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Whether `next` comes out of the same bytes of the blob as this one, behind it: then one pass gives both.
    fn is_followed_by(&self, next: &Chunk) -> bool {
        let same = self.blob_offset == next.blob_offset
            && self.blob_length == next.blob_length
            && self.compression == next.compression;
        same && self.inner_offset < next.inner_offset
    }
}
