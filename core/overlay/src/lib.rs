//! The overlay engine: snapshots as directories, mounted with overlayfs.
//!
//! ```text
//! <root>/lock               held by the one daemon of this root
//! <root>/metadata.redb      the records (crate metastore)
//! <root>/empty/             the lower directory of an extract that has no parent
//! <root>/snapshots/<id>/fs  what a snapshot changed: the upper directory while it is active
//! <root>/snapshots/<id>/work
//! ```
//!
//! - [`Engine`]: opens a root and hands out a keyspace per snapshotter name. A directory is made before its record
//!   and deleted after it, so that a crash leaves at most directories without a record, which the next start deletes.
//! - [`LayerProvider`]: the seam for layers that do not come from containerd's unpacker. [`NoLayers`] is ordinary
//!   overlayfs.
//! - [`Features`]: what this kernel and filesystem can do, and so which capabilities containerd may be told.
//! - [`fsck`]: finds and repairs what contradicts itself in a root that no daemon uses.
//!
//! Everything blocks; an asynchronous caller runs it on blocking threads.

mod compose;
mod engine;
mod features;
mod fsck;
mod keyspace;
mod layers;
mod measure;
mod mounted;
mod provider;
mod reaper;
mod recovery;
mod request;
mod root;
mod tree;
mod users;

pub use engine::{Engine, Options};
pub use features::Features;
pub use fsck::{Finding, FsckReport, fsck};
pub use pontoon_metastore::{Link, SnapshotId};
pub use provider::{Chain, LayerProvider, LayerRequest, NoLayers, Offer, Recorded};
pub use users::User;
