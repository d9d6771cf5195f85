//! The seam for layers that do not come from containerd's unpacker.

use std::fmt;
use std::path::{Path, PathBuf};

use pontoon_linux::IdMap;
use pontoon_metastore::{Link, SnapshotId};
use pontoon_snapshot::{Key, Labels, Result, SnapshotterName, Usage};

use crate::User;

/// Brings layers: mounts them lazily or unpacks them itself.
///
/// Called from many threads at once, and never while a transaction is open. Calls take round trips, not
/// downloads: containerd holds a lock on the snapshotter for as long as Prepare runs.
pub trait LayerProvider: Send + Sync + fmt::Debug {
    /// Asked when containerd wants to extract a layer: can you bring it?
    fn offer(&self, request: &LayerRequest<'_>) -> Offer;

    /// The directories of a chain in which at least one layer has a record of this provider, topmost first, ready
    /// to be lower directories of an overlay or the source of a bind mount. `None` to use [`Chain::directory`] of each.
    ///
    /// Idempotent. Must bring back what a restart has taken away. Called whenever mounts are composed.
    fn lowerdirs(&self, chain: &Chain<'_>, id_map: Option<&IdMap>) -> Result<Option<Vec<PathBuf>>>;

    /// What the layer takes on this machine's disk, asked when the layer is recorded and, if that fails, whenever
    /// Usage asks.
    fn usage(&self, record: &[u8]) -> Result<Usage>;

    /// Gives up the layer; its snapshot was removed, or never came to be. Called again if it fails, and possibly after
    /// it succeeded.
    fn release(&self, id: SnapshotId, record: &[u8]) -> Result<()>;

    /// Told once, before anything else is asked: every layer of this provider that has a record, those that are removed
    /// and not released yet included, and who lies on them. Whatever else the provider kept is of offers that a crash cut
    /// off. The root is this daemon's alone by now.
    fn reconcile(&self, layers: &[Recorded], users: &[User]) {
        let _ = (layers, users);
    }

    /// The daemon ends. Nothing is asked afterwards. `is_used` says whether a container may be using a layer, which it
    /// then needs while no daemon runs, too.
    fn close(&self, is_used: bool) {
        let _ = is_used;
    }
}

/// A layer that a provider brought, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its snapshot.
    pub id: SnapshotId,
    /// What [`Offer::Lazy`] said.
    pub record: Vec<u8>,
}

/// The layer that containerd wants to extract.
#[derive(Debug)]
pub struct LayerRequest<'a> {
    /// The snapshotter name under which it asks.
    pub name: &'a SnapshotterName,
    /// The key of the extraction, with containerd's namespace in it.
    pub key: &'a Key,
    /// The chain ID that it would commit.
    pub target: &'a str,
    /// All labels of the request.
    pub labels: &'a Labels,
    /// What the layer lies on.
    pub chain: Chain<'a>,
    /// The id that the layer's snapshot will have.
    pub id: SnapshotId,
    /// An empty directory to unpack into. It is the snapshot's if the answer is [`Offer::Unpacked`].
    pub directory: &'a Path,
}

/// What a provider can do about a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// It is there, by way of [`LayerProvider::lowerdirs`]. The bytes are kept with the snapshot.
    Lazy(Vec<u8>),
    /// It was unpacked into [`LayerRequest::directory`] and synced to disk by the provider, because the snapshot is
    /// recorded as whole at once. containerd waits meanwhile, so that is better done while unpacking.
    Unpacked,
    /// Not a layer for this provider. The directory was not touched.
    Skip,
    /// It would have been, but for this reason: a short sentence that is the same for the same cause, because it is
    /// counted. containerd unpacks the layer.
    Decline(String),
    /// It would have been, and containerd cannot unpack it either: Prepare fails, and whoever pulls is told why. The
    /// directory was not touched.
    Refuse {
        /// A short sentence that is the same for the same cause.
        reason: String,
        /// What exactly happened, and what to do.
        detail: Option<String>,
        /// Whether the same request may go well later.
        transient: bool,
    },
}

/// The committed ancestors of a snapshot, nearest first.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// The ancestors.
    pub links: &'a [Link],
    pub(crate) snapshots: &'a Path,
}

impl Chain<'_> {
    /// Where an ordinary layer's files are.
    pub fn directory(&self, link: &Link) -> PathBuf {
        self.snapshots.join(link.id.to_string()).join("fs")
    }
}

/// Brings nothing: ordinary overlayfs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLayers;

impl LayerProvider for NoLayers {
    fn offer(&self, _: &LayerRequest<'_>) -> Offer {
        Offer::Skip
    }

    fn lowerdirs(&self, chain: &Chain<'_>, _: Option<&IdMap>) -> Result<Option<Vec<PathBuf>>> {
        Err(foreign(
            chain.links.iter().find(|link| link.layer.is_some()),
        ))
    }

    fn usage(&self, _: &[u8]) -> Result<Usage> {
        Err(foreign(None))
    }

    /// Nothing to give up here; what another plugin kept elsewhere is its own to clean up.
    fn release(&self, _: SnapshotId, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// A layer of another plugin: its root was given to this one.
fn foreign(link: Option<&Link>) -> pontoon_snapshot::Error {
    let what = link.map_or("a layer".to_owned(), |link| {
        format!("snapshot {}", link.name)
    });
    pontoon_snapshot::Error::Refused {
        what,
        reason: "a lazy snapshotter made it in this root, and this one only has ordinary layers; start the plugin that made it, or use another root".to_owned(),
    }
}
