//! What the caller says about a layer.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_layer::{Attributes, Digest, OpaqueXattr};

use crate::error::{Error, Result};

/// Looks for a directory in the layers below: its path without a leading `/` to its attributes, `None` if there is
/// none or if what is there is no directory.
pub type Below<'a> = dyn Fn(&Path) -> io::Result<Option<Attributes>> + 'a;

/// How a layer is unpacked.
#[derive(Clone)]
pub struct Options<'a> {
    /// What the layer must turn out to be.
    pub expected: Expected,
    /// How overlayfs is told of an opaque directory.
    pub opaque: OpaqueXattr,
    /// Where directories that the archive does not list have their attributes from.
    pub below: &'a Below<'a>,
    /// What the layer may ask of us at most.
    pub limits: Limits,
    /// Whether everything is on disk when [`unpack`](crate::unpack) returns: syncfs.
    pub sync: bool,
    /// Set by another thread to stop.
    pub cancel: Option<&'a AtomicBool>,
}

/// What is known of a layer before it is unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// The digest of the blob, as the manifest has it.
    pub digest: Option<Digest>,
    /// Bytes of the blob, as the manifest has it.
    pub size: Option<u64>,
    /// The digest of the archive, decompressed, as the image's configuration has it (`rootfs.diff_ids`).
    pub diff_id: Option<Digest>,
}

/// What a layer may ask of us at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive, decompressed.
    pub archive_bytes_max: u64,
    /// Files, directories and so on that are made, those that the archive implies included.
    pub inodes_max: u64,
    /// Bytes of a path, or of the target of a link: Linux' own limit.
    pub path_bytes_max: usize,
    /// Bytes of what an archive says about one entry beyond its header: long names, extended attributes.
    pub extension_bytes_max: u64,
    /// Bytes of memory for what directories get in the end: their paths and attributes.
    pub memory_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            archive_bytes_max: 1 << 40,
            inodes_max: 4_000_000,
            path_bytes_max: 4096,
            extension_bytes_max: 1 << 20,
            memory_bytes_max: 256 << 20,
        }
    }
}

impl Limits {
    /// These limits for a blob of `size` bytes: not more comes out of it than the best compression could have put in,
    /// and what is small may be sparse. So a bomb cannot be larger than it would have to be.
    pub fn for_blob(mut self, size: u64) -> Limits {
        // DEFLATE's best ratio is 1032 (zlib's technical notes); zstd has no bound, and real layers stay far below.
        const RATIO_MAX: u64 = 1032;
        const SMALL: u64 = 64 << 20;
        let plausible = size.saturating_mul(RATIO_MAX).max(SMALL);
        self.archive_bytes_max = self.archive_bytes_max.min(plausible);
        self
    }
}

impl Options<'_> {
    /// Nothing expected, nothing below, `trusted.overlay.opaque`, no syncfs.
    pub fn new() -> Options<'static> {
        Options {
            expected: Expected::default(),
            opaque: OpaqueXattr::Trusted,
            below: &|_| Ok(None),
            limits: Limits::default(),
            sync: false,
            cancel: None,
        }
    }

    pub(crate) fn check_cancelled(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options::new()
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("expected", &self.expected)
            .field("opaque", &self.opaque)
            .field("limits", &self.limits)
            .field("sync", &self.sync)
            .finish_non_exhaustive()
    }
}
