//! What may be done with a snapshot: pure, so that every row of the contract's error table is one call.
//!
//! Each rule answers before anything is written. The order of the checks is containerd's, so that a request
//! with two faults gets the same code.

use std::time::{Duration, SystemTime};

use pontoon_snapshot::{
    Error, Info, Key, KeyStyle, Kind, LabelChange, Labels, Result, SnapshotterName,
};

/// A parent that a request names, and what stands under that key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parent<'a> {
    pub(crate) key: &'a Key,
    pub(crate) kind: Option<Kind>,
}

/// Keys of one style only live under a name; `present` is the style of those that are there.
pub(crate) fn style(name: &SnapshotterName, key: &Key, present: Option<KeyStyle>) -> Result<()> {
    match present {
        Some(present) if present != key.style() => Err(Error::MixedKeys {
            name: name.clone(),
            key: key.clone(),
            present,
            given: key.style(),
        }),
        _ => Ok(()),
    }
}

/// A parent to build `key` on.
pub(crate) fn parent(key: &Key, parent: Parent<'_>) -> Result<()> {
    match parent.kind {
        Some(Kind::Committed) => Ok(()),
        Some(kind) => Err(Error::ParentNotCommitted {
            key: key.clone(),
            parent: parent.key.clone(),
            kind,
        }),
        None => Err(Error::ParentNotFound {
            key: key.clone(),
            parent: parent.key.clone(),
        }),
    }
}

/// A snapshot `key` to create; `present` is what stands under that key.
pub(crate) fn create(
    key: &Key,
    present: Option<Kind>,
    parent_of_key: Option<Parent<'_>>,
) -> Result<()> {
    if let Some(parent_of_key) = parent_of_key {
        parent(key, parent_of_key)?;
    }
    vacant(key, present)
}

/// The kind that Prepare and View make.
pub(crate) fn creatable(key: &Key, kind: Kind) -> Result<()> {
    match kind {
        Kind::Active | Kind::View => Ok(()),
        Kind::Committed => Err(Error::invalid(
            format!("kind committed of new snapshot {key}"),
            "create it active or view",
        )),
    }
}

fn vacant(key: &Key, present: Option<Kind>) -> Result<()> {
    match present {
        None => Ok(()),
        Some(_) => Err(Error::AlreadyExists { key: key.clone() }),
    }
}

/// The info of a new snapshot.
pub(crate) fn created(
    key: Key,
    kind: Kind,
    parent: Option<Key>,
    labels: Labels,
    now: SystemTime,
) -> Info {
    Info {
        key,
        parent,
        kind,
        created: now,
        updated: now,
        labels,
    }
}

/// Commit of `key` as `name`: what stands under each.
#[derive(Debug)]
pub(crate) struct Commit<'a> {
    pub(crate) key: &'a Key,
    pub(crate) active: Option<&'a Info>,
    pub(crate) name: &'a Key,
    pub(crate) name_present: Option<Kind>,
    pub(crate) given: Option<Parent<'a>>,
}

/// Whether `commit` may be done, and the parent that it newly gives to the snapshot, if any.
pub(crate) fn commit<'a>(commit: &Commit<'a>) -> Result<Option<&'a Key>> {
    let key = commit.key;
    let active = commit
        .active
        .ok_or_else(|| Error::NotFound { key: key.clone() })?;
    vacant(commit.name, commit.name_present)?;
    if active.kind != Kind::Active {
        return Err(Error::NotActive {
            key: key.clone(),
            kind: active.kind,
        });
    }
    match (&active.parent, commit.given) {
        (_, None) => Ok(None),
        (Some(own), Some(given)) if own == given.key => Ok(None),
        (Some(own), Some(given)) => Err(Error::ParentDiffers {
            key: key.clone(),
            parent: own.clone(),
            given: given.key.clone(),
        }),
        (None, Some(given)) => match parent(key, given) {
            Err(Error::ParentNotCommitted { key, parent, kind }) => {
                Err(Error::RebaseOnUncommitted { key, parent, kind })
            }
            other => other.map(|()| Some(given.key)),
        },
    }
}

/// The info of the snapshot after its commit.
pub(crate) fn committed(
    active: Info,
    name: Key,
    rebased_on: Option<Key>,
    labels: Labels,
    now: SystemTime,
) -> Info {
    created(
        name,
        Kind::Committed,
        active.parent.or(rebased_on),
        labels,
        now,
    )
}

/// Remove of `key`, on which `child` is built.
pub(crate) fn remove(key: &Key, child: Option<Key>) -> Result<()> {
    match child {
        None => Ok(()),
        Some(child) => Err(Error::HasChildren {
            key: key.clone(),
            child,
        }),
    }
}

/// Mounts of `info`.
pub(crate) fn mountable(info: &Info) -> Result<()> {
    match info.kind {
        Kind::Active | Kind::View => Ok(()),
        Kind::Committed => Err(Error::NotMountable {
            key: info.key.clone(),
        }),
    }
}

/// The info after an update. The time of the update only goes forward, whatever the clock does.
pub(crate) fn updated(info: &Info, change: LabelChange, now: SystemTime) -> Result<Info> {
    let labels = change.apply(&info.labels)?;
    let updated = now.max(info.updated + Duration::from_nanos(1));
    Ok(Info {
        labels,
        updated,
        ..info.clone()
    })
}

#[cfg(test)]
mod tests;
