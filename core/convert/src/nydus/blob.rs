//! The blob that is written, and where which chunk is in it.

use std::collections::HashMap;
use std::io::Write;

use super::stock::{Blob, Chunk, Hash, Stock, Table};
use super::{BLOCK_BYTES, ChunkCompression};
use crate::blob;
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::options::Format;

/// What a blob is that is no more than chunks and their table: chunks begin at blocks once they are decompressed, and
/// nydus 2.2 or later wrote it.
pub(super) const FEATURES: u32 = 0x4000_0001;

/// At both ends of the header of the table.
const MAGIC: u32 = 0xb10b_b10b;

const HEADER_BYTES: usize = 4096;

/// Chunks have 40 bits for where they are in a blob.
const BLOB_BYTES_MAX: u64 = 1 << 40;

/// How hard the table is compressed.
const TABLE_LEVEL: i32 = 19;

/// A chunk as whoever compressed it gives it.
pub(super) struct PackedChunk {
    pub(super) hash: Hash,
    /// Decompressed.
    pub(super) bytes: u32,
    /// What is to be stored. Nothing, if an earlier one is the same.
    pub(super) stored: Option<Stored>,
}

/// What is stored of a chunk.
pub(super) struct Stored {
    pub(super) compressed: bool,
    pub(super) bytes: Vec<u8>,
}

/// A blob, as far as it is written.
pub(super) struct Writer<'a, W> {
    blob: blob::Blob<W>,
    stock: &'a Stock,
    number: u32,
    own: HashMap<Hash, u32>,
    chunks: Vec<Chunk>,
    data_bytes: u64,
    /// The number of every chunk of every file, in the order of the archive.
    numbers: Vec<u32>,
}

/// What a layer has brought.
pub(super) struct Written {
    /// None, if there was nothing new.
    pub(super) blob: Option<Blob>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) numbers: Vec<u32>,
}

impl<'a, W: Write> Writer<'a, W> {
    pub(super) fn new(writer: W, stock: &'a Stock) -> Self {
        Writer {
            blob: blob::Blob::new(writer),
            number: u32::try_from(stock.blobs.len()).unwrap_or(u32::MAX),
            stock,
            own: HashMap::new(),
            chunks: Vec::new(),
            data_bytes: 0,
            numbers: Vec::new(),
        }
    }

    /// Goes on with the next chunk of the archive.
    pub(super) fn chunk(&mut self, packed: PackedChunk) -> Result<()> {
        let known = self.stock.find(&packed.hash);
        let known = known.or_else(|| self.own.get(&packed.hash).copied());
        if let Some(number) = known {
            self.numbers.push(number);
            return Ok(());
        }
        let Some(stored) = packed.stored else {
            return Err(Error::Compress("a chunk was lost".to_owned()));
        };
        let too_large = |_| Error::TooLarge {
            what: "the chunks of an image",
            limit: u64::from(u32::MAX),
        };
        let index = u32::try_from(self.chunks.len()).map_err(too_large)?;
        let number = u32::try_from(self.stock.chunks.len() + self.chunks.len());
        let number = number.map_err(too_large)?;
        self.chunks.push(Chunk {
            hash: packed.hash,
            blob: self.number,
            index,
            compressed: stored.compressed,
            offset: self.blob.offset,
            stored_bytes: u32::try_from(stored.bytes.len()).map_err(too_large)?,
            data_offset: self.data_bytes,
            bytes: packed.bytes,
        });
        self.blob.append(&stored.bytes)?;
        Error::check_limit("the bytes of a blob", self.blob.offset, BLOB_BYTES_MAX)?;
        self.data_bytes += u64::from(packed.bytes).next_multiple_of(BLOCK_BYTES);
        self.own.insert(packed.hash, number);
        self.numbers.push(number);
        Ok(())
    }

    /// Writes the table, if there is anything in it.
    pub(super) fn finish(mut self) -> Result<Written> {
        let blob = match self.chunks.is_empty() {
            true => None,
            false => Some(self.table()?),
        };
        let blob = match blob {
            None => None,
            Some((table, count)) => {
                let (digest, bytes) = self.blob.finish()?;
                Some(Blob {
                    digest,
                    bytes,
                    chunks: count,
                    data_bytes: self.data_bytes,
                    table,
                })
            }
        };
        Ok(Written {
            blob,
            chunks: self.chunks,
            numbers: self.numbers,
        })
    }

    fn table(&mut self) -> Result<(Table, u32)> {
        let bytes: Vec<u8> = self.chunks.iter().flat_map(info).collect();
        let zstd = Format::Nydus(super::Nydus::default());
        let mut stored = Vec::new();
        let compressed = Encoder::new(zstd, TABLE_LEVEL)?.chunk(&bytes, &mut stored)?;
        let table = Table {
            compression: match compressed {
                true => ChunkCompression::Zstd,
                false => ChunkCompression::None,
            },
            offset: self.blob.offset,
            stored_bytes: stored.len() as u64,
            bytes: bytes.len() as u64,
        };
        let count = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        self.blob.append(&stored)?;
        self.blob.append(&header(&table, count))?;
        Ok((table, count))
    }
}

/// Where a chunk is, in 16 bytes. Sizes are less one, and in two parts: 20 bits, and above them 4 bits elsewhere.
fn info(chunk: &Chunk) -> [u8; 16] {
    let (bytes, stored) = (
        u64::from(chunk.bytes.saturating_sub(1)),
        u64::from(chunk.stored_bytes.saturating_sub(1)),
    );
    let data = (bytes & 0xf_ffff) << 44 | chunk.data_offset | (bytes & 0xf0_0000) >> 12;
    let place = (stored & 0xf_ffff) << 44 | (stored & 0xf0_0000) << 20 | chunk.offset;
    let mut info = [0; 16];
    info[..8].copy_from_slice(&data.to_le_bytes());
    info[8..].copy_from_slice(&place.to_le_bytes());
    info
}

/// What is behind the table.
fn header(table: &Table, count: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    for at in [0, HEADER_BYTES - 4] {
        put(at, &MAGIC.to_le_bytes());
    }
    put(4, &FEATURES.to_le_bytes());
    put(8, &table.compression.code().to_le_bytes());
    put(12, &count.to_le_bytes());
    put(16, &table.offset.to_le_bytes());
    put(24, &table.stored_bytes.to_le_bytes());
    put(32, &table.bytes.to_le_bytes());
    header
}
