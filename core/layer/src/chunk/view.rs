//! A chunk table on disk, read where it is.

use std::ops::Range;

use super::Chunk;
use crate::digest::Algorithm;
use crate::inflate::Compression;

const MAGIC: [u8; 8] = *b"PNTchunk";
pub(super) const HEADER_BYTES: usize = 64;
pub(super) const RECORD_BYTES: usize = 64;
/// Where the checksum of all other bytes is.
const CHECKSUM: Range<usize> = 32..36;
/// The highest inner offset. What is above it in a record of version 2 is the chunk's compression.
const INNER_MAX: u64 = (1 << 56) - 1;

/// A chunk table as [`super::ChunkTable::encode`] writes it, over bytes that are for instance mapped.
///
/// Little-endian throughout. 64 bytes of header: the magic number `PNTchunk`, u32 version, u32 compression (0 none,
/// 1 gzip, 2 zstd, 3 LZ4 block), u64 number of chunks, u64 bytes of the data file, u32 CRC-32 of all bytes with this
/// field 0, zeros. Then 64 bytes for each chunk, sorted by data offset: u64 data offset, u64 blob offset, u64 inner offset,
/// u32 length, u32 blob length, 32 bytes digest.
///
/// In version 1 all digests are SHA-256, all chunks have the compression of the header, and chunks that come out of the
/// same bytes of the blob follow each other. Version 2 is written for what is not so. There the header goes on: u16 hash
/// function of all digests (0 SHA-256, 1 BLAKE3), u16 1 if several chunks may have the same digest, u64 bytes of inflate
/// contexts, which would be behind the last chunk: none are written yet. And the highest byte of an inner offset is the
/// compression of that chunk, which leaves 56 bits for the offset.
#[derive(Debug, Clone, Copy)]
pub struct ChunkTableRef<'a> {
    version: Version,
    compression: Compression,
    algorithm: Algorithm,
    data_size: u64,
    repeats: bool,
    records: &'a [[u8; RECORD_BYTES]],
}

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// What is before the records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) compression: Compression,
    pub(super) algorithm: Algorithm,
    pub(super) chunks: u64,
    pub(super) data_size: u64,
    pub(super) repeats: bool,
    /// Bytes behind the records.
    pub(super) contexts: u64,
}

