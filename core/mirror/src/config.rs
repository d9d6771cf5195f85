//! What can be set.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the mirror listens, and whose content it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A loopback address. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// The namespace of containerd whose blobs are given, and no others.
    pub namespace: String,
    /// Only blobs that came from one of these registries, named as containerd does: by host, without a port. Empty: all.
    pub registries: Vec<String>,
}
