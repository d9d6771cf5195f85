//! Other nodes as a source of chunks: libp2p finds them, HTTPS carries the bytes.
//!
//! Nodes that have mounted the same layer, chunk table included ([`pontoon_cache::Key`]), tell each other which of its chunks they
//! hold and give them away, decompressed and whole. Whoever receives a chunk checks it against a table of its own, so a node that
//! lies is found out by the first chunk.
//!
//! | part | concern |
//! |---|---|
//! | [`Identity`] | the one key of a node, and its [`PeerId`] |
//! | [`Admission`] | who may take part: an allow-list, membership tokens |
//! | [`tls`] | TLS 1.3 on both ports, bound to the [`PeerId`] |
//! | [`net`] | who has which layer: [`Discovery`], a Kademlia table |
//! | [`wire`] | HAVE and chunks over HTTP/1.1 |
//! | [`policy`] | whom to ask, when to ask somebody else. Pure |
//! | `swarm`, [`node`] | what a mounted layer knows of other nodes; the seam to `core/lazyfs` |
//! | [`status`] | what `pontoon peers` shows |

pub mod admission;
pub mod config;
mod error;
mod have;
mod identity;
mod key_file;
pub mod net;
pub mod node;
mod peer;
pub mod policy;
pub mod status;
mod swarm;
pub mod tls;
pub mod wire;

pub use admission::{Admission, Refused};
pub use config::Config;
pub use error::{Error, Result};
pub use have::{BITMAP_BYTES_MAX, Bitmap, Have, PEERS_TOLD_MAX, Told, ZONE_BYTES_MAX};
pub use identity::Identity;
pub use libp2p_identity::PeerId;
pub use net::{Bootstrap, Discovery, Event, Health, PeerStatus};
pub use node::{Node, Settings};
pub use peer::{Class, Peer};
