//! What can be set.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::net::Bootstrap;

/// How this node finds others and is found.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where libp2p listens, TCP. On a loopback address, addresses of this machine are taken from others too.
    pub listen: SocketAddr,
    /// The port at which chunks are given away, as others reach it; 0: none are, this node only takes.
    pub https_port: u16,
    /// The IP address at which others reach this node, if it is not the one that its connections come from.
    pub address: Option<IpAddr>,
    /// Where the first other node is found.
    pub bootstrap: Vec<Bootstrap>,
    /// Whether to look for others on the local networks by multicast.
    pub mdns: bool,
    /// A file in which other nodes are remembered for the next start.
    pub remembered: Option<PathBuf>,
    /// What every node of the swarm knows: without it nobody can tell which layers are asked for. Empty: no secret.
    pub secret: Vec<u8>,
    /// How long others remember a layer that is not announced again, and this node what others announce.
    pub record_ttl: Duration,
}

impl Config {
    /// Only the addresses; all else is off, or at its default.
    pub fn new(listen: SocketAddr, https_port: u16) -> Config {
        Config {
            listen,
            https_port,
            address: None,
            bootstrap: Vec::new(),
            mdns: false,
            remembered: None,
            secret: Vec::new(),
            record_ttl: Duration::from_secs(15 * 60),
        }
    }
}
