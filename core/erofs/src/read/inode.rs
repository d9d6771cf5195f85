//! Inodes.

use std::ops::Range;

use pontoon_layer::{Kind, Time};

use super::{Nid, ReadError, View};
use crate::disk::{self, BLOCK_BITS, BLOCK_BYTES, chunk, inode, u16_at, u32_at, u64_at};

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A character device. With device number 0 it is a whiteout of overlayfs.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    /// All types, each at the number that it has in directories, less one.
    const ALL: [FileType; 7] = [
        FileType::File,
        FileType::Directory,
        FileType::CharDevice,
        FileType::BlockDevice,
        FileType::Fifo,
        FileType::Socket,
        FileType::Symlink,
    ];

    /// The type in `st_mode` (`S_IFMT`).
    pub fn mode(self) -> u16 {
        match self {
            FileType::File => 0o100_000,
            FileType::Directory => 0o040_000,
            FileType::CharDevice => 0o020_000,
            FileType::BlockDevice => 0o060_000,
            FileType::Fifo => 0o010_000,
            FileType::Socket => 0o140_000,
            FileType::Symlink => 0o120_000,
        }
    }

    fn of_mode(mode: u16) -> Option<Self> {
        let types = FileType::ALL.into_iter();
        types.rev().find(|kind| kind.mode() == mode & MODE_TYPE)
    }

    /// The number that stands for it in directories.
    pub(crate) fn in_directory(self) -> u8 {
        match self {
            FileType::File => 1,
            FileType::Directory => 2,
            FileType::CharDevice => 3,
            FileType::BlockDevice => 4,
            FileType::Fifo => 5,
            FileType::Socket => 6,
            FileType::Symlink => 7,
        }
    }

    pub(super) fn of_directory(number: u8) -> Option<Self> {
        let index = usize::from(number.checked_sub(1)?);
        FileType::ALL.get(index).copied()
    }
}

impl From<Kind<'_>> for FileType {
    fn from(kind: Kind<'_>) -> Self {
        match kind {
            Kind::File { .. } => FileType::File,
            Kind::Directory => FileType::Directory,
            Kind::CharDevice { .. } => FileType::CharDevice,
            Kind::BlockDevice { .. } => FileType::BlockDevice,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::Symlink(_) => FileType::Symlink,
        }
    }
}

const MODE_TYPE: u16 = 0o170_000;

/// The attributes of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub nid: Nid,
    /// What it is.
    pub file_type: FileType,
    /// Permission bits, set-id and sticky bits, without the type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content was last changed.
    pub mtime: Time,
    /// How many names it has; of a directory, two more than it has subdirectories.
    pub links: u32,
    /// Bytes: of a file, its length; of a symbolic link, its target's; of a directory, of its entries here.
    pub size: u64,
    /// Of a device: which, as Linux encodes it in 32 bits (12 bits major, 20 bits minor), FUSE as well. Else 0.
    pub rdev: u32,
    /// Of a file: where in the data file its bytes are, all in one piece; a multiple of 4096. Else 0.
    pub data_offset: u64,
    /// Extended attributes.
    pub(super) xattrs: Range<u64>,
    content: Content,
}

/// Where the bytes of a directory or a symbolic link are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Content {
    /// The first whole block; the others follow.
    blocks: u64,
    /// What is left after the whole blocks.
    tail: u64,
}

impl Inode {
    /// The major number of the device.
    pub fn major(&self) -> u32 {
        (self.rdev >> 8) & 0xfff
    }

    /// The minor number of the device.
    pub fn minor(&self) -> u32 {
        (self.rdev & 0xff) | ((self.rdev >> 12) & 0xfff00)
    }

    /// How many blocks, the last one perhaps not whole, a directory or symbolic link has.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_BYTES)
    }

    /// Block `index` of a directory or symbolic link, as long as it is used.
    pub(super) fn block<'a>(&self, view: &View<'a>, index: u64) -> Option<&'a [u8]> {
        if index < self.size >> BLOCK_BITS {
            view.slice(self.content.blocks + (index << BLOCK_BITS), BLOCK_BYTES)
        } else {
            view.slice(self.content.tail, self.size % BLOCK_BYTES)
        }
    }
}

