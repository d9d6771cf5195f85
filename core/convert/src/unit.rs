//! What is compressed as a whole.

use pontoon_layer::Digest;
use pontoon_unpack::Entry;

/// A chunk of a file, and what follows it up to the next data.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    /// The chunk, and behind it padding and headers.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of the chunk; 0 if there is none.
    pub(crate) chunk_bytes: usize,
    pub(crate) notes: Notes,
}

/// What the table of contents has to say of a unit.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) chunk: Option<ChunkNote>,
    /// What follows the chunk and has no data.
    pub(crate) entries: Vec<Entry>,
}

/// A chunk.
#[derive(Debug)]
pub(crate) struct ChunkNote {
    /// The file, if this is its first chunk.
    pub(crate) file: Option<Entry>,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Whether the file ends with it.
    pub(crate) last: bool,
    /// Of all of the file, if it has several chunks and this is the last one.
    pub(crate) whole: Option<Digest>,
}

/// A unit, compressed.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    /// Where the chunk's stream ends in them, at the earliest.
    pub(crate) chunk_end: usize,
    /// Decompressed bytes of the chunk.
    pub(crate) chunk_bytes: usize,
    /// Of the chunk.
    pub(crate) digest: Option<Digest>,
    pub(crate) notes: Notes,
}
