//! A chunk table on disk, read where it is.

use std::ops::Range;

use super::Chunk;
use crate::inflate::Compression;

pub(super) const MAGIC: [u8; 8] = *b"PNTchunk";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const RECORD_BYTES: usize = 64;
/// Where the checksum of all other bytes is.
const CHECKSUM: Range<usize> = 32..36;

/// A chunk table as [`super::ChunkTable::encode`] writes it, over bytes that are for instance mapped.
///
/// Little-endian throughout. 64 bytes of header: the magic number `PNTchunk`, u32 version 1, u32 compression (0 none,
/// 1 gzip, 2 zstd), u64 number of chunks, u64 bytes of the data file, u32 CRC-32 of all bytes with this field 0, zeros.
/// Then 64 bytes for each chunk, sorted by data offset: u64 data offset, u64 blob offset, u64 inner offset, u32 length,
/// u32 blob length, 32 bytes SHA-256.
#[derive(Debug, Clone, Copy)]
pub struct ChunkTableRef<'a> {
    compression: Compression,
    data_size: u64,
    records: &'a [[u8; RECORD_BYTES]],
}

/// Bytes that are no chunk table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkTableError {
    /// Not the table that was written.
    #[error(
        "the chunk table is damaged ({0}); it is made again from the layer's table of contents"
    )]
    Damaged(&'static str),
    /// Written by another version.
    #[error(
        "the chunk table has version {0}, which this Pontoon does not know; it is made again from the layer's table of contents"
    )]
    Version(u32),
    /// A chunk that makes no sense.
    #[error("chunk {index} {reason}; the table is made again from the layer's table of contents")]
    Chunk {
        /// Which one.
        index: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

impl<'a> ChunkTableRef<'a> {
    /// The table in `bytes`, all of which is checked.
    pub fn open(bytes: &'a [u8]) -> Result<ChunkTableRef<'a>, ChunkTableError> {
        let table = ChunkTableRef::header(bytes)?;
        check(table.data_size, table.iter())?;
        Ok(table)
    }

    /// The table in `bytes` that [`ChunkTableRef::open`] accepted before, in constant time: for whoever keeps the bytes
    /// and cannot keep the table. Bytes that it never accepted give a table of nonsense or of nothing.
    pub fn reopen(bytes: &'a [u8]) -> ChunkTableRef<'a> {
        let parts = bytes.split_first_chunk::<HEADER_BYTES>();
        let table = parts.and_then(|(header, rest)| {
            Some(ChunkTableRef {
                compression: Compression::from_code(u32_at(header, 12))?,
                data_size: u64_at(header, 24),
                records: rest.as_chunks::<RECORD_BYTES>().0,
            })
        });
        table.unwrap_or(ChunkTableRef {
            compression: Compression::None,
            data_size: 0,
            records: &[],
        })
    }

    /// Takes the header apart, and checks that nothing was damaged.
    fn header(bytes: &'a [u8]) -> Result<ChunkTableRef<'a>, ChunkTableError> {
        use ChunkTableError::Damaged;
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(Damaged("it is too short"))?;
        if header[..8] != MAGIC {
            return Err(Damaged("it does not begin like one"));
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(ChunkTableError::Version(version));
        }
        let (records, []) = rest.as_chunks::<RECORD_BYTES>() else {
            return Err(Damaged("it was cut off"));
        };
        if u64_at(header, 16) != records.len() as u64 {
            return Err(Damaged("it was cut off"));
        }
        if u32_at(header, CHECKSUM.start) != checksum(bytes) {
            return Err(Damaged("its checksum is wrong"));
        }
        let compression = Compression::from_code(u32_at(header, 12))
            .ok_or(Damaged("of an unknown compression"))?;
        Ok(ChunkTableRef {
            compression,
            data_size: u64_at(header, 24),
            records,
        })
    }

    /// Writes the checksum into a table that is otherwise complete.
    pub(super) fn seal(bytes: &mut [u8]) {
        let checksum = checksum(bytes);
        if let Some(place) = bytes.get_mut(CHECKSUM) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
    }

    /// How the blob is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Bytes of the data file.
    pub fn data_size(&self) -> u64 {
        self.data_size
    }

    /// How many chunks.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether the layer has no data.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Chunk `index`.
    pub fn get(&self, index: usize) -> Option<Chunk> {
        self.records.get(index).map(decode)
    }

    /// All chunks.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Chunk> + DoubleEndedIterator + 'a {
        self.records.iter().map(decode)
    }

    /// The chunks of which `data`, a range of the data file, has any byte. What is between files belongs to no chunk.
    pub fn find(&self, data: Range<u64>) -> Range<usize> {
        if data.is_empty() {
            return 0..0;
        }
        let start = self
            .records
            .partition_point(|record| decode(record).data_end() <= data.start);
        let count = self.records[start..].partition_point(|record| u64_at(record, 0) < data.end);
        start..start + count
    }

    /// The chunks next to chunk `index`, itself included, that come out of the same bytes of the blob: inflate once,
    /// take them all.
    pub fn same_member(&self, index: usize) -> Range<usize> {
        let Some(chunk) = self.get(index) else {
            return index..index;
        };
        if chunk.is_zeros() {
            return index..index + 1;
        }
        let shares = |record: &&[u8; RECORD_BYTES]| {
            let other = decode(record);
            other.blob_offset == chunk.blob_offset && other.blob_length == chunk.blob_length
        };
        let before = self.records[..index]
            .iter()
            .rev()
            .take_while(shares)
            .count();
        let after = self.records[index + 1..].iter().take_while(shares).count();
        index - before..index + 1 + after
    }
}

/// Whether `chunks` can be those of a data file of `data_size` bytes.
pub(super) fn check(
    data_size: u64,
    chunks: impl Iterator<Item = Chunk>,
) -> Result<(), ChunkTableError> {
    let mut end = 0;
    for (index, chunk) in chunks.enumerate() {
        let wrong = |reason| Err(ChunkTableError::Chunk { index, reason });
        if chunk.length == 0 {
            return wrong("is empty");
        }
        if chunk.data_offset < end {
            return wrong("overlaps the one before");
        }
        end = match chunk.data_offset.checked_add(u64::from(chunk.length)) {
            Some(end) if end <= data_size => end,
            _ => return wrong("is beyond the end of the data"),
        };
        if chunk
            .blob_offset
            .checked_add(u64::from(chunk.blob_length))
            .is_none()
        {
            return wrong("is beyond the end of every blob");
        }
        if chunk
            .inner_offset
            .checked_add(u64::from(chunk.length))
            .is_none()
        {
            return wrong("is beyond the end of everything");
        }
    }
    Ok(())
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..CHECKSUM.start).unwrap_or_default());
    hasher.update(&[0; 4]);
    hasher.update(bytes.get(CHECKSUM.end..).unwrap_or_default());
    hasher.finalize()
}

fn decode(record: &[u8; RECORD_BYTES]) -> Chunk {
    let mut digest = [0; 32];
    digest.copy_from_slice(&record[32..]);
    Chunk {
        data_offset: u64_at(record, 0),
        blob_offset: u64_at(record, 8),
        inner_offset: u64_at(record, 16),
        length: u32_at(record, 24),
        blob_length: u32_at(record, 28),
        digest,
    }
}

fn u32_at(bytes: &[u8; 64], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8; 64], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}
