//! Inodes, which are EROFS'.

use super::field::{slice_at, u16_at, u32_at, u64_at};
use super::{BLOCK_BYTES, Bootstrap, malformed};
use crate::error::FormatError;
use crate::tree::Time;

/// An inode's number is where it is, in this unit.
const SLOT_BYTES: u64 = 32;

/// Data in whole blocks elsewhere.
const PLAIN: u16 = 0;
/// The same, but the last, shorter block follows the inode.
const INLINE: u16 = 2;
/// Data in chunks, whose addresses follow the inode.
const CHUNKED: u16 = 4;

/// The addresses of chunks are of 8 bytes: a block and a device. Lower bits say how large a chunk is for EROFS, which is
/// a whole file if its chunks follow each other in the blob; there are as many addresses as there are chunks in any case.
const CHUNK_INDEXES: u32 = 0x20;

/// Types of files, as Linux has them.
pub(super) const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFREG: u16 = 0o100_000;

/// Bytes of the address of a chunk.
pub(super) const ADDRESS_BYTES: usize = 8;

/// A file of whatever kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode<'a> {
    pub(super) nid: u64,
    /// Type and permissions, as Linux has them.
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) links: u32,
    /// Extended attributes as they are written.
    pub(super) xattrs: &'a [u8],
    layout: u16,
    /// The first block, the number of a device, or the size of chunks.
    pub(super) union: u32,
    /// What follows the inode and its attributes, and where that is.
    rest: &'a [u8],
    rest_offset: u64,
}

impl Inode<'_> {
    pub(super) fn is_directory(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    pub(super) fn is_file(&self) -> bool {
        self.mode & S_IFMT == S_IFREG
    }
}

impl<'a> Bootstrap<'a> {
    pub(super) fn inode(&self, nid: u64) -> Result<Inode<'a>, FormatError> {
        let outside = || malformed(format!("its inode {nid} is not inside of it"));
        let offset = nid
            .checked_mul(SLOT_BYTES)
            .and_then(|slot| slot.checked_add(self.meta));
        let offset = offset.ok_or_else(outside)?;
        let start = usize::try_from(offset).map_err(|_| outside())?;
        let bytes = self.bytes.get(start..).ok_or_else(outside)?;
        let format = u16_at(bytes, 0).ok_or_else(outside)?;
        let length: u64 = if format & 1 == 0 { 32 } else { 64 };
        let inode = slice_at(bytes, 0, length).ok_or_else(outside)?;
        let count = u64::from(u16_at(inode, 2).unwrap_or_default());
        let xattr_bytes = if count == 0 { 0 } else { 12 + (count - 1) * 4 };
        let xattrs = slice_at(bytes, length, xattr_bytes).ok_or_else(outside)?;
        let head = length + xattr_bytes;
        let rest = usize::try_from(head)
            .ok()
            .and_then(|head| bytes.get(head..));
        let short = |at| u16_at(inode, at).unwrap_or_default();
        let word = |at| u32_at(inode, at).unwrap_or_default();
        let long = |at| u64_at(inode, at).unwrap_or_default();
        let extended = length == 64;
        let (uid, gid) = match (self.owners, extended) {
            // nydus gives what says nothing of owners to whom it runs as: root.
            (false, _) => (0, 0),
            (true, true) => (word(24), word(28)),
            (true, false) => (u32::from(short(24)), u32::from(short(26))),
        };
        Ok(Inode {
            nid,
            mode: short(4),
            size: if extended {
                long(8)
            } else {
                u64::from(word(8))
            },
            uid,
            gid,
            mtime: if extended {
                Time {
                    seconds: long(32).cast_signed(),
                    nanoseconds: word(40).min(999_999_999),
                }
            } else {
                self.built
            },
            links: if extended {
                word(44)
            } else {
                u32::from(short(6))
            },
            xattrs,
            layout: format >> 1 & 7,
            union: word(16),
            rest: rest.unwrap_or_default(),
            rest_offset: offset.saturating_add(head),
        })
    }

    /// Block `index` of the data of a directory or a symbolic link; the last one ends with the data.
    pub(super) fn block(&self, inode: &Inode<'a>, index: u64) -> Result<&'a [u8], FormatError> {
        let outside = || {
            malformed(format!(
                "the data of its inode {} is not inside of it",
                inode.nid
            ))
        };
        let block = BLOCK_BYTES as u64;
        let left = index
            .checked_mul(block)
            .and_then(|start| inode.size.checked_sub(start));
        let left = left.ok_or_else(outside)?;
        let found = match inode.layout {
            INLINE if left < block => slice_at(inode.rest, 0, left),
            PLAIN | INLINE => {
                let first = u64::from(inode.union);
                let start = first
                    .checked_add(index)
                    .and_then(|number| number.checked_mul(block));
                start.and_then(|start| slice_at(self.bytes, start, left.min(block)))
            }
            _ => None,
        };
        found.ok_or_else(outside)
    }

    /// The addresses of the chunks of a regular file: all of them, which is not more than its size wants.
    pub(super) fn addresses(
        &self,
        inode: &Inode<'a>,
    ) -> Result<&'a [[u8; ADDRESS_BYTES]], FormatError> {
        if inode.layout != CHUNKED || inode.union & CHUNK_INDEXES == 0 {
            return Err(malformed(format!(
                "the data of its inode {} is not in chunks",
                inode.nid
            )));
        }
        let count = inode.size.div_ceil(u64::from(self.chunk_bytes));
        let padding = inode.rest_offset.next_multiple_of(ADDRESS_BYTES as u64) - inode.rest_offset;
        let addresses = count
            .checked_mul(ADDRESS_BYTES as u64)
            .and_then(|length| slice_at(inode.rest, padding, length));
        match addresses.map(<[u8]>::as_chunks) {
            Some((addresses, [])) => Ok(addresses),
            _ => Err(malformed(format!(
                "the {count} chunks of its inode {} are not inside of it",
                inode.nid
            ))),
        }
    }
}
