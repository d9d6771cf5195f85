//! Answers what a file system is asked, from the bytes of an image.
//!
//! Images are trusted for what they say, not for being whole: whatever the bytes are, nothing panics, loops without
//! end or allocates more than it answers.

mod directory;
mod inode;
mod xattr;

use std::fmt;
use std::ops::{ControlFlow, Range};

use crate::disk::{
    self, BLOCK_BITS, BLOCK_BYTES, SLOT_BYTES, device_slot, super_block, u16_at, u32_at, u64_at,
};

pub use directory::DirEntry;
pub use inode::{FileType, Inode};
pub use xattr::{Xattr, Xattrs};

/// The number of an inode in its image: where it is, so it stays the same as long as the image. Below 2^40.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(u64);

impl Nid {
    /// A number that [`Nid::get`] gave. Others lead to errors where they are used.
    pub fn new(number: u64) -> Self {
        Nid(number)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why an image cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes are no image of this crate, or only the beginning of one.
    #[error("this is no whole metadata image: {0}; delete it, it is made again from the layer")]
    NotAnImage(&'static str),
    /// An inode is not as [`crate::write`] makes them. Also for a nid that no inode has.
    #[error(
        "metadata image damaged at nid {nid}: {what}; delete it, it is made again from the layer"
    )]
    Damaged {
        /// The inode.
        nid: Nid,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The operation is one for directories.
    #[error("nid {0} is no directory")]
    NotADirectory(Nid),
    /// The operation is one for symbolic links.
    #[error("nid {0} is no symbolic link")]
    NotASymlink(Nid),
}

/// A metadata image: `B` is its bytes, be they borrowed, owned or mapped.
///
/// Cheap to open. What it answers borrows from it.
#[derive(Clone)]
pub struct Image<B> {
    bytes: B,
    facts: Facts,
}

/// What the superblock says.
#[derive(Debug, Clone, Copy)]
struct Facts {
    root: Nid,
    inodes: u64,
    data_bytes: u64,
    shared_xattrs_at: u64,
}

impl<B> fmt::Debug for Image<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl<B: AsRef<[u8]>> Image<B> {
    /// Reads the superblock, and checks its checksum and that the image has its length. The rest is not looked at:
    /// [`Image::verify`] does that.
    pub fn open(bytes: B) -> Result<Self, ReadError> {
        let facts = Facts::read(bytes.as_ref())?;
        let image = Image { bytes, facts };
        let root = image.inode(facts.root)?;
        match root.file_type {
            FileType::Directory => Ok(image),
            _ => Err(ReadError::NotADirectory(facts.root)),
        }
    }

    /// Whether every byte is as it was written. Reads all of the image.
    pub fn verify(&self) -> Result<(), ReadError> {
        let bytes = self.bytes.as_ref();
        let uuid = bytes.get(UUID).unwrap_or_default();
        if crate::write::uuid(bytes).is_some_and(|right| right == uuid) {
            return Ok(());
        }
        Err(ReadError::NotAnImage(
            "its bytes have changed since it was made",
        ))
    }

    /// The root directory.
    pub fn root(&self) -> Nid {
        self.facts.root
    }

    /// How many inodes the image has.
    pub fn inodes(&self) -> u64 {
        self.facts.inodes
    }

    /// How many bytes of the data file files may be in: its size, up to a multiple of 4096.
    pub fn data_bytes(&self) -> u64 {
        self.facts.data_bytes
    }

    /// The attributes of an inode.
    pub fn inode(&self, nid: Nid) -> Result<Inode, ReadError> {
        self.view().inode(nid)
    }

    /// The inode called `name` in the directory `nid`. `.` and `..` are found too; the root is its own parent.
    pub fn lookup(&self, nid: Nid, name: &[u8]) -> Result<Option<Nid>, ReadError> {
        self.view().lookup(nid, name)
    }

    /// Calls `emit` with the entries of the directory `nid`, `.` and `..` among them, in the order of their names,
    /// until it breaks. Starts behind the entry whose [`DirEntry::next_cookie`] is `cookie`, with 0 at the first.
    pub fn read_dir(
        &self,
        nid: Nid,
        cookie: u64,
        emit: impl FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.view().read_dir(nid, cookie, emit)
    }

