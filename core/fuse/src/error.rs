//! Why layers are not served.

use std::io;
use std::path::PathBuf;

/// The result of an operation on a server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why layers are not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that is alive is mounted in our place.
    #[error("{} is mounted already and served by somebody else: stop that, or unmount it", .mountpoint.display())]
    Occupied {
        /// The place.
        mountpoint: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot serve layers at {}", .mountpoint.display())]
    Kernel {
        /// The place.
        mountpoint: PathBuf,
        /// What was refused.
        #[source]
        source: pontoon_linux::Error,
    },
    /// The kernel's greeting could not be answered, or a thread not be started.
    #[error("cannot begin to serve layers at {}", .mountpoint.display())]
    Session {
        /// The place.
        mountpoint: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// Nobody can go on with a connection that a predecessor has left.
    #[error("cannot go on serving {name}: {reason}")]
    Left {
        /// Under which name it is kept.
        name: String,
        /// Why not.
        reason: String,
    },
}