impl Header {
    /// As it is written, but for the checksum.
    pub(super) fn encode(&self) -> Vec<u8> {
        let version: u32 = match self.version {
            Version::One => 1,
            Version::Two => 2,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.compression.code()).to_le_bytes());
        bytes.extend_from_slice(&self.chunks.to_le_bytes());
        bytes.extend_from_slice(&self.data_size.to_le_bytes());
        bytes.resize(CHECKSUM.end, 0);
        if self.version == Version::Two {
            let algorithm = u16::from(self.algorithm == Algorithm::Blake3);
            bytes.extend_from_slice(&algorithm.to_le_bytes());
            bytes.extend_from_slice(&u16::from(self.repeats).to_le_bytes());
            bytes.extend_from_slice(&self.contexts.to_le_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        bytes
    }

    fn decode(header: &[u8; HEADER_BYTES]) -> Result<Header, ChunkTableError> {
        use ChunkTableError::Damaged;
        let version = match u32_at(header, 8) {
            1 => Version::One,
            2 => Version::Two,
            version => return Err(ChunkTableError::Version(version)),
        };
        let compression = u8::try_from(u32_at(header, 12)).ok();
        let compression = compression.and_then(Compression::from_code);
        let mut read = Header {
            version,
            compression: compression.ok_or(Damaged("of an unknown compression"))?,
            algorithm: Algorithm::Sha256,
            chunks: u64_at(header, 16),
            data_size: u64_at(header, 24),
            repeats: false,
            contexts: 0,
        };
        if version == Version::Two {
            read.algorithm = match u32_at(header, 36) & 0xffff {
                0 => Algorithm::Sha256,
                1 => Algorithm::Blake3,
                _ => return Err(Damaged("of an unknown hash function")),
            };
            read.repeats = u32_at(header, 36) >> 16 != 0;
            read.contexts = u64_at(header, 40);
        }
        Ok(read)
    }
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
            let header = Header::decode(header).ok()?;
            Some(ChunkTableRef::of(&header, rest.as_chunks().0))
        });
        table.unwrap_or(ChunkTableRef {
            version: Version::One,
            compression: Compression::None,
            algorithm: Algorithm::Sha256,
            data_size: 0,
            repeats: false,
            records: &[],
        })
    }

    fn of(header: &Header, records: &'a [[u8; RECORD_BYTES]]) -> ChunkTableRef<'a> {
        ChunkTableRef {
            version: header.version,
            compression: header.compression,
            algorithm: header.algorithm,
            data_size: header.data_size,
            repeats: header.repeats,
            records,
        }
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
        let read = Header::decode(header)?;
        if read.contexts != 0 {
            return Err(Damaged("it has something behind its chunks"));
        }
        let (records, []) = rest.as_chunks::<RECORD_BYTES>() else {
            return Err(Damaged("it was cut off"));
        };
        if read.chunks != records.len() as u64 {
            return Err(Damaged("it was cut off"));
        }
        if u32_at(header, CHECKSUM.start) != checksum(bytes) {
            return Err(Damaged("its checksum is wrong"));
        }
        let table = ChunkTableRef::of(&read, records);
        let is_known = |record| table.compression_of(record).is_some();
        match records.iter().position(|record| !is_known(record)) {
            Some(index) => Err(ChunkTableError::Chunk {
                index,
                reason: "has an unknown compression",
            }),
            None => Ok(table),
        }
    }

    /// How the chunk of a record is compressed.
    fn compression_of(&self, record: &[u8; RECORD_BYTES]) -> Option<Compression> {
        match self.version {
            Version::One => Some(self.compression),
            Version::Two => Compression::from_code(record[23]),
        }
    }

    fn decode(&self, record: &[u8; RECORD_BYTES]) -> Chunk {
        let mut digest = [0; 32];
        digest.copy_from_slice(&record[32..]);
        let inner_offset = match self.version {
            Version::One => u64_at(record, 16),
            Version::Two => u64_at(record, 16) & INNER_MAX,
        };
        Chunk {
            data_offset: u64_at(record, 0),
            blob_offset: u64_at(record, 8),
            inner_offset,
            length: u32_at(record, 24),
            blob_length: u32_at(record, 28),
            // A table that was opened has no other one.
            compression: self.compression_of(record).unwrap_or(self.compression),
            algorithm: self.algorithm,
            digest,
        }
    }

    /// Writes the checksum into a table that is otherwise complete.
    pub(super) fn seal(bytes: &mut [u8]) {
        let checksum = checksum(bytes);
        if let Some(place) = bytes.get_mut(CHECKSUM) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
    }

    /// How the blob is compressed. What a chunk says of itself goes before.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The hash function of all digests.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether several chunks may have the same digest. Tables of version 1 do not tell, and say no.
    pub fn repeats(&self) -> bool {
        self.repeats
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
        self.records.get(index).map(|record| self.decode(record))
    }

    /// All chunks.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Chunk> + DoubleEndedIterator + 'a {
        let table = *self;
        self.records.iter().map(move |record| table.decode(record))
    }

    /// The chunks of which `data`, a range of the data file, has any byte. What is between files belongs to no chunk.
    pub fn find(&self, data: Range<u64>) -> Range<usize> {
        if data.is_empty() {
            return 0..0;
        }
        let start = self
            .records
            .partition_point(|record| self.decode(record).data_end() <= data.start);
        let count = self.records[start..].partition_point(|record| u64_at(record, 0) < data.end);
        start..start + count
    }

    /// The chunks next to chunk `index`, itself included, that come out of the same bytes of the blob in one pass, in
    /// this order: inflate once, take them all. The same bytes may be those of chunks elsewhere too, or of the next ones
    /// again: [`ChunkTableRef::repeats`].
    pub fn same_member(&self, index: usize) -> Range<usize> {
        let Some(chunk) = self.get(index) else {
            return index..index;
        };
        if chunk.is_zeros() {
            return index..index + 1;
        }
        let mut first = chunk;
        let before = self.records[..index].iter().rev().take_while(|record| {
            let after = std::mem::replace(&mut first, self.decode(record));
            first.is_followed_by(&after)
        });
        let before = before.count();
        let mut last = chunk;
        let after = self.records[index + 1..].iter().take_while(|record| {
            let before = std::mem::replace(&mut last, self.decode(record));
            before.is_followed_by(&last)
        });
        index - before..index + 1 + after.count()
    }
}

/// Whether `chunks` can be those of a data file of `data_size` bytes.
pub(super) fn check(
    data_size: u64,
    chunks: impl Iterator<Item = Chunk>,
) -> Result<(), ChunkTableError> {
    let (mut end, mut algorithm) = (0, None);
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
        let blob_end = chunk.blob_offset.checked_add(u64::from(chunk.blob_length));
        if blob_end.is_none() {
            return wrong("is beyond the end of every blob");
        }
        if chunk.inner_offset > INNER_MAX - u64::from(chunk.length) {
            return wrong("is beyond the end of everything");
        }
        if chunk.compression == Compression::Lz4Block && chunk.inner_offset != 0 {
            return wrong("begins inside of an LZ4 block, which has to be one chunk");
        }
        let is_known = matches!(chunk.algorithm, Algorithm::Sha256 | Algorithm::Blake3);
        if !is_known || *algorithm.get_or_insert(chunk.algorithm) != chunk.algorithm {
            return wrong("has a digest of another hash function than it may");
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
