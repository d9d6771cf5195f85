//! Why a node cannot take part.

use std::io;
use std::path::PathBuf;

/// The result of starting to take part.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a node cannot take part. Nothing of this keeps a layer from its registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{operation} {} failed", .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Others may read the node's key.
    #[error(
        "the key {} has mode {mode:04o}, so others can read it: chmod 0600 it if nobody has, else delete it and restart (the node then is another peer)",
        .path.display()
    )]
    KeyMode {
        /// The key's file.
        path: PathBuf,
        /// The permission bits it has.
        mode: u32,
    },
    /// A file is not what it should be.
    #[error("{} is no {what}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The system gives no threads.
    #[error("starting the threads for other nodes failed")]
    Threads(#[source] io::Error),
    /// Nobody can be reached at the address.
    #[error("listening on {address} failed: is another daemon there? Set another one in [peer]")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The node's key does not suit the cryptography.
    #[error("making TLS of the node's key failed: this is a bug, please report it")]
    Tls(#[source] rustls::Error),
    /// The configuration asks for something that cannot be.
    #[error("[peer] {0}")]
    Config(String),
}
