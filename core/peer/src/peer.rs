//! Another node, and how urgently it is asked.

use std::net::SocketAddr;

use crate::PeerId;

/// Another node that may hold chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Who it is. Whoever answers at `address` has to prove it.
    pub id: PeerId,
    /// Where its chunks are: the address of its HTTPS port.
    pub address: SocketAddr,
}

/// Why a chunk is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for it.
    Demand,
    /// Somebody may want it later.
    Prefetch,
}
