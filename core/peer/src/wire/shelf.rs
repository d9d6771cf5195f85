//! What a node gives to others.

use std::fmt::Debug;
use std::sync::Arc;

use pontoon_cache::{CachedLayer, Key};

use crate::Peer;
use crate::policy::Layout;

/// The layers that others may have chunks of.
pub trait Shelf: Debug + Send + Sync {
    /// The layer, if it is one of those.
    fn layer(&self, key: &Key) -> Option<Arc<CachedLayer>>;

    /// Other nodes that have it, at most [`PEERS_TOLD_MAX`](crate::PEERS_TOLD_MAX), drawn anew each time.
    fn peers(&self, key: &Key) -> Vec<Peer>;

    /// `peer`, which is admitted, asks what of it is here: so it has the layer too, and serves it.
    fn asked(&self, key: &Key, peer: Peer) {
        let _ = (key, peer);
    }

    /// Whether chunks of it are being fetched, or will be in a moment, so that it is worth while to wait for them.
    fn is_fetching(&self, key: &Key) -> bool {
        let _ = key;
        false
    }
}

impl Layout for CachedLayer {
    fn len(&self) -> usize {
        self.chunks().len()
    }

    fn place(&self, index: usize) -> Option<(u64, u32)> {
        let chunk = self.chunks().get(index)?;
        Some((chunk.data_offset, chunk.length))
    }
}
