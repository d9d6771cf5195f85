//! A call to the kernel that failed.

use std::io;

use rustix::io::Errno;

/// The result of a call to the kernel.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: which one, on what, and what the kernel said beyond the error number.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed{}", .said.as_ref().map(|said| format!(": {said}")).unwrap_or_default())]
pub struct Error {
    /// The call and its object.
    pub operation: String,
    /// The text that the kernel keeps for the new mount calls, if it has one.
    pub said: Option<String>,
    /// The error number.
    #[source]
    pub source: io::Error,
}

impl Error {
    pub(crate) fn new(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error {
            operation: operation.into(),
            said: None,
            source: source.into(),
        }
    }

    /// A request that this crate does not know how to carry out.
    pub(crate) fn invalid(operation: impl Into<String>, reason: impl Into<String>) -> Self {
        Error {
            operation: operation.into(),
            said: Some(reason.into()),
            source: Errno::INVAL.into(),
        }
    }

    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}
