//! Why nothing is kept.

use std::io;
use std::path::PathBuf;

/// The result of asking a holder.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The holder is gone, or does not answer.
    #[error("the holder in {} does not answer", .directory.display())]
    Lost {
        /// Its directory.
        directory: PathBuf,
        /// What was tried.
        #[source]
        source: io::Error,
    },
    /// The holder does not do that.
    #[error("the holder refuses: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The holder said something that nobody asked for.
    #[error("the holder in {} answers with something else; stop it, and it is started again", .directory.display())]
    Garbled {
        /// Its directory.
        directory: PathBuf,
    },
    /// There is no holder, and none can be started.
    #[error("no holder runs in {}, and {} cannot be started; install pontoon-holder beside the daemon, or start its unit", .directory.display(), .program.display())]
    Start {
        /// Its directory.
        directory: PathBuf,
        /// What was started.
        program: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The holder itself cannot do something.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What.
        operation: &'static str,
        /// Of what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}
