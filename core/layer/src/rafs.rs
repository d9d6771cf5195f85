//! RAFS v6, the file system of nydus images.
//!
//! An image has a *bootstrap*, a metadata-only EROFS image that its last layer holds, and *blobs*, its other layers,
//! which hold the data of files in chunks. Chunks have one size in an image, the last one of a file is shorter; each is
//! compressed alone or stored as it is, and has a BLAKE3 or a SHA-256 digest. One blob may hold chunks of many files, a
//! file may have chunks in many blobs.
//!
//! [`Bootstrap::open`] reads what a bootstrap says of itself. [`Bootstrap::image`] makes a [`Image`] of it. A bootstrap
//! of today lists its chunks; where it does not, their places and digests are read from the blobs: [`Toc`] is at the end
//! of a blob and says where, [`ChunkInfos`] is what is there.
//!
//! Whoever gives the bootstrap has compared it with the digest of its layer: nothing in it is verified by itself. A
//! table of contents is compared with the digest that the bootstrap has of it, and what it names with the digests in it.
//!
//! A bootstrap may also be over ordinary gzip layers that were left as they are (zran): then the blobs of its manifest are
//! indexes into these, see [`IndexBlob`] and [`Context`].
//!
//! Not read, and refused with the reason: RAFS v5, blobs that are encrypted, that pack several chunks into one
//! compressed unit (batch), or that are bare tars (tarfs).
//!
//! Sources of the format: nydus 2.2, `rafs/src/metadata/layout/v6.rs` and `v5.rs`, `storage/src/meta/`,
//! `storage/src/device.rs`, `docs/nydus-design.md`.

mod blob;
mod chunk;
mod directory;
mod field;
mod image;
mod info;
mod inode;
mod names;
mod records;
mod superblock;
mod table;
mod toc;
mod xattr;
mod zran;

pub use blob::{Blob, Compressor};
pub use chunk::{Chunk, ChunkError};
pub use image::Image;
pub use info::ChunkInfos;
pub use names::Names;
pub use superblock::Bootstrap;
pub use toc::{Toc, TocEntry};
pub use zran::{Context, IndexBlob};

use crate::error::FormatError;

/// What was to be read, in errors.
const WHAT: &str = "the RAFS bootstrap";

/// Bytes of a block.
const BLOCK_BYTES: usize = 4096;

fn malformed(reason: impl Into<String>) -> FormatError {
    FormatError::malformed(WHAT, reason)
}

fn unsupported(what: impl Into<String>) -> FormatError {
    FormatError::Unsupported { what: what.into() }
}
