//! A chunk table in the making, and how it is written.

use super::view::{HEADER_BYTES, MAGIC, RECORD_BYTES, VERSION};
use super::{Chunk, ChunkTableError, ChunkTableRef};
use crate::inflate::Compression;

/// All chunks of a layer, sorted by their place in the data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTable {
    compression: Compression,
    data_size: u64,
    chunks: Vec<Chunk>,
}

impl ChunkTable {
    /// A table of `chunks`, for a data file of `data_size` bytes, if it is one that [`ChunkTableRef::open`] accepts:
    /// sorted, not empty, not overlapping, inside the data file.
    pub fn new(
        compression: Compression,
        data_size: u64,
        chunks: Vec<Chunk>,
    ) -> Result<ChunkTable, ChunkTableError> {
        super::view::check(data_size, chunks.iter().copied())?;
        Ok(ChunkTable {
            compression,
            data_size,
            chunks,
        })
    }

    /// How the blob is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
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
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.chunks.len() * RECORD_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.compression.code().to_le_bytes());
        bytes.extend_from_slice(&(self.chunks.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.data_size.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.data_offset.to_le_bytes());
            bytes.extend_from_slice(&chunk.blob_offset.to_le_bytes());
            bytes.extend_from_slice(&chunk.inner_offset.to_le_bytes());
            bytes.extend_from_slice(&chunk.length.to_le_bytes());
            bytes.extend_from_slice(&chunk.blob_length.to_le_bytes());
            bytes.extend_from_slice(&chunk.digest);
        }
        ChunkTableRef::seal(&mut bytes);
        bytes
    }
}
