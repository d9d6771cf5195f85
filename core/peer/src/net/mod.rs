//! Who has which layer.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_cache::Key;
use tokio::sync::mpsc;

use crate::{Admission, Config, Identity, Peer, PeerId, Result};

/// Finds the nodes that have mounted a layer.
#[derive(Debug, Clone)]
pub struct Discovery {}

/// What happened to other nodes.
#[derive(Debug, Clone)]
pub enum Event {
    /// An admitted peer is connected.
    Connected(Peer),
    /// It is not any more.
    Disconnected(PeerId),
}

/// One other node, as far as this one knows it.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Who it is.
    pub id: PeerId,
    /// Its HTTPS port, once it has told.
    pub address: Option<SocketAddr>,
    /// Whether there is a libp2p connection just now.
    pub connected: bool,
    /// How long it will be banned, if it is.
    pub banned: Option<Duration>,
}

/// How discovery is.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Peers that are connected.
    pub connected: usize,
}

impl Discovery {
    /// Begins to listen and to look for others. What happens is told through `events`, as far as there is room.
    pub async fn start(
        config: Config,
        identity: Identity,
        admission: Admission,
        events: mpsc::Sender<Event>,
    ) -> Result<Discovery> {
        let _ = (config, identity, admission, events);
        Ok(Discovery {})
    }

    /// Tells others that this node has the layer, until [`withdraw`](Self::withdraw).
    pub fn announce(&self, layer: &Key) {
        let _ = layer;
    }

    /// Takes back what [`announce`](Self::announce) told.
    pub fn withdraw(&self, layer: &Key) {
        let _ = layer;
    }

    /// The peers that have announced the layer, as they are found. Ends when there are no more, at the latest after 2 s.
    pub fn peers(&self, layer: &Key) -> mpsc::Receiver<Peer> {
        let _ = layer;
        mpsc::channel(1).1
    }

    /// The peers that this node knows.
    pub fn known(&self) -> Vec<PeerStatus> {
        Vec::new()
    }

    /// Has nothing to do with the peer for a while.
    pub fn ban(&self, peer: PeerId, time: Duration) {
        let _ = (peer, time);
    }

    /// How discovery is.
    pub fn health(&self) -> Health {
        Health::default()
    }
}
