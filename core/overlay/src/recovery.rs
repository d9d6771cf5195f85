//! At start: what a crash or a power cut has left.

use std::collections::BTreeSet;
use std::path::Path;

use pontoon_metastore::{Link, Record, SnapshotId, Store};
use pontoon_snapshot::{Error, Info, Kind, Result, SnapshotterName};

use crate::compose::uses_directory;
use crate::engine::visit_all;
use crate::provider::Recorded;
use crate::root::{Owner, Parts, Root};
use crate::{User, mounted, request, users};

/// What [`scan`] found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Directories that belong to nothing and that no mount uses: their Prepare was cut off, or the metadata is older.
    pub(crate) orphans: Vec<SnapshotId>,
    /// Whether removed snapshots wait for deletion.
    pub(crate) removed: bool,
    /// Committed snapshots that were not measured.
    pub(crate) unmeasured: Vec<SnapshotId>,
    /// Committed snapshots without a directory.
    pub(crate) lost: Lost,
    /// What the layer provider has brought.
    pub(crate) layers: Vec<Recorded>,
    /// What lies on that.
    pub(crate) users: Vec<User>,
}

impl Found {
    fn note_layer(&mut self, id: SnapshotId, record: Option<&Vec<u8>>) {
        self.layers
            .extend(record.cloned().map(|record| Recorded { id, record }));
    }
}

/// Committed snapshots whose directory is gone. Nothing is composed on them.
#[derive(Debug, Default)]
pub(crate) struct Lost(BTreeSet<SnapshotId>);

impl Lost {
    /// Refuses a chain with a lost snapshot.
    pub(crate) fn check(&self, chain: &[Link]) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        match chain.iter().find(|link| self.0.contains(&link.id)) {
            None => Ok(()),
            Some(link) => Err(Error::Corrupt {
                what: format!("snapshot {}", link.name),
                reason: format!("its directory snapshots/{} is missing", link.id),
            }),
        }
    }
}

/// Compares directories and records. Reads names and records, no trees; makes what active snapshots and views lack.
///
/// Nothing else may use the root meanwhile.
pub(crate) fn scan(root: &Root, store: &Store) -> Result<Found> {
    let mut directories = directories(root)?;
    if let Some(largest) = directories.last() {
        store.skip_ids_to(*largest);
    }
    let mut found = Found::default();
    let mut damaged = Vec::new();
    visit_all(store, &mut |name, record| {
        directories.remove(&record.id);
        found.note_layer(record.id, record.layer.as_ref());
        match lacks(root, &record) {
            Ok(true) => damaged.push((name.clone(), record)),
            Ok(false) => {
                let is_measurable = record.info.kind == Kind::Committed && record.layer.is_none();
                if is_measurable && record.usage.is_none() {
                    found.unmeasured.push(record.id);
                }
            }
            // Its mounts tell, if it matters; the others must work.
            Err(error) => {
                tracing::error!(key = %record.info.key, error = &error as &dyn std::error::Error, "cannot look at the directory of a snapshot");
            }
        }
    })?;
    for (name, record) in damaged {
        restore(root, store, &name, record, &mut found.lost);
    }
    for removed in store.removed()? {
        found.removed = true;
        found.note_layer(removed.id, removed.layer.as_ref());
        directories.remove(&removed.id);
    }
    found.orphans = deletable(root, directories);
    if !found.layers.is_empty() {
        found.users = users::of(root, store)?;
    }
    Ok(found)
}

/// Those of the directories without a record that no mount uses. Metadata that is older than the directories, after a
/// restored backup for instance, knows nothing of containers that run.
fn deletable(root: &Root, orphans: BTreeSet<SnapshotId>) -> Vec<SnapshotId> {
    if orphans.is_empty() {
        return Vec::new();
    }
    let in_use = match mounted::ids(root.snapshots()) {
        Ok(in_use) => in_use,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                orphans = orphans.len(),
                "keeping all directories that no record knows, because it is not known which ones are mounted"
            );
            return Vec::new();
        }
    };
    let (kept, deletable): (Vec<_>, Vec<_>) =
        orphans.into_iter().partition(|id| in_use.contains(id));
    for id in kept {
        tracing::warn!(%id, "no record knows this directory, but it is mounted; keeping it until a start without the mount");
    }
    if !deletable.is_empty() {
        tracing::warn!(
            directories = deletable.len(),
            "deleting directories that no record knows"
        );
    }
    for id in &deletable {
        let mut entries = Path::new(&root.upper(*id)).read_dir().into_iter().flatten();
        if entries.next().is_some() {
            tracing::info!(%id, "no record knows this directory, and it is not empty");
        }
    }
    deletable
}

/// Whether a directory that the snapshot needs is missing. A layer with a provider's record needs none here.
pub(crate) fn lacks(root: &Root, record: &Record) -> Result<bool> {
    let info = &record.info;
    if record.layer.is_some() || !uses_directory(info.kind, info.parent.is_some()) {
        return Ok(false);
    }
    let Parts { upper, work } = parts(root, record.id)?;
    Ok(!upper || (record.info.kind == Kind::Active && !work))
}

pub(crate) fn parts(root: &Root, id: SnapshotId) -> Result<Parts> {
    root.parts(id)
        .map_err(|error| Error::io(format!("look into directory snapshots/{id}"), error))
}

/// The snapshots that have a directory.
pub(crate) fn directories(root: &Root) -> Result<BTreeSet<SnapshotId>> {
    let entries = root.list()?;
    Ok(entries
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect())
}

/// A power cut took the directory of a record, or a part of it. An active snapshot begins anew; a committed one cannot.
fn restore(root: &Root, store: &Store, name: &SnapshotterName, record: Record, lost: &mut Lost) {
    let (id, info) = (record.id, record.info);
    if info.kind == Kind::Committed {
        tracing::error!(key = %info.key, %id, "the directory of a committed snapshot is missing; run `pontoon fsck`");
        lost.0.insert(id);
        return;
    }
    tracing::warn!(key = %info.key, %id, kind = %info.kind, "a directory of a snapshot was lost; it is empty now");
    let owner = owner(root, store, name, &info);
    if let Err(error) = root.restore(id, info.kind, owner) {
        // Its mounts will fail; on a full disk the others must work so that some can be removed.
        tracing::error!(key = %info.key, %id, error = &error as &dyn std::error::Error, "cannot make the directory of a snapshot");
    }
}

/// Who owned the upper directory when it was made: the mapped root, or else whoever owns the parent's. The owner of a
/// layer that lies elsewhere is not known here; root as a rule.
pub(crate) fn owner(root: &Root, store: &Store, name: &SnapshotterName, info: &Info) -> Owner {
    if let Ok(Some(mapping)) = request::id_mapping(&info.labels) {
        return mapping.owner();
    }
    let parent = info.parent.as_ref();
    parent
        .and_then(|parent| store.get(name, parent).ok())
        .and_then(|parent| Root::owner_of(&root.upper(parent.id)).ok())
        .unwrap_or(Owner::ROOT)
}
