//! The data of a layer: which chunks each file has.

use std::mem;

use super::entry::TocEntry;
use crate::chunk::{BLOCK_BYTES, Chunk};
use crate::digest::{Algorithm, Digest};
use crate::error::FormatError;
use crate::inflate::Compression;
use crate::limits::Limits;
use crate::tree::NodeId;

/// The files and chunks of a table of contents, in its order.
pub(super) struct Data<'l> {
    pub(super) limits: &'l Limits,
    compression: Compression,
    pub(super) payload_end: u64,
    /// All chunks so far; their data offsets still count from the beginning of their file.
    pub(super) chunks: Vec<Chunk>,
    pub(super) files: Vec<File>,
    /// Where members begin in the blob, as far as entries say so.
    pub(super) boundaries: Vec<u64>,
    current: Current,
    /// Bytes of all files, each rounded up to blocks.
    total: u64,
}

/// A regular file with data.
#[derive(Debug, Clone, Copy)]
pub(super) struct File {
    pub(super) node: NodeId,
    pub(super) size: u64,
    /// Its first chunk. The last one is before the first one of the next file.
    pub(super) first: usize,
}

/// What the last entry was that was no chunk, and so what chunks belong to.
enum Current {
    /// Nothing that can have chunks.
    Other,
    /// Something whose data nobody wants.
    Ignored,
    File {
        path: String,
        size: u64,
        /// How much of it has come.
        position: u64,
    },
}

/// The blob length of a chunk until it is known where the next one begins.
const UNKNOWN: u32 = u32::MAX;

impl<'l> Data<'l> {
    pub(super) fn new(compression: Compression, payload_end: u64, limits: &'l Limits) -> Data<'l> {
        Data {
            limits,
            compression,
            payload_end,
            chunks: Vec::new(),
            files: Vec::new(),
            boundaries: Vec::new(),
            current: Current::Other,
            total: 0,
        }
    }

    /// How many files came so far.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    /// The size of all files if one of `size` bytes is added.
    pub(super) fn check_total(&self, size: u64) -> Result<u64, FormatError> {
        let padded = size.checked_next_multiple_of(BLOCK_BYTES);
        let total = padded.and_then(|padded| self.total.checked_add(padded));
        let total = total.unwrap_or(u64::MAX);
        FormatError::check_limit(
            "the size of all files together in bytes",
            total,
            self.limits.data_bytes_max,
        )?;
        Ok(total)
    }

    /// A regular file, of which `entry` may be the first chunk.
    pub(super) fn begin(
        &mut self,
        path: String,
        node: NodeId,
        entry: &TocEntry,
    ) -> Result<(), FormatError> {
        self.note_boundaries(entry);
        if entry.size == 0 {
            return Ok(());
        }
        self.total = self.check_total(entry.size)?;
        self.files.push(File {
            node,
            size: entry.size,
            first: self.chunks.len(),
        });
        self.current = Current::File {
            path,
            size: entry.size,
            position: 0,
        };
        self.data(entry)
    }

    /// Something whose data nobody wants.
    #[expect(clippy::unnecessary_wraps, reason = "as its sister")]
    pub(super) fn ignore(&mut self, entry: &TocEntry) -> Result<(), FormatError> {
        self.note_boundaries(entry);
        self.current = Current::Ignored;
        Ok(())
    }

    /// One more chunk of what came before.
    pub(super) fn chunk(&mut self, entry: &TocEntry) -> Result<(), FormatError> {
        self.note_boundaries(entry);
        match self.current {
            Current::Ignored => Ok(()),
            Current::File { .. } => self.data(entry),
            Current::Other => Err(FormatError::entry(
                &entry.name,
                "is a chunk and does not follow a file with data",
            )),
        }
    }

    /// Members begin where data does, and in containers/storage's tables also where it ends.
    fn note_boundaries(&mut self, entry: &TocEntry) {
        for boundary in [entry.offset, entry.end_offset] {
            if boundary != 0 && self.boundaries.last() != Some(&boundary) {
                self.boundaries.push(boundary);
            }
        }
    }

    /// The last file must be complete when something else comes.
    pub(super) fn end_file(&mut self) -> Result<(), FormatError> {
        match mem::replace(&mut self.current, Current::Other) {
            Current::File {
                path,
                size,
                position,
            } if position != size => {
                let reason = format!("has chunks for {position} of its {size} bytes");
                Err(FormatError::entry(&path, reason))
            }
            _ => Ok(()),
        }
    }

    /// The next chunk of the current file.
    fn data(&mut self, entry: &TocEntry) -> Result<(), FormatError> {
        let Current::File {
            path,
            size,
            position,
        } = &mut self.current
        else {
            return Ok(());
        };
        let refuse = |reason: String| FormatError::entry(path, reason);
        if entry.chunk_offset != *position {
            return Err(refuse(format!(
                "has a chunk at {} where one at {position} is due",
                entry.chunk_offset
            )));
        }
        let left = *size - *position;
        let length = match entry.chunk_size {
            0 => left,
            length => length,
        };
        if length == 0 || length > left {
            return Err(refuse(format!(
                "has a chunk of {length} bytes at {position} of its {size}"
            )));
        }
        if entry.offset >= self.payload_end {
            return Err(refuse(format!(
                "has a chunk at {} of a blob whose data ends at {}",
                entry.offset, self.payload_end
            )));
        }
        let start = *position;
        *position += length;
        match entry.chunk_type.as_str() {
            "" => {}
            "zeros" => return self.zeros(entry.offset, start, length),
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(refuse(format!("has a chunk of the unknown type {other:?}")));
            }
        }
        let length = within(length, self.limits.chunk_bytes_max)?;
        let inner_end = entry.inner_offset.saturating_add(u64::from(length));
        FormatError::check_limit(
            "the size of a compressed stream with several chunks in bytes",
            inner_end,
            self.limits.member_inflated_bytes_max,
        )?;
        let digest = chunk_digest(path, entry, start, u64::from(length) == *size)?;
        self.chunks.push(Chunk {
            data_offset: start,
            length,
            blob_length: UNKNOWN,
            blob_offset: entry.offset,
            inner_offset: entry.inner_offset,
            compression: self.compression,
            algorithm: Algorithm::Sha256,
            digest,
        });
        Ok(())
    }

