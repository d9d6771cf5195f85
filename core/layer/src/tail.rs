//! The end of a blob: a footer says where the table of contents is.

use std::ops::Range;

use crate::error::FormatError;
use crate::limits::Limits;

/// How many bytes at the end of a blob [`parse_tail`] needs to see. It takes more, too, and a table of contents is
/// usually among the last hundreds of kibibytes.
pub const TAIL_BYTES: usize = 72;

/// Where a table of contents is in its blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocPlace {
    /// Its compressed bytes.
    pub range: Range<u64>,
    /// Where files' data ends in the blob.
    pub payload_end: u64,
}

/// What the end of a blob says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// eStargz: a footer of 51 bytes.
    Estargz(TocPlace),
    /// stargz, as CRFS wrote it: a footer of 47 bytes.
    Stargz(TocPlace),
    /// eStargz whose table of contents is in another blob: a footer of 46 bytes.
    ExternalToc {
        /// Where files' data ends in the blob.
        payload_end: u64,
    },
    /// zstd:chunked as stargz-snapshotter writes it: a footer of 40 bytes.
    ZstdChunked(TocPlace),
    /// zstd:chunked as containers/storage (Podman, Buildah, Skopeo) writes it: a footer of 64 bytes.
    Podman(TocPlace),
}

/// Reads the footer at the end of `tail`, the last bytes of a blob of `blob_size` bytes: at least [`TAIL_BYTES`] of
/// them, or all. `None` if there is no footer: the layer is an ordinary one.
pub fn parse_tail(
    _tail: &[u8],
    _blob_size: u64,
    _limits: &Limits,
) -> Result<Option<Tail>, FormatError> {
    unimplemented!()
}
