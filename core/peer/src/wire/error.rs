//! Why nothing came of a request.

use std::io;
use std::time::Duration;

use crate::policy::Failure;
use crate::{Peer, PeerId, Refused};

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing came of a request to another node. The chunks are fetched elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection to it.
    #[error("connecting to peer {} at {} failed", .peer.id, .peer.address)]
    Connect {
        /// The node.
        peer: Peer,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up with this node's key.
    #[error("making TLS of the node's key failed: this is a bug, please report it")]
    Tls(#[source] Box<crate::Error>),
    /// The connection broke, or what came was no HTTP.
    #[error("the connection to peer {peer} broke")]
    Broken {
        /// The node.
        peer: PeerId,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// It ended an answer before all was there.
    #[error("peer {peer} ended an answer {missing} bytes too soon")]
    Cut {
        /// The node.
        peer: PeerId,
        /// How many bytes did not come.
        missing: u64,
    },
    /// Nothing, or too little, came in time.
    #[error("peer {peer} was too slow with {what}")]
    Slow {
        /// The node.
        peer: PeerId,
        /// What did not come.
        what: &'static str,
    },
    /// It has enough to do.
    #[error("peer {peer} is busy for {} ms", .retry_after.as_millis())]
    Busy {
        /// The node.
        peer: PeerId,
        /// For so long.
        retry_after: Duration,
    },
    /// It has not got it.
    #[error("peer {peer} has not got it")]
    Missing {
        /// The node.
        peer: PeerId,
        /// The generation of what it has, if it has the layer at all.
        generation: Option<u64>,
    },
    /// It does not serve this node.
    #[error("peer {peer} refused with status {status}: is this node admitted there?")]
    Refused {
        /// The node.
        peer: PeerId,
        /// The HTTP status.
        status: u16,
    },
    /// This node does not admit it, so nothing of it is read.
    #[error("peer {peer} is not admitted here: {refused}")]
    NotAdmitted {
        /// The node.
        peer: PeerId,
        /// Why not.
        refused: Refused,
    },
    /// It answered with what no node answers.
    #[error("peer {peer} answered nonsense: {reason}")]
    Nonsense {
        /// The node.
        peer: PeerId,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// What it means for the standing of the node.
    pub fn failure(&self) -> Failure {
        match self {
            Error::Connect { .. } | Error::Tls(_) | Error::Broken { .. } => Failure::Broken,
            Error::Cut { .. } => Failure::Cut,
            Error::Slow { .. } => Failure::Slow,
            Error::Busy { retry_after, .. } => Failure::Busy(*retry_after),
            Error::Missing { .. } => Failure::Missing,
            Error::Refused { .. } | Error::NotAdmitted { .. } => Failure::Refused,
            Error::Nonsense { .. } => Failure::Wrong,
        }
    }
}
