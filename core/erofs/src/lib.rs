//! File trees as EROFS metadata images: a deterministic writer and a reader over bytes.
//!
//! An image holds names and attributes; the bytes of files are elsewhere, in one data file, which the image calls
//! device 1. [`write`] makes an image of a [`pontoon_layer::Tree`], [`Image`] answers what a file system is asked,
//! straight from the image's bytes: nothing is parsed when it is opened, and nothing is copied. The kernel mounts
//! the same bytes with the data file as `device=` (Linux 6.12 from files, 5.16 from block devices).
//!
//! Of what EROFS knows an image uses this and no more: 4 KiB blocks, 64-byte inodes, chunk-based files in one
//! device, directories and symbolic links with their tail beside the inode or in blocks of their own, and extended
//! attributes, inline or shared. The reader refuses everything else.
//!
//! The format is Linux's `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`.

mod disk;
mod read;
mod write;

pub use read::{DirEntry, FileType, Image, Inode, Nid, ReadError, Xattr, Xattrs};
pub use write::{WriteError, write};
