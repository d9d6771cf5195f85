//! Why lazy layers cannot be served at all.

use std::io;
use std::path::PathBuf;

/// Why lazy layers cannot be served at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something in `<root>/lazy` cannot be made or read.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The cache cannot be opened.
    #[error("cannot open the cache of lazy layers")]
    Cache(#[from] pontoon_cache::Error),
    /// What is remembered of credentials cannot be read.
    #[error("cannot open the remembered credentials")]
    Credentials(#[source] pontoon_source::Error),
    /// The kernel cannot serve trees, and nobody else may.
    #[error(
        "the kernel cannot serve lazy layers, as `front_end = \"erofs\"` in [lazy] asks: {reason}; with \"auto\" or \"fuse\" FUSE serves them"
    )]
    FrontEnd {
        /// Why not.
        reason: String,
    },
    /// No threads.
    #[error("cannot start the threads that fetch layers")]
    Threads(#[source] io::Error),
}
