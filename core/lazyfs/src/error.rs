//! Why bytes of a layer cannot be read.

use std::sync::Arc;
use std::time::Duration;

use pontoon_layer::Digest;

/// The result of an operation on a lazy layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why bytes of a layer cannot be read. Cheap to clone: readers who waited for the same chunk share its error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tree image of the layer is damaged.
    #[error(
        "the tree of layer {layer} is damaged: unmount the image, delete the file and pull the image again"
    )]
    Tree {
        /// The layer.
        layer: Digest,
        /// What is wrong.
        #[source]
        source: pontoon_erofs::ReadError,
    },
    /// A file's data was asked for, and this is none.
    #[error("inode {nid} of layer {layer} is no file")]
    NotAFile {
        /// The layer.
        layer: Digest,
        /// The inode.
        nid: u64,
    },
    /// The registry does not answer, and we have waited long enough.
    #[error("bytes of layer {layer} did not come although {} seconds were waited: check the registry and the network; the next read tries again", .waited.as_secs())]
    Unavailable {
        /// The layer.
        layer: Digest,
        /// How long it was waited for.
        waited: Duration,
        /// What the last try said.
        #[source]
        source: Arc<pontoon_source::Error>,
    },
    /// The registry refuses, and waiting does not help.
    #[error("bytes of layer {layer} cannot be fetched; the next read tries again")]
    Source {
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: Arc<pontoon_source::Error>,
    },
    /// What came is not what the table of contents vouches for, twice.
    #[error(
        "chunk {chunk} of layer {layer} has wrong bytes ({reason}): the registry, or something on the way, damages them; push the image again"
    )]
    WrongBytes {
        /// The layer.
        layer: Digest,
        /// Index of the chunk in the layer's chunk table.
        chunk: usize,
        /// What was found instead.
        reason: String,
    },
    /// The cache does not have the layer, or not as it should.
    #[error("the cached data of layer {layer} cannot be used")]
    Cache {
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: Arc<pontoon_cache::Error>,
    },
    /// Bytes that were fetched are gone again before they could be read, more than once.
    #[error("the disk loses what is cached of layer {layer}: check the disk")]
    Lost {
        /// The layer.
        layer: Digest,
    },
    /// The daemon stops, or the layer is not mounted any more.
    #[error("bytes of layer {layer} were given up")]
    Abandoned {
        /// The layer.
        layer: Digest,
    },
}

impl Error {
    /// A short constant word for metrics and `--json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Tree { .. } => "tree",
            Error::NotAFile { .. } => "not-a-file",
            Error::Unavailable { .. } => "unavailable",
            Error::Source { source, .. } => source.kind(),
            Error::WrongBytes { .. } => "wrong-bytes",
            Error::Cache { .. } => "cache",
            Error::Lost { .. } => "lost",
            Error::Abandoned { .. } => "abandoned",
        }
    }

    /// The error and what lies below it, in one line.
    pub fn whole(&self) -> String {
        let mut text = self.to_string();
        let mut below = std::error::Error::source(self);
        while let Some(error) = below {
            text = format!("{text}: {error}");
            below = error.source();
        }
        text
    }
}