impl View<'_> {
    pub(super) fn inode(&self, nid: Nid) -> Result<Inode, ReadError> {
        let offset = nid.offset().ok_or(nid.damaged("there is no such inode"))?;
        let slot = self.slice(offset, inode::BYTES);
        let slot = slot.ok_or(nid.damaged("there is no such inode"))?;
        self.decode(nid, offset, slot)
            .ok_or(nid.damaged("there is no inode of a known format"))?
            .map_err(|what| nid.damaged(what))
    }

    fn decode(&self, nid: Nid, offset: u64, slot: &[u8]) -> Option<Result<Inode, &'static str>> {
        let format = u16_at(slot, inode::FORMAT)?;
        if format & inode::EXTENDED == 0 {
            return None;
        }
        let mode = u16_at(slot, inode::MODE)?;
        let xattrs_at = offset + inode::BYTES;
        let xattrs_end = xattrs_at + disk::xattr::bytes(u16_at(slot, inode::XATTR_COUNT)?) as u64;
        let mut decoded = Inode {
            nid,
            file_type: FileType::of_mode(mode)?,
            mode: mode & !MODE_TYPE,
            uid: u32_at(slot, inode::UID)?,
            gid: u32_at(slot, inode::GID)?,
            mtime: Time {
                seconds: u64_at(slot, inode::MTIME)?.cast_signed(),
                nanoseconds: u32_at(slot, inode::MTIME_NANOSECONDS)?,
            },
            links: u32_at(slot, inode::LINKS)?,
            size: u64_at(slot, inode::SIZE)?,
            rdev: 0,
            data_offset: 0,
            xattrs: xattrs_at..xattrs_end,
            content: Content::default(),
        };
        if decoded.mtime.nanoseconds >= 1_000_000_000 {
            return Some(Err("its time has too many nanoseconds"));
        }
        let union = u32_at(slot, inode::UNION)?;
        let placed = self.place(&mut decoded, format >> inode::LAYOUT_SHIFT, union);
        Some(placed.map(|()| decoded))
    }

    /// Finds out where the content of an inode is, from its layout and what belongs to it.
    fn place(&self, node: &mut Inode, layout: u16, union: u32) -> Result<(), &'static str> {
        match (node.file_type, layout) {
            (FileType::File, inode::CHUNKS) if node.size > 0 => {
                if union != u32::from(chunk::FORMAT) {
                    return Err("its chunks are not those of a layer");
                }
                node.data_offset = self.data_offset(node)?;
            }
            (FileType::File, inode::PLAIN) if node.size == 0 => {}
            (FileType::CharDevice | FileType::BlockDevice, inode::PLAIN) if node.size == 0 => {
                node.rdev = union;
            }
            (FileType::Fifo | FileType::Socket, inode::PLAIN) if node.size == 0 => {}
            (FileType::Directory | FileType::Symlink, inode::PLAIN | inode::INLINE) => {
                if node.file_type == FileType::Symlink && !(1..BLOCK_BYTES).contains(&node.size) {
                    return Err("its target is of an impossible length");
                }
                let blocks = u64::from(union) * BLOCK_BYTES;
                let whole = node.size & !(BLOCK_BYTES - 1);
                let tail = match layout {
                    inode::INLINE => node.xattrs.end,
                    _ => blocks.checked_add(whole).ok_or("it is too long")?,
                };
                node.content = Content { blocks, tail };
                let blocks = self.slice(blocks, whole);
                if whole > 0 && blocks.is_none() || self.slice(tail, node.size - whole).is_none() {
                    return Err("its content is outside the image");
                }
            }
            _ => return Err("its layout does not go with its type"),
        }
        Ok(())
    }

    /// Where the data of a file begins, if its chunks follow each other in the data file.
    fn data_offset(&self, node: &Inode) -> Result<u64, &'static str> {
        const OUTSIDE: &str = "its chunks are outside the image";
        let start = node.xattrs.end.next_multiple_of(chunk::BYTES);
        let count = node.size.div_ceil(1 << chunk::BITS);
        let length = count.checked_mul(chunk::BYTES).ok_or(OUTSIDE)?;
        let indexes = self.slice(start, length).ok_or(OUTSIDE)?;
        let first = u32_at(indexes, chunk::BLOCK).ok_or(OUTSIDE)?;
        let blocks_each = 1u64 << (chunk::BITS - BLOCK_BITS);
        let mut expected = u64::from(first);
        for index in indexes.chunks_exact(chunk::BYTES as usize) {
            let right = u16_at(index, 0) == Some(0)
                && u16_at(index, chunk::DEVICE) == Some(disk::DATA_DEVICE)
                && u32_at(index, chunk::BLOCK).map(u64::from) == Some(expected);
            if !right {
                return Err("its chunks do not follow each other");
            }
            expected += blocks_each;
        }
        let offset = u64::from(first) * BLOCK_BYTES;
        match offset.checked_add(node.size) {
            Some(end) if end <= self.facts.data_bytes => Ok(offset),
            _ => Err("its data is outside the data file"),
        }
    }
}