    /// Where the symbolic link `nid` points to.
    pub fn read_link(&self, nid: Nid) -> Result<&[u8], ReadError> {
        self.view().read_link(nid)
    }

    /// The value of the extended attribute `name` (such as `user.mime_type`) of `nid`.
    pub fn xattr(&self, nid: Nid, name: &[u8]) -> Result<Option<&[u8]>, ReadError> {
        self.view().xattr(nid, name)
    }

    /// All extended attributes of `nid`, in no particular order.
    pub fn xattrs(&self, nid: Nid) -> Result<Xattrs<'_>, ReadError> {
        self.view().xattrs(nid)
    }

    fn view(&self) -> View<'_> {
        View {
            bytes: self.bytes.as_ref(),
            facts: self.facts,
        }
    }
}

/// Where the image has its UUID.
const UUID: Range<usize> = {
    let start = super_block::OFFSET + super_block::UUID;
    start..start + super_block::UUID_BYTES
};

impl Facts {
    fn read(image: &[u8]) -> Result<Self, ReadError> {
        let short = ReadError::NotAnImage("it is shorter than a block");
        let checksum = disk::checksum(image).ok_or(short)?;
        let block = image.get(super_block::OFFSET..).unwrap_or_default();
        let must = |right: bool, what| match right {
            true => Ok(()),
            false => Err(ReadError::NotAnImage(what)),
        };
        let u32_is = |offset, value| u32_at(block, offset) == Some(value);
        must(
            u32_is(super_block::MAGIC, super_block::MAGIC_VALUE),
            "it does not begin as one",
        )?;
        must(
            u32_is(super_block::CHECKSUM, checksum),
            "the checksum of its superblock is wrong",
        )?;
        must(
            block.get(super_block::BLOCK_BITS).copied() == u8::try_from(BLOCK_BITS).ok()
                && u32_is(super_block::FEATURE_COMPAT, super_block::COMPAT)
                && u32_is(super_block::FEATURE_INCOMPAT, super_block::INCOMPAT)
                && u32_is(super_block::META_BLOCK, 0)
                && u16_at(block, super_block::EXTRA_DEVICES) == Some(disk::DATA_DEVICE),
            "it has features that images of layers do not have",
        )?;
        let blocks = u32_at(block, super_block::BLOCKS).map(u64::from);
        let whole = blocks.and_then(|blocks| blocks.checked_mul(BLOCK_BYTES));
        must(
            whole == u64::try_from(image.len()).ok(),
            "its length is not the one that it tells",
        )?;
        let read = || {
            let slot = image.get(device_slot::OFFSET..)?;
            Some(Facts {
                root: Nid(u16_at(block, super_block::ROOT_NID)?.into()),
                inodes: u64_at(block, super_block::INODES)?,
                data_bytes: u64::from(u32_at(slot, device_slot::BLOCKS)?) * BLOCK_BYTES,
                shared_xattrs_at: u64::from(u32_at(block, super_block::XATTR_BLOCK)?) * BLOCK_BYTES,
            })
        };
        read().ok_or(ReadError::NotAnImage("it is shorter than a block"))
    }
}

/// The bytes, and what the superblock says.
#[derive(Clone, Copy)]
struct View<'a> {
    bytes: &'a [u8],
    facts: Facts,
}

impl<'a> View<'a> {
    /// The bytes at these offsets; None if not all of them are in the image.
    fn slice(&self, start: u64, length: u64) -> Option<&'a [u8]> {
        let end = usize::try_from(start.checked_add(length)?).ok()?;
        self.bytes.get(usize::try_from(start).ok()?..end)
    }

    fn read_link(&self, nid: Nid) -> Result<&'a [u8], ReadError> {
        let inode = self.inode(nid)?;
        if inode.file_type != FileType::Symlink {
            return Err(ReadError::NotASymlink(nid));
        }
        // Checked to be in one block when the inode was read.
        inode
            .block(self, 0)
            .ok_or(nid.damaged("its target is outside the image"))
    }
}

impl Nid {
    fn damaged(self, what: &'static str) -> ReadError {
        ReadError::Damaged { nid: self, what }
    }

    /// Where the inode is; None beyond any image.
    fn offset(self) -> Option<u64> {
        self.0.checked_mul(SLOT_BYTES)
    }
}
