//! Tables of contents: JSON that becomes a tree and a chunk table.

mod assemble;
mod data;
mod entry;
mod layout;
mod stream;
#[cfg(test)]
mod tests;
mod text;
mod time;

use crate::chunk::ChunkTable;
use crate::digest::Digest;
use crate::error::FormatError;
use crate::inflate::Compression;
use crate::limits::Limits;
use crate::tree::{OpaqueXattr, Tree};

/// How a table of contents is packed, and how the blob's data is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TocKind {
    /// A gzipped tar with `stargz.index.json`, at the end of a gzipped blob (eStargz and its predecessor) or alone in a
    /// blob of its own (external).
    TarGzip,
    /// A zstd stream of JSON, in a blob of zstd frames: both dialects of zstd:chunked.
    Zstd,
}

impl TocKind {
    /// How the blob is compressed.
    pub fn compression(self) -> Compression {
        match self {
            TocKind::TarGzip => Compression::Gzip,
            TocKind::Zstd => Compression::Zstd,
        }
    }
}

/// What a table of contents must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TocDigest {
    /// The digest of its JSON: what stargz-snapshotter's tools annotate.
    Json(Digest),
    /// The digest of its compressed bytes: what containers/storage annotates.
    Compressed(Digest),
}

/// How much of a layer is worth having before anybody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landmark {
    /// The layer does not say.
    None,
    /// All that comes before these offsets.
    Prefetch {
        /// In the blob, in bytes.
        blob_offset: u64,
        /// In the data file, in bytes.
        data_offset: u64,
    },
    /// Nothing.
    NoPrefetch,
}

/// A layer whose table of contents was verified.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its files.
    pub tree: Tree,
    /// Their data.
    pub chunks: ChunkTable,
    /// What to fetch first.
    pub landmark: Landmark,
    /// Entries of the table of contents, chunks included.
    pub entries: u32,
}

/// How many bytes of JSON the table of contents `toc` has: what parsing it takes depends on that. Nothing is verified yet,
/// and no more than so many bytes are parsed.
///
/// Inflates all of a table that does not say.
pub fn toc_json_bytes(kind: TocKind, toc: &[u8], limits: &Limits) -> Result<u64, FormatError> {
    text::check_packed(toc, limits)?;
    stream::JsonStream::open(kind, toc, limits)?.bytes()
}

/// Verifies and parses the table of contents `toc` (as it is in its blob) of a layer whose files' data ends at
/// `payload_end` in its blob.
///
/// The digest is checked before anything is parsed; sizes are checked before anything is inflated. A small table is
/// inflated into memory; a large one is inflated twice, once to verify it and once to parse it as it comes, so that
/// it takes some 350 bytes for an entry and no more.
pub fn parse_toc(
    kind: TocKind,
    toc: &[u8],
    payload_end: u64,
    expected: &TocDigest,
    opaque: OpaqueXattr,
    limits: &Limits,
) -> Result<Layer, FormatError> {
    let text = text::verify(kind, toc, expected, limits)?;
    let mut assembler = assemble::Assembler::new(kind.compression(), payload_end, opaque, limits);
    text.parse(&mut assembler)?;
    assembler.finish()
}
