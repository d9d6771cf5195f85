//! Chunks: where their data is, and what makes files of it.

use bytes::Bytes;

use super::blob::{Blob, Compressor};
use super::field::{array_at, u32_at, u64_at};
use super::zran::Indexes;
use super::{malformed, unsupported};
use crate::digest::{Algorithm, Digest};
use crate::error::FormatError;
use crate::inflate::{Compression, InflateError, inflate};
use crate::limits::Limits;
use crate::verified::{DigestMismatch, Verified};

/// Bytes of a record of the chunk table.
pub(super) const RECORD_BYTES: usize = 80;

const FLAG_COMPRESSED: u32 = 1;
const FLAG_ENCRYPTED: u32 = 4;
const FLAG_BATCH: u32 = 8;
/// It has a CRC-32 too, which a digest makes pointless.
const FLAG_CRC32: u32 = 0x10;

/// A piece of a file: what is fetched, decompressed and verified as a whole. A piece that is in several files, or twice
/// in one, is there several times, with the same place in the same blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins in the image's data file, in bytes.
    pub data_offset: u64,
    /// Its decompressed length in bytes, at least 1.
    pub length: u32,
    /// The number of its blob.
    pub blob: u32,
    /// Where what has to be fetched for it begins in the blob: the chunk, or what is behind its context.
    pub blob_offset: u64,
    /// How many bytes of the blob that is.
    pub blob_length: u32,
    /// The number of its context in [`super::Image::contexts`], if it is in a gzip layer. Chunks with the same context come
    /// out of the same bytes.
    pub context: Option<u32>,
    /// Where it begins in what these bytes decompress to: 0 without a context.
    pub inner_offset: u64,
    /// How these are compressed. A chunk that does not become smaller is stored as it is.
    pub compressor: Compressor,
    /// The hash function of its digest.
    pub algorithm: Algorithm,
    /// The BLAKE3 or the SHA-256 of the decompressed chunk.
    pub digest: [u8; 32],
}

/// Why what was fetched is not the chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// It cannot be decompressed.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// It is something else.
    #[error(transparent)]
    Digest(#[from] DigestMismatch),
}

impl Chunk {
    /// Its digest. Not one that a manifest could have, if it is a BLAKE3.
    pub fn digest(&self) -> Digest {
        match self.algorithm {
            Algorithm::Blake3 => Digest::blake3(self.digest),
            _ => Digest::sha256(self.digest),
        }
    }

    /// The chunk out of `bytes`, which are [`Chunk::blob_length`] bytes from [`Chunk::blob_offset`] of its blob. Takes
    /// memory for its length, whatever the bytes are. Not for a chunk with a context: see [`super::Image::unpack`].
    pub fn unpack(&self, bytes: &[u8]) -> Result<Verified<Bytes>, ChunkError> {
        let data = unpack(self.compressor, bytes, self.length)?;
        Ok(Verified::check(data, &self.digest())?)
    }
}

/// The `length` bytes that `bytes` decompress to.
pub(super) fn unpack(
    compressor: Compressor,
    bytes: &[u8],
    length: u32,
) -> Result<Bytes, ChunkError> {
    let compression = match compressor {
        Compressor::Lz4Block => Compression::Lz4Block,
        Compressor::None => Compression::None,
        Compressor::Gzip => Compression::Gzip,
        Compressor::Zstd => Compression::Zstd,
    };
    Ok(inflate(compression, bytes, 0, length)?)
}

/// What is known of a chunk in a blob, wherever it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub(super) blob: u32,
    /// Its number in the blob.
    pub(super) index: u32,
    pub(super) compressed: bool,
    pub(super) blob_offset: u64,
    pub(super) blob_length: u32,
    /// Where it is in the blob if that were decompressed, each chunk at a multiple of the block.
    pub(super) data_offset: u64,
    pub(super) length: u32,
    pub(super) digest: [u8; 32],
}

impl Record {
    /// Reads a record of the bootstrap's table.
    pub(super) fn read(record: &[u8; RECORD_BYTES]) -> Result<Record, FormatError> {
        let word = |at| u32_at(record, at).unwrap_or_default();
        let long = |at| u64_at(record, at).unwrap_or_default();
        let flags = word(36);
        if flags & FLAG_ENCRYPTED != 0 {
            return Err(unsupported("an encrypted chunk"));
        }
        if flags & FLAG_BATCH != 0 {
            return Err(unsupported("a chunk that shares a compressed unit (batch)"));
        }
        if flags & !(FLAG_COMPRESSED | FLAG_CRC32) != 0 {
            return Err(unsupported(format!(
                "a chunk with the unknown flags {flags:#x}"
            )));
        }
        Ok(Record {
            digest: array_at(record, 0).unwrap_or([0; 32]),
            blob: word(32),
            compressed: flags & FLAG_COMPRESSED != 0,
            blob_length: word(40),
            length: word(44),
            blob_offset: long(48),
            data_offset: long(56),
            index: word(72),
        })
    }

    /// The chunk at `data_offset` of the image's data file that has to have `length` bytes.
    pub(super) fn chunk(
        &self,
        blob: &Blob,
        data_offset: u64,
        length: u32,
        indexes: &Indexes<'_>,
        limits: &Limits,
    ) -> Result<Chunk, FormatError> {
        let refuse = |reason: String| {
            malformed(format!(
                "chunk {} of its blob {} {reason}",
                self.index, self.blob
            ))
        };
        if self.length != length {
            return Err(refuse(format!(
                "has {} bytes instead of {length}",
                self.length
            )));
        }
        FormatError::check_limit(
            "the size of a chunk in bytes",
            u64::from(length),
            u64::from(limits.chunk_bytes_max),
        )?;
        let chunk = Chunk {
            data_offset,
            length,
            blob: self.blob,
            blob_offset: self.blob_offset,
            blob_length: self.blob_length,
            context: None,
            inner_offset: 0,
            compressor: if self.compressed {
                blob.compressor
            } else {
                Compressor::None
            },
            algorithm: blob.algorithm,
            digest: self.digest,
        };
        if blob.index_blob.is_some() {
            let (number, context, inner_offset) = indexes.find(self)?;
            return Ok(Chunk {
                blob_offset: context.blob_offset,
                blob_length: context.blob_length,
                context: Some(number),
                inner_offset,
                compressor: Compressor::Gzip,
                ..chunk
            });
        }
        FormatError::check_limit(
            "the compressed size of a chunk in bytes",
            u64::from(self.blob_length),
            u64::from(limits.member_bytes_max),
        )?;
        let end = self.blob_offset.checked_add(u64::from(self.blob_length));
        if self.blob_length == 0 || end.is_none_or(|end| end > blob.size) {
            return Err(refuse(format!(
                "cannot be {} bytes at {} of {}",
                self.blob_length, self.blob_offset, blob.size
            )));
        }
        if !self.compressed && self.blob_length != length {
            return Err(refuse("is stored as it is, with another length".to_owned()));
        }
        Ok(chunk)
    }
}
