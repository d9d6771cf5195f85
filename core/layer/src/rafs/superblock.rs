//! The superblock, which is EROFS', and what RAFS adds behind it.

use std::ops::Range;

use super::blob::{Blob, RECORD_BYTES as BLOB_BYTES};
use super::chunk::RECORD_BYTES as CHUNK_BYTES;
use super::field::{slice_at, u16_at, u32_at, u64_at};
use super::{BLOCK_BYTES, malformed, unsupported};
use crate::error::FormatError;
use crate::limits::Limits;
use crate::tree::Time;

/// Where EROFS' superblock is.
const SUPER: usize = 1024;
/// Where RAFS' own is.
const EXTENDED: usize = SUPER + 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// "RAFS", at the beginning of a bootstrap of version 5.
const MAGIC_V5: u32 = 0x5241_4653;
const COMPATIBLE_RAFS_V6: u32 = 0x4000_0000;
/// Files in chunks, and a table of devices: nothing more, nothing less.
const INCOMPATIBLE: u32 = 4 | 8;
const CHUNK_BYTES_MIN: u32 = 4 << 10;
const CHUNK_BYTES_MAX: u32 = 16 << 20;

mod flags {
    pub(super) const BLAKE3: u64 = 0x4;
    pub(super) const SHA256: u64 = 0x8;
    pub(super) const EXPLICIT_OWNERS: u64 = 0x10;
    pub(super) const TARFS: u64 = 0x200;
    /// AES-128-XTS, the only cipher there is.
    pub(super) const ENCRYPTED: u64 = 0x0200_0000;
}

/// A bootstrap, opened: where its parts are, and its blobs.
#[derive(Debug, Clone)]
pub struct Bootstrap<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) limits: Limits,
    /// Where inodes are counted from.
    pub(super) meta: u64,
    pub(super) root: u64,
    /// When a file was modified whose inode does not say it.
    pub(super) built: Time,
    pub(super) chunk_bytes: u32,
    /// Whether owners are in the inodes. Else everything is root's.
    pub(super) owners: bool,
    pub(super) chunk_table: &'a [u8],
    pub(super) prefetch_table: &'a [u8],
    blobs: Vec<Blob>,
}

impl<'a> Bootstrap<'a> {
    /// Reads the superblocks and the table of blobs of a bootstrap. Fails if it is none, of another version, beyond a
    /// limit, or one of an image that cannot be read (see [the module](super)).
    pub fn open(bytes: &'a [u8], limits: &Limits) -> Result<Bootstrap<'a>, FormatError> {
        FormatError::check_limit(
            "the size of the RAFS bootstrap in bytes",
            bytes.len() as u64,
            limits.toc_json_bytes_max,
        )?;
        check_super(bytes)?;
        let word = |at| u32_at(bytes, at).ok_or_else(|| malformed("it is too short"));
        let long = |at| u64_at(bytes, at).ok_or_else(|| malformed("it is too short"));
        let flags = long(EXTENDED)?;
        let chunk_bytes = word(EXTENDED + 20)?;
        if !chunk_bytes.is_power_of_two()
            || !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes)
        {
            return Err(malformed(format!("its chunks have {chunk_bytes} bytes")));
        }
        let blob_table = table(
            bytes,
            "blobs",
            long(EXTENDED + 8)?,
            u64::from(word(EXTENDED + 16)?),
            BLOB_BYTES,
            limits,
        )?;
        let chunk_table = table(
            bytes,
            "chunks",
            long(EXTENDED + 24)?,
            long(EXTENDED + 32)?,
            CHUNK_BYTES,
            limits,
        )?;
        let prefetch_table = table(
            bytes,
            "files to fetch early",
            long(EXTENDED + 40)?,
            u64::from(word(EXTENDED + 48)?),
            4,
            limits,
        )?;
        check_flags(flags)?;
        let blobs = Blob::table(blob_table, chunk_bytes)?;
        Ok(Bootstrap {
            bytes,
            limits: limits.clone(),
            meta: u64::from(word(SUPER + 40)?) * BLOCK_BYTES as u64,
            root: u64::from(u16_at(bytes, SUPER + 14).unwrap_or_default()),
            built: Time {
                seconds: long(SUPER + 24)?.cast_signed(),
                nanoseconds: word(SUPER + 32)?.min(999_999_999),
            },
            chunk_bytes,
            owners: flags & flags::EXPLICIT_OWNERS != 0,
            chunk_table,
            prefetch_table,
            blobs,
        })
    }

