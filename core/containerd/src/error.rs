//! What can go wrong with containerd's services.

use std::error::Error as StdError;

use pontoon_layer::{Digest, DigestMismatch};
use tonic::{Code, Status};

/// What can go wrong with containerd's services.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the client was made with cannot be used.
    #[error("{what}: {reason}")]
    Invalid {
        /// What was given.
        what: String,
        /// What is wrong with it, and what to use instead.
        reason: String,
    },
    /// containerd does not know it, in this namespace.
    #[error(
        "containerd knows no {what} in the namespace {namespace}; is it the right name and namespace?"
    )]
    NotFound {
        /// What was asked for.
        what: String,
        /// Where.
        namespace: String,
    },
    /// containerd did not answer.
    #[error(
        "{operation}: containerd does not answer: {reason}; is it running, and is this its socket?"
    )]
    Unavailable {
        /// What was asked for.
        operation: String,
        /// What is known about it.
        reason: String,
    },
    /// Somebody else is writing the same blob.
    #[error("{operation}: somebody else is writing it; try again when that pull has ended")]
    Busy {
        /// What was to be done.
        operation: String,
    },
    /// The data are not what their descriptor says.
    #[error(
        "{what} is not what its descriptor says: {reason}; it was damaged or exchanged where it came from"
    )]
    Damaged {
        /// Whose data.
        what: String,
        /// What is different.
        reason: String,
    },
    /// The data did not come.
    #[error("the data of {digest} did not come: {source}")]
    Source {
        /// Of which blob.
        digest: Digest,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// containerd refused it.
    #[error("{operation}: containerd answers {code:?}: {message}")]
    Refused {
        /// What was to be done.
        operation: String,
        /// The class of the error.
        code: Code,
        /// containerd's words.
        message: String,
    },
    /// containerd answered something that makes no sense.
    #[error("{operation}: containerd's answer makes no sense: {reason}")]
    Nonsense {
        /// What was asked for.
        operation: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

/// What most of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether the same call may do better later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Busy { .. })
    }

    /// Whether containerd does not know what was asked for.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }

    pub(crate) fn status(operation: &str, status: &Status) -> Error {
        let operation = operation.to_owned();
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Error::Unavailable {
                operation,
                reason: reason(status),
            },
            code => Error::Refused {
                operation,
                code,
                message: status.message().to_owned(),
            },
        }
    }

    pub(crate) fn nonsense(operation: &str, reason: impl Into<String>) -> Error {
        Error::Nonsense {
            operation: operation.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn mismatch(mismatch: &DigestMismatch) -> Error {
        Error::Damaged {
            what: mismatch.expected.to_string(),
            reason: format!("its digest is {}", mismatch.actual),
        }
    }
}

/// A status that tonic made itself says why only in its sources.
fn reason(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = error.source();
    }
    reason
}
