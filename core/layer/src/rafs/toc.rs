//! The table of contents at the end of a blob.

use std::ops::Range;

use bytes::Bytes;

use super::blob::{Blob, Compressor};
use super::chunk::unpack;
use super::field::{array_at, u32_at, u64_at};
use crate::digest::Digest;
use crate::error::FormatError;
use crate::limits::Limits;
use crate::verified::Verified;

/// What was to be read, in errors.
const WHAT: &str = "the table of contents of a RAFS blob";

/// Behind it.
const TAR_HEADER_BYTES: usize = 512;

const ENTRY_BYTES: usize = 128;

/// What nydus reads at most.
const TOC_BYTES_MAX: u64 = 4096;

/// The parts of a blob: their names, places and digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    entries: Vec<TocEntry>,
}

/// A part of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TocEntry {
    /// What it is: `image.blob` (chunks), `blob.meta` (places of chunks), `blob.digest` (digests of chunks),
    /// `image.boot` (a bootstrap).
    pub name: String,
    /// Its compressed bytes in the blob.
    pub range: Range<u64>,
    /// Its decompressed size in bytes; that of `image.blob` with each chunk at a multiple of the block.
    pub size: u64,
    /// How it is compressed as a whole: `image.blob` is not, its chunks may be.
    pub compressor: Compressor,
    /// The SHA-256 of what it decompresses to, of `image.blob` as it is.
    pub digest: Digest,
}

impl Toc {
    /// The table in `bytes`, which are the last [`Blob::toc_size`] bytes of `blob`: they must have the digest that the
    /// bootstrap names.
    pub fn parse(bytes: &[u8], blob: &Blob) -> Result<Toc, FormatError> {
        if blob.toc_size == 0 {
            return Err(FormatError::Unverifiable {
                path: blob.id.clone(),
                what: "its table of contents".to_owned(),
            });
        }
        FormatError::check_limit(
            "the size of a blob's table of contents in bytes",
            bytes.len() as u64,
            TOC_BYTES_MAX,
        )?;
        let bytes = Verified::check(bytes, &blob.toc_digest)?;
        let length = bytes.len().checked_sub(TAR_HEADER_BYTES);
        let Some((entries, [])) = length
            .and_then(|length| bytes.get(..length))
            .map(<[u8]>::as_chunks::<ENTRY_BYTES>)
        else {
            return Err(FormatError::malformed(
                WHAT,
                format!("{} bytes are no whole entries", bytes.len()),
            ));
        };
        let entries = entries.iter().map(|entry| TocEntry::read(entry, blob));
        Ok(Toc {
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    /// The part of that name.
    pub fn find(&self, name: &str) -> Option<&TocEntry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// All parts.
    pub fn entries(&self) -> &[TocEntry] {
        &self.entries
    }
}

impl TocEntry {
    fn read(entry: &[u8], blob: &Blob) -> Result<TocEntry, FormatError> {
        let name: [u8; 16] = array_at(entry, 8).unwrap_or_default();
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        let name = String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned();
        let refuse =
            |reason: &str| FormatError::malformed(WHAT, format!("its entry {name:?} {reason}"));
        let compressor = match u32_at(entry, 0) {
            Some(1) => Compressor::None,
            Some(2) => Compressor::Zstd,
            Some(4) => Compressor::Lz4Block,
            _ => return Err(refuse("has an unknown compression")),
        };
        let long = |at| u64_at(entry, at).unwrap_or_default();
        let (offset, length, size) = (long(56), long(64), long(72));
        let end = offset.checked_add(length).filter(|end| *end <= blob.size);
        let Some(end) = end else {
            return Err(refuse("is not inside the blob"));
        };
        let digest = array_at(entry, 24).unwrap_or([0; 32]);
        Ok(TocEntry {
            range: offset..end,
            size,
            compressor,
            digest: Digest::sha256(digest),
            name,
        })
    }

    /// What the part decompresses to, if it is one that is compressed as a whole; `bytes` are its [`TocEntry::range`] of the blob.
    pub fn unpack(&self, bytes: &[u8], limits: &Limits) -> Result<Verified<Bytes>, FormatError> {
        FormatError::check_limit(
            "the size of a part of a blob in bytes",
            self.size,
            limits.toc_json_bytes_max,
        )?;
        let given = bytes.len() as u64;
        if given != self.range.end - self.range.start
            || self.compressor == Compressor::None && given != self.size
        {
            let reason = format!("{given} bytes cannot be its part {:?}", self.name);
            return Err(FormatError::malformed(WHAT, reason));
        }
        let size = u32::try_from(self.size).unwrap_or(u32::MAX);
        let data = unpack(self.compressor, bytes, size).map_err(|error| {
            FormatError::malformed(WHAT, format!("its part {:?}: {error}", self.name))
        })?;
        Ok(Verified::check(data, &self.digest)?)
    }
}
