//! Tar layers into directories for overlayfs, digests checked.
//!
//! [`unpack`] makes of a layer's blob what containerd's own applier makes of it in the upper directory of an overlay
//! mount (`pkg/archive/tar.go`, `tar_opts_linux.go`): whiteouts become devices 0:0, opaque markers an extended
//! attribute, and a directory that the archive does not list takes its attributes from the layers below.
//!
//! Where it differs on purpose:
//! - Directories get all of their attributes at the end, so that a default ACL or a set-group-ID bit among them does
//!   not leak into what is inside. The times of implied directories survive, which containerd loses.
//! - A whiteout of a name that the same layer has hides what is below it and nothing else, in either order (OCI,
//!   `layer.md`); containerd fails, or shows what is below a directory that was removed and made again.
//! - A hard link of the same owner does not cost a file its capabilities.
//! - Sparse entries are refused ([`Error::Unsupported`]).
//!
//! The blob is read and inflated on one thread, hashed on another, written on the caller's.
//!
//! [`stream`] and [`Archive`] are the same without the writing, for whoever does something else with an archive.

mod apply;
mod archive;
mod below;
mod error;
mod inflate;
mod options;
mod path;
mod place;
mod stream;

use std::io::Read;
use std::path::Path;

use pontoon_layer::Digest;

pub use archive::{Archive, Entry, Kind, Source, Stored};
pub use below::directories;
pub use error::{Error, Result};
pub use options::{Below, Expected, Limits, Options};
pub use stream::{Blocks, Streamed, stream};

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the blob.
    pub digest: Digest,
    /// The digest of the archive, decompressed.
    pub diff_id: Digest,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Bytes of the archive, decompressed.
    pub archive_bytes: u64,
    /// Bytes of the data of all files.
    pub bytes: u64,
    /// Inodes that are there now, below `target`.
    pub inodes: u64,
    /// Extended attributes that were left out: `trusted.*` ones, and those that the filesystem does not keep.
    pub xattrs_skipped: u64,
}

/// Unpacks the blob that `reader` gives (gzip, zstd, or not compressed; the first bytes say which) into the empty
/// directory `target`, whose own attributes stay as they are.
///
/// Nothing is ever written outside of `target`, whatever the archive says, if nobody else writes into it meanwhile.
/// After an error, `target` is in no particular state: delete it. `reader` is read on another thread, and to its end
/// before a digest is compared; an error is returned once its last read has returned, so its reads need a deadline
/// of their own.
///
/// # Errors
/// Any of [`Error`]; [`Error::Mismatch`] if the blob is not the expected one.
pub fn unpack(reader: impl Read + Send, target: &Path, options: &Options<'_>) -> Result<Unpacked> {
    let place = place::Places::open(target)?;
    let mut applier = apply::Applier::new(place, options)?;
    let limits = &options.limits;
    let (streamed, ()) = stream(reader, &options.expected, limits, |blocks| {
        let mut archive = Archive::new(blocks, limits);
        while let Some(entry) = archive.next()? {
            options.check_cancelled()?;
            applier.apply(&entry, &mut archive)?;
        }
        archive.drain()
    })?;
    let applied = applier.finish()?;
    Ok(Unpacked {
        digest: streamed.digest,
        diff_id: streamed.diff_id,
        blob_bytes: streamed.blob_bytes,
        archive_bytes: streamed.archive_bytes,
        bytes: applied.bytes,
        inodes: applied.inodes,
        xattrs_skipped: applied.xattrs_skipped,
    })
}
