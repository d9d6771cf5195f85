//! What goes wrong in a cache.

use std::io;
use std::path::{Path, PathBuf};

use crate::Key;

/// The result of an operation of the cache.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the cache failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{operation} {} failed", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A newer Pontoon wrote the directory.
    #[error(
        "the cache {} has layout version {found} and this Pontoon knows {known}: run the newer one, or delete the directory",
        .path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// The version that is written there.
        found: u32,
        /// The newest version that is understood.
        known: u32,
    },
    /// The directory says nothing that makes sense of itself.
    #[error("the cache {} is damaged ({reason}): delete the directory and start again", .path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Another process uses the directory.
    #[error("the cache {} cannot be locked: stop what uses it", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who has it, or why the lock failed.
        #[source]
        source: pontoon_linux::LockError,
    },
    /// The layer is pinned.
    #[error("the cached layer {key} is in use: unmount it first")]
    InUse {
        /// The layer.
        key: Box<Key>,
    },
    /// The layer was removed from the cache while somebody still had it.
    #[error("the layer {key} was removed from the cache: create it again")]
    Removed {
        /// The layer.
        key: Box<Key>,
    },
    /// The layer is cached with other chunks.
    #[error("the layer {key} is cached with another chunk table: remove it from the cache first")]
    OtherTable {
        /// The layer.
        key: Box<Key>,
    },
    /// What is to be stored beside a layer does not fit the rules of [`Meta`](crate::Meta).
    #[error("the layer {key} cannot be cached: {reason}")]
    Unfit {
        /// The layer.
        key: Box<Key>,
        /// Which rule.
        reason: String,
    },
    /// The range is not inside the layer's data.
    #[error(
        "bytes {offset}..+{length} are not inside the {data_size} bytes of the cached layer {key}"
    )]
    OutOfRange {
        /// The layer.
        key: Box<Key>,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// How many bytes the layer has.
        data_size: u64,
    },
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
