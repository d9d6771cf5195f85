//! What can go wrong while a layer is unpacked.

use std::io;
use std::path::{Path, PathBuf};

use pontoon_layer::Digest;

/// What can go wrong while a layer is unpacked. Whatever it is, what was written is not a layer: delete it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compressed data did not come.
    #[error("cannot read the layer: {0}; try again, or look at where it comes from")]
    Read(#[source] io::Error),
    /// The compressed data cannot be decompressed.
    #[error(
        "the layer cannot be decompressed as {compression}: {reason}; it was damaged or made by a broken tool, push the image again"
    )]
    Damaged {
        /// What it seemed to be.
        compression: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// What comes out is not a tar archive, or makes no sense.
    #[error("the layer's tar archive makes no sense{}: {reason}; build the image again", place(.path))]
    Archive {
        /// The entry, as far as it is known.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An entry that we do not unpack; containerd may.
    #[error(
        "the layer's tar archive has {what} at {path:?}, which Pontoon does not unpack; leave the layer to containerd"
    )]
    Unsupported {
        /// The entry.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Beyond a limit.
    #[error(
        "{what} of the layer: {limit} is the limit; make the layer smaller, or raise the limit"
    )]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit, in what is counted.
        limit: u64,
    },
    /// It is not the layer that was asked for.
    #[error(
        "{what} of the layer is {actual} instead of {expected}: it was damaged on its way or in its registry; pull it again"
    )]
    Mismatch {
        /// What was compared.
        what: &'static str,
        /// What the manifest or the configuration says.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The filesystem refused something.
    #[error("{operation} {path:?} of the layer: {source}{}", advice(.source))]
    Filesystem {
        /// What was to be done.
        operation: &'static str,
        /// To what, below the layer's root.
        path: PathBuf,
        /// Why it could not be done.
        source: io::Error,
    },
    /// The caller wants it no more.
    #[error("unpacking was cancelled")]
    Cancelled,
    /// No thread could be started.
    #[error("cannot start a thread to unpack with: {0}; raise the limit of tasks")]
    Thread(#[source] io::Error),
}

/// What this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the disk or a quota is full: another attempt needs room first.
    pub fn is_out_of_space(&self) -> bool {
        let Error::Filesystem { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    pub(crate) fn archive(path: &[u8], reason: impl Into<String>) -> Error {
        Error::Archive {
            path: shown(path),
            reason: reason.into(),
        }
    }

    pub(crate) fn filesystem(
        operation: &'static str,
        path: &[u8],
        source: impl Into<io::Error>,
    ) -> Error {
        Error::Filesystem {
            operation,
            path: shown(path),
            source: source.into(),
        }
    }

    /// Fails unless `actual` is what was expected, if anything was.
    pub(crate) fn check_digest(
        what: &'static str,
        expected: Option<&Digest>,
        actual: &Digest,
    ) -> Result<()> {
        match expected {
            Some(expected) if expected != actual => Err(Error::Mismatch {
                what,
                expected: expected.to_string(),
                actual: actual.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// Paths in errors are cut: a stranger chose them.
fn shown(path: &[u8]) -> PathBuf {
    let cut = &path[..path.len().min(1024)];
    PathBuf::from(String::from_utf8_lossy(cut).into_owned())
}

fn place(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        String::new()
    } else {
        format!(" at {path:?}")
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; make room",
        io::ErrorKind::QuotaExceeded => "; raise the quota",
        io::ErrorKind::PermissionDenied => "; unpacking needs root's capabilities",
        _ => "",
    }
}
