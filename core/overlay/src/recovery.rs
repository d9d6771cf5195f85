//! At start: what a crash or a power cut has left.

use std::collections::BTreeSet;

use pontoon_metastore::{Link, Record, SnapshotId, Store};
use pontoon_snapshot::{Error, Info, Kind, Result};

use crate::engine::visit_all;
use crate::request;
use crate::root::{Owner, Root};

/// What [`scan`] found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Directories that belong to nothing: their Prepare was cut off.
    pub(crate) orphans: Vec<SnapshotId>,
    /// Whether removed snapshots wait for deletion.
    pub(crate) removed: bool,
    /// Committed snapshots that were not measured.
    pub(crate) unmeasured: Vec<SnapshotId>,
    /// Committed snapshots without a directory.
    pub(crate) lost: Lost,
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

/// Compares directories and records. Reads names and records, no trees; makes what an active snapshot lacks.
///
/// Nothing else may use the root meanwhile.
pub(crate) fn scan(root: &Root, store: &Store) -> Result<Found> {
    let mut directories = directories(root)?;
    if let Some(largest) = directories.last() {
        store.skip_ids_to(*largest);
    }
    let mut found = Found::default();
    let mut missing = Vec::new();
    visit_all(store, &mut |_, record| {
        let is_there = directories.remove(&record.id);
        let is_ours = record.layer.is_none();
        if record.info.kind == Kind::Committed && record.usage.is_none() && is_there {
            found.unmeasured.push(record.id);
        }
        if !is_there && is_ours {
            missing.push(record);
        }
    })?;
    for record in missing {
        restore(root, record, &mut found.lost);
    }
    for removed in store.removed()? {
        found.removed = true;
        directories.remove(&removed.id);
    }
    found.orphans = directories.into_iter().collect();
    Ok(found)
}

/// The snapshots that have a directory.
pub(crate) fn directories(root: &Root) -> Result<BTreeSet<SnapshotId>> {
    let entries = root.list()?;
    Ok(entries
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect())
}

/// A power cut took the directory of a record. An active snapshot begins anew; a committed one cannot.
fn restore(root: &Root, record: Record, lost: &mut Lost) {
    let (id, info) = (record.id, record.info);
    if info.kind == Kind::Committed {
        tracing::error!(key = %info.key, %id, "the directory of a committed snapshot is missing; run `pontoon fsck`");
        lost.0.insert(id);
        return;
    }
    tracing::warn!(key = %info.key, %id, kind = %info.kind, "the directory of a snapshot was lost; it is empty now");
    if let Err(error) = root.restore(id, info.kind, mapped_owner(&info)) {
        // Its mounts will fail; on a full disk the others must work so that some can be removed.
        tracing::error!(key = %info.key, %id, error = &error as &dyn std::error::Error, "cannot make the directory of a snapshot");
    }
}

/// The owner of the upper directory that the labels ask for.
pub(crate) fn mapped_owner(info: &Info) -> Owner {
    match request::id_mapping(&info.labels) {
        Ok(Some(mapping)) => {
            let (uid, gid) = mapping.map().root();
            Owner { uid, gid }
        }
        _ => Owner::ROOT,
    }
}