    /// Zeros, in pieces that are not too long to be handled as a whole.
    fn zeros(&mut self, blob_offset: u64, start: u64, length: u64) -> Result<(), FormatError> {
        let end = start + length;
        let mut data_offset = start;
        while data_offset < end {
            let piece = (end - data_offset).min(u64::from(self.limits.chunk_bytes_max.max(1)));
            self.chunks.push(Chunk {
                data_offset,
                length: within(piece, u32::MAX)?,
                blob_length: 0,
                blob_offset,
                inner_offset: 0,
                compression: self.compression,
                algorithm: Algorithm::Sha256,
                digest: [0; 32],
            });
            data_offset += piece;
        }
        Ok(())
    }
}

/// `length`, if a chunk may have it.
fn within(length: u64, limit: u32) -> Result<u32, FormatError> {
    FormatError::check_limit("the size of a chunk in bytes", length, u64::from(limit))?;
    Ok(u32::try_from(length).unwrap_or(limit))
}

/// The digest of the chunk of a file that `entry` is: its own, or the file's if the chunk is all of it.
fn chunk_digest(
    path: &str,
    entry: &TocEntry,
    start: u64,
    whole: bool,
) -> Result<[u8; 32], FormatError> {
    let text = if entry.chunk_digest.is_empty() && whole {
        &entry.digest
    } else {
        &entry.chunk_digest
    };
    let digest: Option<Digest> = text.parse().ok();
    let digest = digest.as_ref().and_then(Digest::as_sha256).copied();
    digest.ok_or_else(|| FormatError::Unverifiable {
        path: path.chars().take(200).collect(),
        what: format!("its chunk at {start}"),
    })
}
