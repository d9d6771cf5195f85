//! The table of blobs.

use super::field::{array_at, u32_at, u64_at};
use super::zran::IndexBlob;
use super::{malformed, unsupported};
use crate::digest::{Algorithm, Digest};
use crate::error::FormatError;

/// Bytes of a record of the table.
pub(super) const RECORD_BYTES: usize = 256;

/// A chunk names its blob by 8 bits, counted from 1.
const BLOBS_MAX: u64 = 255;

/// Compressed bytes of a blob: chunks have 40 bits for their places.
const BLOB_BYTES_MAX: u64 = 1 << 40;

mod features {
    pub(super) const ALIGNED: u32 = 1;
    pub(super) const INLINED_META: u32 = 2;
    pub(super) const CHUNK_INFO_V2: u32 = 4;
    pub(super) const ZRAN: u32 = 8;
    pub(super) const SEPARATE: u32 = 0x10;
    pub(super) const INLINED_DIGESTS: u32 = 0x20;
    pub(super) const TARFS: u32 = 0x40;
    pub(super) const BATCH: u32 = 0x80;
    pub(super) const ENCRYPTED: u32 = 0x100;
    pub(super) const CHUNK_DICT: u32 = 0x200;
    pub(super) const SEPARATE_PREFETCH: u32 = 0x400;
    pub(super) const EXTERNAL: u32 = 0x800;
    /// A tar header after each part, a table of contents, and both as newer writers make them.
    pub(super) const TAR_AND_TOC: u32 = 0x7000_0000;
    pub(super) const KNOWN: u32 = ALIGNED
        | INLINED_META
        | CHUNK_INFO_V2
        | ZRAN
        | SEPARATE
        | INLINED_DIGESTS
        | CHUNK_DICT
        | SEPARATE_PREFETCH
        | TAR_AND_TOC;
}

/// What a blob with the feature `ZRAN` has too.
const ZRAN_TOO: u32 = features::CHUNK_INFO_V2 | features::SEPARATE;

/// How the chunks of a blob are compressed: each alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// Not at all.
    None,
    /// An LZ4 block, without frame and length.
    Lz4Block,
    /// A gzip member, or that what the context of a chunk inflates to.
    Gzip,
    /// A Zstandard frame.
    Zstd,
}

impl Compressor {
    pub(super) fn from_code(code: u32) -> Option<Compressor> {
        match code {
            0 => Some(Compressor::None),
            1 => Some(Compressor::Lz4Block),
            2 => Some(Compressor::Gzip),
            3 => Some(Compressor::Zstd),
            _ => None,
        }
    }
}

/// A blob of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its name. In the bootstrap of an image from a registry it is the SHA-256 of its layer in hexadecimal digits, in
    /// that of a single layer may be that of a part of it. With an [`Blob::index_blob`] it is that of the gzip layer.
    pub id: String,
    /// Its number: chunks name it.
    pub index: u32,
    /// How its chunks are compressed.
    pub compressor: Compressor,
    /// The hash function of its chunks' digests.
    pub algorithm: Algorithm,
    /// Bytes of the layer, as far as chunks may be in it.
    pub size: u64,
    /// How many chunks it has.
    pub chunks: u32,
    /// If the chunks are in an ordinary gzip layer, the blob that says how to get at them. The gzip layer is then none
    /// of the image's layers, this one is.
    pub index_blob: Option<IndexBlob>,
    /// Bytes of the table of contents at its end; 0 if it has none whose digest is known.
    pub toc_size: u32,
    pub(super) toc_digest: Digest,
    features: u32,
}

impl Blob {
    pub(super) fn table(bytes: &[u8], chunk_bytes: u32) -> Result<Vec<Blob>, FormatError> {
        let (records, _) = bytes.as_chunks::<RECORD_BYTES>();
        FormatError::check_limit(
            "the number of blobs of the image",
            records.len() as u64,
            BLOBS_MAX,
        )?;
        (0..)
            .zip(records)
            .map(|(index, record)| Blob::read(index, record, chunk_bytes))
            .collect()
    }

    fn read(index: u32, record: &[u8], chunk_bytes: u32) -> Result<Blob, FormatError> {
        let word = |at| u32_at(record, at).unwrap_or_default();
        let refuse = |reason: String| malformed(format!("its blob {index} {reason}"));
        let id: [u8; 64] = array_at(record, 0).unwrap_or([0; 64]);
        let end = id.iter().position(|byte| *byte == 0).unwrap_or(id.len());
        let id = id.get(..end).unwrap_or_default();
        if id.is_empty() || !id.iter().all(u8::is_ascii_alphanumeric) {
            return Err(refuse("has a name that no blob has".to_owned()));
        }
        if word(64) != index || word(68) != chunk_bytes {
            return Err(refuse(format!(
                "has the number {} and chunks of {} bytes",
                word(64),
                word(68)
            )));
        }
        let features = word(84);
        check_features(features)?;
        let compressor = Compressor::from_code(word(76));
        let algorithm = match word(80) {
            0 => Some(Algorithm::Blake3),
            1 => Some(Algorithm::Sha256),
            _ => None,
        };
        let (Some(compressor), Some(algorithm)) = (compressor, algorithm) else {
            return Err(refuse(
                "has an unknown compression or hash function".to_owned(),
            ));
        };
        let size = u64_at(record, 88).unwrap_or_default();
        FormatError::check_limit("the size of a blob in bytes", size, BLOB_BYTES_MAX)?;
        let digest: [u8; 32] = array_at(record, 136).unwrap_or([0; 32]);
        let id: String = id.iter().copied().map(char::from).collect();
        let index_blob = match features & features::ZRAN {
            0 => None,
            _ if features & ZRAN_TOO != ZRAN_TOO || compressor != Compressor::Gzip => {
                return Err(refuse("is no index of a gzip layer".to_owned()));
            }
            _ => Some(IndexBlob::read(record, &id)?),
        };
        Ok(Blob {
            id,
            index_blob,
            index,
            compressor,
            algorithm,
            size,
            chunks: word(72),
            toc_size: if digest == [0; 32] { 0 } else { word(104) },
            toc_digest: Digest::sha256(digest),
            features,
        })
    }

    /// Bytes of a chunk's record in the blob's own table.
    pub(super) fn info_bytes(&self) -> usize {
        if self.features & features::CHUNK_INFO_V2 == 0 {
            16
        } else {
            24
        }
    }
}

fn check_features(features: u32) -> Result<(), FormatError> {
    for (feature, what) in [
        (features::ENCRYPTED, "an encrypted blob"),
        (
            features::BATCH,
            "a blob that packs several chunks into one compressed unit (batch)",
        ),
        (features::TARFS, "a tarfs image"),
        (features::EXTERNAL, "a blob outside of the registry"),
    ] {
        if features & feature != 0 {
            return Err(unsupported(what));
        }
    }
    if features & !features::KNOWN != 0 {
        return Err(unsupported(format!(
            "a blob with the unknown features {features:#x}"
        )));
    }
    if features & features::ALIGNED == 0 {
        return Err(malformed("the chunks of a blob are not aligned to blocks"));
    }
    Ok(())
}