    /// The blobs of the image, in the order of their numbers.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// Whether it lists its chunks itself. If not, [`Bootstrap::image`] needs the [`super::ChunkInfos`] of all blobs.
    pub fn lists_chunks(&self) -> bool {
        !self.chunk_table.is_empty()
    }
}

fn check_super(bytes: &[u8]) -> Result<(), FormatError> {
    if [MAGIC_V5, MAGIC_V5.swap_bytes()]
        .map(Some)
        .contains(&u32_at(bytes, 0))
    {
        return Err(unsupported("a RAFS v5 bootstrap"));
    }
    if u32_at(bytes, SUPER) != Some(MAGIC) {
        return Err(malformed("it does not begin as one"));
    }
    if bytes.len() < BLOCK_BYTES || !bytes.len().is_multiple_of(BLOCK_BYTES) {
        let length = bytes.len();
        return Err(malformed(format!(
            "its {length} bytes are no whole blocks of {BLOCK_BYTES}"
        )));
    }
    let byte = |at: usize| bytes.get(SUPER + at).copied().unwrap_or_default();
    let short = |at| u16_at(bytes, SUPER + at).unwrap_or_default();
    let word = |at| u32_at(bytes, SUPER + at).unwrap_or_default();
    if word(8) & COMPATIBLE_RAFS_V6 == 0 {
        return Err(malformed("it is an EROFS image that is no RAFS v6"));
    }
    if byte(12) == 9 {
        return Err(unsupported("a tarfs image"));
    }
    // Bits of the block size, slots of a longer superblock, features, shared attributes, slot of the device table.
    let found = (byte(12), byte(13), word(80), word(44), short(88));
    if found != (12, 0, INCOMPATIBLE, 0, 11) {
        return Err(malformed(format!(
            "its superblock has the unknown features {found:x?}"
        )));
    }
    Ok(())
}

/// The hash function is said again for each blob.
fn check_flags(flags: u64) -> Result<(), FormatError> {
    if flags & flags::TARFS != 0 {
        return Err(unsupported("a tarfs image"));
    }
    if flags & flags::ENCRYPTED != 0 {
        return Err(unsupported("an encrypted RAFS image"));
    }
    match flags & (flags::BLAKE3 | flags::SHA256) {
        flags::BLAKE3 | flags::SHA256 => Ok(()),
        _ => Err(malformed(format!(
            "its flags {flags:#x} do not name one hash function"
        ))),
    }
}

/// The table of `length` bytes at `offset`, of records of `record` bytes. Nothing if it has no place: some writers give
/// a table that they do not write a length.
fn table<'a>(
    bytes: &'a [u8],
    what: &str,
    offset: u64,
    length: u64,
    record: usize,
    limits: &Limits,
) -> Result<&'a [u8], FormatError> {
    if offset == 0 || length == 0 {
        return Ok(&[]);
    }
    FormatError::check_limit(
        &format!("the number of {what} of the image"),
        length / record as u64,
        u64::from(limits.entries_max),
    )?;
    let range: Range<u64> = offset..offset.saturating_add(length);
    slice_at(bytes, offset, length)
        .filter(|_| offset >= BLOCK_BYTES as u64 && length.is_multiple_of(record as u64))
        .ok_or_else(|| malformed(format!("its table of {what} cannot be at {range:?}")))
}
