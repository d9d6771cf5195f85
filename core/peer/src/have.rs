//! Which chunks of a layer a node holds.

use crate::Peer;
pub use crate::policy::{Bitmap, Told};

/// What a peer told about one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Have {
    /// Its chunks. `None`: those that it told of last, when it was asked with that generation.
    pub told: Option<Told>,
    /// Others that have mounted the layer, as far as it knows: hints, at most [`PEERS_TOLD_MAX`].
    pub peers: Vec<Peer>,
    /// The zone that it says it is in, at most [`ZONE_BYTES_MAX`] long.
    pub zone: String,
}

/// How many other peers one answer may name.
pub const PEERS_TOLD_MAX: usize = 32;

/// The longest bitmap that is taken from a peer, in bytes.
pub const BITMAP_BYTES_MAX: usize = 1 << 20;

/// The longest name of a zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;
