//! The snapshots that lie on layers of the provider.

use std::collections::{BTreeSet, HashMap};

use pontoon_metastore::{SnapshotId, Store};
use pontoon_snapshot::{Key, Kind, Result, SnapshotterName};

use crate::engine::visit_all;
use crate::mounted;
use crate::root::Root;

/// An active snapshot or a view, a container's as a rule, that lies on layers of the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its key, with containerd's namespace in it.
    pub key: Key,
    /// The snapshots of these layers.
    pub layers: Vec<SnapshotId>,
    /// Whether something in this process's mount namespace uses its directory.
    pub is_mounted: bool,
}

/// A committed snapshot: what it lies on, and its id if the provider brought it.
type Committed = (Option<Key>, Option<SnapshotId>);

/// All of them. Reads every record.
pub(crate) fn of(root: &Root, store: &Store) -> Result<Vec<User>> {
    let mut committed: HashMap<(SnapshotterName, Key), Committed> = HashMap::new();
    let mut others = Vec::new();
    visit_all(store, &mut |name, record| {
        let (id, info) = (record.id, record.info);
        if info.kind == Kind::Committed {
            let layer = record.layer.is_some().then_some(id);
            committed.insert((name.clone(), info.key), (info.parent, layer));
        } else {
            others.push((name.clone(), id, info));
        }
    })?;
    // Without it nobody is known to be mounted.
    let mounted = mounted::ids(root.snapshots()).unwrap_or_default();
    let users = others.into_iter().filter_map(|(name, id, info)| {
        let layers = layers(&committed, &name, info.parent);
        (!layers.is_empty()).then(|| User {
            key: info.key,
            is_mounted: mounted.contains(&id),
            layers,
        })
    });
    Ok(users.collect())
}

fn layers(
    committed: &HashMap<(SnapshotterName, Key), Committed>,
    name: &SnapshotterName,
    mut parent: Option<Key>,
) -> Vec<SnapshotId> {
    let mut layers = BTreeSet::new();
    while let Some(key) = parent {
        let Some((above, layer)) = committed.get(&(name.clone(), key)) else {
            break;
        };
        layers.extend(layer);
        parent = above.clone();
    }
    layers.into_iter().collect()
}
