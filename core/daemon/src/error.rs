//! Why a daemon did not start, or did not end well.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::ConfigError;
use crate::socket::SocketError;

/// A daemon that cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("root {} cannot be opened", .root.display())]
    Open {
        root: PathBuf,
        #[source]
        source: pontoon_snapshot::Error,
    },
    #[error("what this kernel can do is not known")]
    Probe(#[source] pontoon_snapshot::Error),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("{address} cannot be listened on")]
    Admin {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the service manager passed {found}; it must pass one listening unix stream socket")]
    Activation {
        found: String,
        #[source]
        source: Option<io::Error>,
    },
    #[error("{operation} failed")]
    System {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What a process that ends with this error exits with: 64 (EX_USAGE of sysexits.h) where the command line or
    /// the configuration is wrong, so that restarting it would not help.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) => 64,
            _ => 1,
        }
    }
}
