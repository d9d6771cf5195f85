//! Verified random access to a layer that arrives while it is read.
//!
//! A [`LazyLayer`] is a file tree, a [`CachedLayer`](pontoon_cache::CachedLayer), and a way to the layer's blob that
//! is not gone before bytes are missing ([`Connect`]). [`LazyLayer::read`] answers at once what is here. Else it
//! answers a future, and has begun to fetch:
//! - whatever is missing, side by side, in few requests, and up to [`Config::along_bytes`] from the miss on;
//! - each member of the blob once, for any number of readers, whether they wait until the end or not;
//! - only what has its digest reaches the cache or a reader. Wrong bytes are fetched once more, then the read fails.
//!
//! The [`Engine`] is what all layers of a daemon share: memory, processors, and who goes first. What somebody waits
//! for ([`Urgency::Demand`](pontoon_source::Urgency)) never waits behind what is fetched ahead
//! ([`LazyLayer::prefetch`], [`LazyLayer::follow`]): that is in one order for all layers, and asked for only as far as the
//! line would be idle otherwise.
//!
//! What another layer has is not fetched, if it is one that [`LazyLayer::set_kin`] names. What other nodes have is fetched from
//! them, if [`LazyLayer::share`] is told of [`Peers`].
//!
//! Knows no kernel and no format. Reads may come from any thread; the work is done on the engine's runtime, inflation
//! on its blocking threads.

mod background;
mod complaints;
mod config;
mod course;
mod engine;
mod error;
mod feed;
mod fetch;
mod flight;
mod kin;
mod lane;
mod layer;
mod leftovers;
mod line;
mod link;
mod missing;
mod peers;
mod plan;
mod queue;
mod race;
mod sequence;
mod status;
mod trace;
mod trust;
mod unpack;

pub use config::{BackgroundConfig, Config};
pub use engine::Engine;
pub use error::{Error, Result};
pub use kin::Kin;
pub use layer::{LazyLayer, PendingRead, Prefetch, Read};
pub use link::{Connect, Connected};
pub use peers::{News, Peers, Swarm};
pub use pontoon_source::Urgency;
pub use status::{BackgroundState, Counted, LastError, Status};

/// The tree of a layer, as whoever shows it needs to know it.
pub mod tree {
    pub use pontoon_erofs::{DirEntry, FileType, Image, Inode, Nid, ReadError, Xattr, Xattrs};
    pub use pontoon_layer::Time;
}
