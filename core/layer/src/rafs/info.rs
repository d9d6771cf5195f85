//! Where the chunks of a blob are, as the blob itself says: for bootstraps that do not list them, and for those that are
//! over a gzip layer.

use super::blob::Blob;
use super::chunk::Record;
use super::field::{array_at, u64_at};
use super::unsupported;
use super::zran::Index;
use crate::error::FormatError;
use crate::limits::Limits;
use crate::verified::Verified;

/// What was to be read, in errors.
const WHAT: &str = "the table of chunks of a RAFS blob";

const SIZE_MASK: u64 = 0xff_ffff;
const OFFSET_MASK: u64 = 0xff_ffff_ffff;
const V2_COMPRESSED: u64 = 1;
const V2_ZRAN: u64 = 2;
const V2_CRC32: u64 = 0x10;
/// Bytes of a record of version 2.
pub(super) const V2_BYTES: usize = 24;

/// The chunks of a blob: places and digests, or of a gzip layer ([`Blob::index_blob`]) how to get at them.
#[derive(Debug, Clone)]
pub struct ChunkInfos {
    pub(super) records: Vec<Record>,
    pub(super) index: Option<Index>,
}

impl ChunkInfos {
    /// Reads the index of the gzip layer `blob`: all of the blob that [`Blob::index_blob`] names. The digests of the chunks
    /// are in the bootstrap.
    pub fn of_index_blob(
        blob: &Blob,
        bytes: &Verified<impl AsRef<[u8]>>,
        limits: &Limits,
    ) -> Result<ChunkInfos, FormatError> {
        Ok(ChunkInfos {
            records: Vec::new(),
            index: Some(Index::of_blob(blob, bytes, limits)?),
        })
    }

    /// The same, out of the file that nydus-snapshotter's converter puts beside the bootstrap from 0.15 on, as
    /// `image/DIGEST.blob.meta` with the digest of the index blob in hexadecimal digits. Whoever gives it has compared it
    /// with the digest of its layer, as the bootstrap.
    pub fn of_index_file(
        blob: &Blob,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<ChunkInfos, FormatError> {
        Ok(ChunkInfos {
            records: Vec::new(),
            index: Some(Index::of_file(blob, bytes, limits)?),
        })
    }

    /// Reads the parts `blob.meta` and `blob.digest` of `blob`, which is no gzip layer.
    pub fn parse(
        blob: &Blob,
        meta: &Verified<impl AsRef<[u8]>>,
        digests: &Verified<impl AsRef<[u8]>>,
        limits: &Limits,
    ) -> Result<ChunkInfos, FormatError> {
        FormatError::check_limit(
            "the number of chunks of a blob",
            u64::from(blob.chunks),
            u64::from(limits.entries_max),
        )?;
        if blob.index_blob.is_some() {
            return Err(FormatError::malformed(WHAT, "a gzip layer has an index"));
        }
        let count = blob.chunks as usize;
        let (digests, _) = digests.as_chunks::<32>();
        let mut infos = meta.chunks_exact(blob.info_bytes());
        if infos.len() < count || digests.len() < count {
            let reason = format!(
                "it has {} places and {} digests of {count} chunks",
                infos.len(),
                digests.len()
            );
            return Err(FormatError::malformed(WHAT, reason));
        }
        let records = (0..blob.chunks).zip(infos.by_ref()).zip(digests);
        let records = records.map(|((index, info), digest)| {
            let mut record = if info.len() == 16 {
                v1(info)
            } else {
                v2(info, false)?.0
            };
            (record.blob, record.index, record.digest) = (blob.index, index, *digest);
            Ok(record)
        });
        Ok(ChunkInfos {
            records: records.collect::<Result<_, FormatError>>()?,
            index: None,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "of at most 24 bits, and one"
)]
fn record(compressed: bool, places: [u64; 2], sizes: [u64; 2]) -> Record {
    let ([blob_offset, data_offset], [blob_length, length]) = (places, sizes);
    Record {
        blob: 0,
        index: 0,
        compressed,
        blob_offset,
        blob_length: blob_length as u32,
        data_offset,
        length: length as u32,
        digest: [0; 32],
    }
}

/// 16 bytes. Sizes are less one, and in two parts: 20 bits and above them 4 bits elsewhere.
fn v1(info: &[u8]) -> Record {
    let long = |at| u64_at(info, at).unwrap_or_default();
    let (data, blob) = (long(0), long(8));
    let length = (data >> 44 | (data & 0xf00) << 12) + 1;
    let blob_length = (blob >> 44 | (blob & 0xf00_0000_0000) >> 20) + 1;
    record(
        blob_length != length,
        [blob & OFFSET_MASK, data & 0xfff_ffff_f000],
        [blob_length, length],
    )
}

/// 24 bytes, and the last 8 of them, which say where the chunk of a gzip layer (`zran`) is. Only the decompressed size is
/// less one.
pub(super) fn v2(info: &[u8], zran: bool) -> Result<(Record, u64), FormatError> {
    let long = |at| {
        array_at(info, at)
            .map(u64::from_le_bytes)
            .unwrap_or_default()
    };
    let (data, blob) = (long(0), long(8));
    let flags = data >> 56;
    let known = V2_COMPRESSED | V2_ZRAN | V2_CRC32;
    if flags & !known != 0 || (flags & V2_ZRAN != 0) != zran {
        return Err(unsupported(format!(
            "a chunk with the flags {flags:#x} in its blob"
        )));
    }
    let record = record(
        flags & V2_COMPRESSED != 0,
        [blob & OFFSET_MASK, (data & 0xffff_ffff) << 12],
        [blob >> 40, (data >> 32 & SIZE_MASK) + 1],
    );
    Ok((record, long(16)))
}
