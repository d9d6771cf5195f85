//! Asks the layer provider, and records what it brings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pontoon_metastore::{Link, NewLayer, Record};
use pontoon_snapshot::{
    Error, Key, KeyStyle, Kind, LABEL_SNAPSHOT_REF, Labels, Result, SnapshotterName,
};

use crate::engine::{Core, NewDirectory};
use crate::provider::{LayerRequest, Offer};
use crate::request;
use crate::root::Owner;

/// The extraction of a layer that containerd wants to begin.
#[derive(Debug)]
pub(crate) struct Extraction<'a> {
    pub(crate) name: &'a SnapshotterName,
    pub(crate) key: &'a Key,
    pub(crate) parent: Option<&'a Key>,
    pub(crate) labels: &'a Labels,
    pub(crate) chain: &'a [Link],
}

/// What the provider does about the layer: [`Error::LayerExists`] if it is here, else a directory for containerd
/// to extract into.
pub(crate) fn offer<'core>(
    core: &'core Core,
    extraction: &Extraction<'_>,
) -> Result<NewDirectory<'core>> {
    let target = request::extract_target(extraction.labels).unwrap_or_default();
    // Nothing has this name unless a provider brought it.
    let first = layer_name(extraction, target, 0)?;
    if let Some(name) = provided(core, extraction, target, first)? {
        told(extraction, target, true, "it is here already");
        return Err(layer_exists(name, target));
    }
    let directory = core.new_directory(Kind::Active, Owner::ROOT)?;
    let upper = PathBuf::from(core.root.upper(directory.id));
    let offer = core.provider.offer(&LayerRequest {
        name: extraction.name,
        key: extraction.key,
        target,
        labels: extraction.labels,
        chain: core.chain(extraction.chain),
        id: directory.id,
        directory: &upper,
    });
    match offer {
        Offer::Skip => Ok(directory),
        Offer::Decline(reason) => {
            told(extraction, target, false, &reason);
            core.declined.count(reason);
            untouched(core, directory, &upper)
        }
        Offer::Refuse {
            reason,
            detail,
            transient,
        } => {
            told(extraction, target, false, &reason);
            Err(refused(target, &reason, detail.as_deref(), transient))
        }
        Offer::Unpacked => {
            told(extraction, target, true, "it was unpacked here");
            Err(record(core, extraction, target, directory, None))
        }
        Offer::Lazy(bytes) => {
            told(extraction, target, true, "it is lazy");
            Err(record(core, extraction, target, directory, Some(bytes)))
        }
    }
}

/// Why Prepare fails for a layer that nobody can bring.
fn refused(target: &str, reason: &str, detail: Option<&str>, transient: bool) -> Error {
    let reason = match detail {
        Some(detail) => format!("{reason}: {detail}"),
        None => reason.to_owned(),
    };
    match transient {
        true => Error::Unavailable {
            operation: format!("bringing layer {target}"),
            reason: format!("{reason}; try again"),
        },
        false => Error::Refused {
            what: format!("layer {target}"),
            reason,
        },
    }
}

/// Logs whether containerd can leave the layer to us, under the name by which stargz-snapshotter's users look for it.
fn told(extraction: &Extraction<'_>, target: &str, prepared: bool, reason: &str) {
    let prepared = if prepared { "true" } else { "false" };
    tracing::info!(
        "remote-snapshot-prepared" = prepared,
        key = %extraction.key,
        parent = extraction.parent.map_or("", Key::as_str),
        target,
        reason,
        "a layer was asked for"
    );
}

/// `directory`, or a new one if the provider left something in it.
fn untouched<'core>(
    core: &'core Core,
    directory: NewDirectory<'core>,
    upper: &Path,
) -> Result<NewDirectory<'core>> {
    let is_empty = upper
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        return Ok(directory);
    }
    directory.give_up();
    core.new_directory(Kind::Active, Owner::ROOT)
}

/// Makes the layer's snapshot, committed. [`Error::LayerExists`] if that went well.
fn record(
    core: &Core,
    extraction: &Extraction<'_>,
    target: &str,
    mut directory: NewDirectory<'_>,
    layer: Option<Vec<u8>>,
) -> Error {
    let id = directory.id;
    directory.layer.clone_from(&layer);
    let recorded = try_record(core, extraction, target, directory, layer.clone());
    let (name, is_ours) = match recorded {
        Ok(recorded) => recorded,
        // There may be a record of it; the reaper finds out.
        Err(error @ Error::Uncertain { .. }) => return error,
        Err(error) => {
            release(core, id, layer.as_deref());
            return error;
        }
    };
    if !is_ours {
        release(core, id, layer.as_deref());
    } else if layer.is_none() {
        core.measurer.committed(id);
    }
    layer_exists(name, target)
}

