//! What can go wrong while real programs are installed, started and driven.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong; its `Debug` form is the readable chain, so that a test's
/// `unwrap` prints what a person needs.
#[derive(thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The operation, as a verb.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start `{command}`")]
    Spawn {
        /// The command line.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A program ended badly.
    #[error("`{command}` ended with {status}:\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status or signal.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// Something did not happen in time.
    #[error("{what}: not within {limit:?}\n{detail}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long it was waited for.
        limit: Duration,
        /// The end of the log of the program that should have done it.
        detail: String,
    },
    /// A program answered, but not with what was asked for.
    #[error("{what}: {why}")]
    Unexpected {
        /// What was asked for.
        what: String,
        /// What came instead, and what to do about it.
        why: String,
    },
    /// The user interrupted the run.
    #[error("interrupted")]
    Interrupted,
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl Error {
    /// An [`Error::Unexpected`].
    pub fn unexpected(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unexpected {
            what: what.into(),
            why: why.into(),
        }
    }
}

/// Names the operation and the path of an I/O error.
pub(crate) trait At<T> {
    fn at(self, what: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, what: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::Io {
            what,
            path: path.as_ref().into(),
            source: e.into(),
        })
    }
}
