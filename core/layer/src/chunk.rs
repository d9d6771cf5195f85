//! Chunks: which bytes of the blob make which bytes of the data file.

mod table;
#[cfg(test)]
mod tests;
mod view;

pub use table::ChunkTable;
pub use view::{ChunkTableError, ChunkTableRef};

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
    /// Where these begin in the blob. Several chunks may share them.
    pub blob_offset: u64,
    /// Where the chunk begins in what these inflate to.
    pub inner_offset: u64,
    /// The SHA-256 of the decompressed chunk. Meaningless if it is all zeros.
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
    pub fn digest(&self) -> crate::Digest {
        crate::Digest::sha256(self.digest)
    }
}
