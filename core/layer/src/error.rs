//! Why a layer cannot be read lazily.

use crate::inflate::InflateError;
use crate::verified::DigestMismatch;

/// Why a layer cannot be read lazily. It is unpacked as a whole instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The table of contents is not the one that the manifest names.
    #[error("the table of contents has the digest {} and the manifest says {}: the layer was damaged or exchanged; push the image again", .0.actual, .0.expected)]
    Digest(#[from] DigestMismatch),
    /// Data without a digest that could be checked.
    #[error(
        "{path:?} has no SHA-256 digest for {what}, and what cannot be verified is not read lazily; convert the image again"
    )]
    Unverifiable {
        /// Which file of the layer.
        path: String,
        /// Which part of it.
        what: String,
    },
    /// Beyond a limit.
    #[error(
        "{what} is {size}, and {limit} is the limit: make the layer smaller, or raise the limit"
    )]
    TooLarge {
        /// What is too large, and in which unit.
        what: String,
        /// How large it is, as far as was counted.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// One entry of the table of contents makes no sense.
    #[error("the entry {path:?} of the table of contents {reason}; convert the image again")]
    Entry {
        /// The name in the entry, shortened.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A footer, an annotation or the table of contents as a whole makes no sense.
    #[error("{what} is malformed: {reason}; convert the image again")]
    Malformed {
        /// What was to be read.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A kind of image that Pontoon knows and does not read.
    #[error("it is {what}, which Pontoon does not read; convert the image without that")]
    Unsupported {
        /// What it is, with its article.
        what: String,
    },
    /// The compressed table of contents cannot be inflated.
    #[error("the table of contents cannot be decompressed: {0}; push the image again")]
    Inflate(#[from] InflateError),
}

impl FormatError {
    pub(crate) fn entry(path: &str, reason: impl Into<String>) -> FormatError {
        FormatError::Entry {
            path: path.chars().take(200).collect(),
            reason: reason.into(),
        }
    }

    pub(crate) fn malformed(what: &'static str, reason: impl Into<String>) -> FormatError {
        FormatError::Malformed {
            what,
            reason: reason.into(),
        }
    }

    /// Fails if `size` is above `limit`.
    pub(crate) fn check_limit(what: &str, size: u64, limit: u64) -> Result<(), FormatError> {
        if size <= limit {
            return Ok(());
        }
        Err(FormatError::TooLarge {
            what: what.to_owned(),
            size,
            limit,
        })
    }
}