/// The name under which the layer is recorded, and whether by this call.
fn try_record(
    core: &Core,
    extraction: &Extraction<'_>,
    target: &str,
    directory: NewDirectory<'_>,
    layer: Option<Vec<u8>>,
) -> Result<(Key, bool)> {
    let usage = layer.as_deref().and_then(|bytes| {
        let told = core.provider.usage(bytes);
        told.inspect_err(|error| {
            tracing::warn!(%target, error = error as &dyn std::error::Error, "what a layer takes is not known yet; asking when Usage is called");
        })
        .ok()
    });
    for attempt in 0..NAMES_MAX {
        let name = layer_name(extraction, target, attempt)?;
        let new = NewLayer {
            id: directory.id,
            name: name.clone(),
            parent: extraction.parent.cloned(),
            labels: extraction.labels.clone(),
            usage,
            layer: layer.clone(),
        };
        match core.store.create_committed(extraction.name, new) {
            Ok(Record { .. }) => {
                return directory.recorded(Ok((name, true)));
            }
            Err(Error::AlreadyExists { .. }) => {
                // A request at the same moment may have brought the same layer; else the name is a stranger's.
                if let Some(name) = provided(core, extraction, target, name)? {
                    return Ok((name, false));
                }
            }
            Err(error) => return directory.recorded(Err(error)),
        }
    }
    Err(Error::Refused {
        what: format!("layer {target}"),
        reason: format!("{NAMES_MAX} names for it are taken; remove unused snapshots"),
    })
}

/// How many names are tried for one layer.
const NAMES_MAX: u32 = 8;

/// `name`, if that is a committed snapshot of this layer on this parent.
fn provided(
    core: &Core,
    extraction: &Extraction<'_>,
    target: &str,
    name: Key,
) -> Result<Option<Key>> {
    match core.store.get(extraction.name, &name) {
        Ok(Record { info, .. }) => {
            let same = info.kind == Kind::Committed
                && info.labels.get(LABEL_SNAPSHOT_REF) == Some(target)
                && info.parent.as_ref() == extraction.parent;
            Ok(same.then_some(name))
        }
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A name for the layer, of the same style as the caller's keys.
///
/// A direct client looks for its layer under the chain ID itself. containerd finds it by its label, and never
/// numbers a key 0, so such names are ours. The parent is part of the name, because the same layer may be there on
/// another snapshot of the same chain.
fn layer_name(extraction: &Extraction<'_>, target: &str, attempt: u32) -> Result<Key> {
    let parent = match extraction.chain.first() {
        Some(parent) => format!("on-{}", parent.id),
        None => "base".to_owned(),
    };
    let text = match (extraction.key.style(), extraction.key.namespace(), attempt) {
        (KeyStyle::Namespaced, Some(namespace), 0) => format!("{namespace}/0/{target}-{parent}"),
        (KeyStyle::Namespaced, Some(namespace), _) => {
            format!("{namespace}/0/{target}-{parent}-{attempt}")
        }
        (_, _, 0) => target.to_owned(),
        _ => format!("{target}-{parent}-{attempt}"),
    };
    Key::new(text)
}

fn layer_exists(name: Key, target: &str) -> Error {
    Error::LayerExists {
        name,
        target: target.to_owned(),
    }
}

/// Gives up a layer that was not recorded.
fn release(core: &Core, id: pontoon_metastore::SnapshotId, layer: Option<&[u8]>) {
    if let Some(bytes) = layer
        && let Err(error) = core.provider.release(id, bytes)
    {
        tracing::warn!(%id, error = &error as &dyn std::error::Error, "a layer that is not used was not released");
    }
}

/// Counts the reasons for which layers were declined.
#[derive(Debug, Default)]
pub(crate) struct Declined {
    counts: Mutex<BTreeMap<String, u64>>,
}

/// The most reasons that are told apart.
const REASONS_MAX: usize = 64;

impl Declined {
    fn count(&self, reason: String) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.len() < REASONS_MAX || counts.contains_key(&reason);
        let reason = if known { reason } else { "other".to_owned() };
        *counts.entry(reason).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}
