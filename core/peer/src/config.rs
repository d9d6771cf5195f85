//! What can be set.

use std::net::SocketAddr;

/// How this node takes part.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where libp2p listens, TCP.
    pub listen: SocketAddr,
    /// Where chunks are given away, HTTPS.
    pub https_listen: SocketAddr,
}
