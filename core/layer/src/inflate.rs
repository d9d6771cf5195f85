//! Decompression with bounded output.

use bytes::Bytes;

/// How the parts of a blob are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip members.
    Gzip,
    /// Zstandard frames.
    Zstd,
}

impl Compression {
    pub(crate) fn code(self) -> u32 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Zstd => 2,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Compression> {
        match code {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// Why compressed data cannot be inflated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// Not of the format, or damaged.
    #[error("damaged {compression:?} data: {reason}")]
    Damaged {
        /// The format it should have.
        compression: Compression,
        /// What is wrong.
        reason: String,
    },
    /// It ends before what was asked for.
    #[error("the compressed data ends after {have} bytes, {want} were expected")]
    Short {
        /// Bytes that came out.
        have: u64,
        /// Bytes that were wanted.
        want: u64,
    },
    /// More comes out than is allowed.
    #[error("the compressed data has more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
}

/// A compressed stream, out of which chunks are taken in one pass.
#[derive(Debug)]
pub struct Member<'a> {
    bytes: &'a [u8],
}

impl<'a> Member<'a> {
    /// The stream that `bytes` begin with: one or more gzip members or zstd frames.
    pub fn new(_compression: Compression, bytes: &'a [u8]) -> Member<'a> {
        Member { bytes }
    }

    /// The `length` bytes from `offset` on of what the stream inflates to. What is before them is inflated and thrown
    /// away, nothing behind them is inflated; so ask in ascending order. Going back begins again.
    pub fn read(&mut self, _offset: u64, _length: u32) -> Result<Bytes, InflateError> {
        let _ = self.bytes;
        unimplemented!()
    }
}

/// The `length` bytes from `inner_offset` on of what `member` inflates to.
pub fn inflate(
    compression: Compression,
    member: &[u8],
    inner_offset: u64,
    length: u32,
) -> Result<Bytes, InflateError> {
    Member::new(compression, member).read(inner_offset, length)
}
