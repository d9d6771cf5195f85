//! Why there is no mirror.

use std::io;
use std::net::SocketAddr;

/// The result of starting a mirror.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no mirror.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Others than this node could connect.
    #[error(
        "the mirror cannot listen on {address}: whoever can connect gets every blob, so it must be a loopback address like 127.0.0.1:4001"
    )]
    NotLoopback {
        /// The address that was set.
        address: SocketAddr,
    },
    /// The address cannot be had.
    #[error(
        "the mirror cannot listen on {address}: free it (a dfdaemon has port 4001 too), or set another one"
    )]
    Listen {
        /// The address that was set.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What containerd is called by cannot be used.
    #[error("the mirror has no containerd to read from")]
    Containerd(#[source] pontoon_containerd::Error),
    /// The system gives no thread.
    #[error("the mirror's thread did not start")]
    Thread(#[source] io::Error),
}
