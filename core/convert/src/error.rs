//! What can go wrong in a conversion.

use std::io;
use std::path::PathBuf;

use pontoon_layer::Digest;

/// What can go wrong. Whatever it is, what was written is no image: delete it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The layer cannot be read.
    #[error(transparent)]
    Layer(pontoon_unpack::Error),
    /// An entry that cannot be in a layer of the format.
    #[error(
        "the layer's tar archive has {what} at {path:?}, which {format} cannot hold; build the image without it, or leave the layer as it is"
    )]
    Unsupported {
        /// The entry, shortened.
        path: String,
        /// What it is.
        what: String,
        /// The format.
        format: &'static str,
    },
    /// Nobody could read the layer lazily.
    #[error(
        "the layer's files make no table of contents that can be read: {0}; build the image again, or leave the layer as it is"
    )]
    Unreadable(pontoon_layer::FormatError),
    /// Beyond a limit.
    #[error("{what}: {limit} is the limit; make the layer smaller, or its chunks larger")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The limit, in what is counted.
        limit: u64,
    },
    /// An option that makes no sense.
    #[error("{0}")]
    Option(String),
    /// What comes out cannot be written.
    #[error("cannot write the layer: {0}; make room, or look at where it goes")]
    Write(#[source] io::Error),
    /// A compressor that does not compress.
    #[error("compressing failed: {0}; is there enough memory?")]
    Compress(String),
    /// No thread could be started.
    #[error("cannot start a thread to compress with: {0}; raise the limit of tasks")]
    Thread(#[source] io::Error),
    /// The caller wants it no more.
    #[error("the conversion was cancelled")]
    Cancelled,
    /// A file or directory of a layout.
    #[error("{operation} {path:?}: {source}")]
    File {
        /// What was to be done.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it could not be done.
        source: io::Error,
    },
    /// A blob did not come.
    #[error("cannot read {digest}: {source}; try again, or look at where it comes from")]
    Copy {
        /// Which one.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// What was asked for is known by its name alone.
    #[error(
        "nothing of the image is there ({0}); pull it again, or complete it with `pontoon hydrate` if it was pulled lazily"
    )]
    Absent(String),
    /// Where an image is, or is to be, is not a directory, and something went wrong there.
    #[error("{0}")]
    Place(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What should be a layout, an index, a manifest or a configuration makes no sense.
    #[error("{what} makes no sense: {reason}; write the image again")]
    Malformed {
        /// What was read.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A blob is not what its descriptor says.
    #[error("the blob {digest} is damaged: {reason}; write the image again")]
    Damaged {
        /// What it should be.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// Something of one layer.
    #[error("layer {digest}: {source}")]
    OfLayer {
        /// Which one.
        digest: Digest,
        /// What.
        source: Box<Error>,
    },
}

/// What this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<pontoon_unpack::Error> for Error {
    fn from(error: pontoon_unpack::Error) -> Self {
        match error {
            pontoon_unpack::Error::Unsupported { path, what } => Error::Unsupported {
                path: shown(path.to_string_lossy().as_bytes()),
                what,
                format: "a lazy layer",
            },
            pontoon_unpack::Error::Cancelled => Error::Cancelled,
            other => Error::Layer(other),
        }
    }
}

impl Error {
    pub(crate) fn unsupported(path: &[u8], what: impl Into<String>, format: &'static str) -> Self {
        Error::Unsupported {
            path: shown(path),
            what: what.into(),
            format,
        }
    }

    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File {
            operation,
            path,
            source,
        }
    }

    pub(crate) fn malformed(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Malformed {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// The same, as what is wrong with one layer.
    pub(crate) fn of_layer(self, digest: &Digest) -> Error {
        match self {
            Error::Cancelled => Error::Cancelled,
            other => Error::OfLayer {
                digest: digest.clone(),
                source: Box::new(other),
            },
        }
    }

    /// Fails if `count` is beyond `limit`.
    pub(crate) fn check_limit(what: &'static str, count: u64, limit: u64) -> Result<()> {
        match count > limit {
            true => Err(Error::TooLarge { what, limit }),
            false => Ok(()),
        }
    }
}

/// Paths in errors are cut: a stranger chose them.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(1024)]).into_owned()
}
