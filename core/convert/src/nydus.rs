//! nydus images: RAFS v6, as nydus-image 2.2 and nydusd 2.2 read it.
//!
//! Each layer becomes a *blob* of chunks ([`layer`], [`blob`]). A chunk that a lower layer of the image or the layer
//! itself has already is not stored again ([`stock`]). All layers together become one tree ([`merge`]), and that the
//! image's *bootstrap* ([`boot`]), the last layer ([`boot_layer`]).
//!
//! A blob is chunks, then the table of where they are (compression information, CI), then its header, and no more: the
//! bootstrap says of each chunk where it is and what its digest is. What nydus-image adds for tools that merge layers
//! later (tar headers between the parts, a bootstrap of each layer, a table of contents) nobody reads who runs the image.
//!
//! Files have chunks of one size: a RAFS v6 inode holds one address for every so many bytes.
//!
//! Sources of the format: nydus 2.2, `rafs/src/metadata/layout/v6.rs` and `v5.rs`, `storage/src/meta/mod.rs` and
//! `chunk_info_v1.rs`, `storage/src/device.rs`; of manifests, nydus-snapshotter, `pkg/converter`.

mod blob;
mod boot;
mod boot_layer;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod image;
mod layer;
mod merge;
mod order;
mod place;
mod prefetch;
mod read;
mod stock;
mod xattr;

pub(crate) use boot_layer::replace as replace_bootstrap;
pub(crate) use image::{Chains, is_nydus};
pub(crate) use layer::add;
pub(crate) use merge::{Merged, What, is_opaque};
pub(crate) use prefetch::put as put_prefetch_table;
pub(crate) use read::{bootstrap, image as open_image};
pub(crate) use xattr::is_kept;

use pontoon_layer::Algorithm;

/// Bytes of a block: of the bootstrap, and of what decompressed chunks begin at multiples of.
const BLOCK_BYTES: u64 = 4096;

/// How the chunks of a nydus image are compressed, each alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkCompression {
    /// Not at all: the kernel's EROFS can mount such an image.
    None,
    /// An LZ4 block, which is quick and large.
    Lz4Block,
    /// A Zstandard frame.
    Zstd,
}

/// The hash function of the digests of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkDigest {
    /// SHA-256, as eStargz has it: the same chunk has the same digest there.
    Sha256,
    /// BLAKE3, nydus' own default, which is quicker on processors without instructions for SHA-256.
    Blake3,
}

impl ChunkDigest {
    pub(crate) fn algorithm(self) -> Algorithm {
        match self {
            ChunkDigest::Sha256 => Algorithm::Sha256,
            ChunkDigest::Blake3 => Algorithm::Blake3,
        }
    }

    /// As a record of the blob table has it.
    fn code(self) -> u32 {
        match self {
            ChunkDigest::Blake3 => 0,
            ChunkDigest::Sha256 => 1,
        }
    }

    /// As the superblock has it.
    fn flag(self) -> u64 {
        match self {
            ChunkDigest::Blake3 => 4,
            ChunkDigest::Sha256 => 8,
        }
    }
}

impl ChunkCompression {
    fn code(self) -> u32 {
        match self {
            ChunkCompression::None => 0,
            ChunkCompression::Lz4Block => 1,
            ChunkCompression::Zstd => 3,
        }
    }

    fn flag(self) -> u64 {
        match self {
            ChunkCompression::None => 1,
            ChunkCompression::Lz4Block => 2,
            ChunkCompression::Zstd => 0x80,
        }
    }
}

/// What the chunks of a nydus image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nydus {
    /// How they are compressed.
    pub compression: ChunkCompression,
    /// Which digest they have.
    pub digest: ChunkDigest,
}

impl Default for Nydus {
    fn default() -> Self {
        Nydus {
            compression: ChunkCompression::Zstd,
            digest: ChunkDigest::Sha256,
        }
    }
}
