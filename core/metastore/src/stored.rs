//! The bytes of a row. Protocol buffers, so that a field can be added without a new schema version: what an
//! older file lacks reads as absent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pontoon_snapshot::{Info, Key, Kind, Labels, Result, SnapshotterName, Usage};
use prost::Message;

use crate::failure::damaged_snapshot;
use crate::{Record, SnapshotId};

/// A row of the snapshots table.
#[derive(Clone, PartialEq, Message)]
struct StoredSnapshot {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(enumeration = "StoredKind", tag = "2")]
    kind: i32,
    /// Empty without a parent; no key is empty.
    #[prost(string, tag = "3")]
    parent: String,
    /// The parent's id; 0 without a parent.
    #[prost(uint64, tag = "4")]
    parent_id: u64,
    /// Nanoseconds since 1970, UTC.
    #[prost(fixed64, tag = "5")]
    created_ns: u64,
    #[prost(fixed64, tag = "6")]
    updated_ns: u64,
    #[prost(btree_map = "string, string", tag = "7")]
    labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    usage: Option<StoredUsage>,
    #[prost(bytes = "vec", optional, tag = "9")]
    layer: Option<Vec<u8>>,
}

/// The part of a [`StoredSnapshot`] that says where it stands. Labels, which are most of a row, are skipped.
#[derive(Clone, PartialEq, Message)]
struct StoredPlace {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(enumeration = "StoredKind", tag = "2")]
    kind: i32,
    #[prost(string, tag = "3")]
    parent: String,
    #[prost(bytes = "vec", optional, tag = "9")]
    layer: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredUsage {
    #[prost(uint64, tag = "1")]
    size_bytes: u64,
    #[prost(uint64, tag = "2")]
    inodes: u64,
}

/// A row of the removed table.
#[derive(Clone, PartialEq, Message)]
struct StoredRemoved {
    #[prost(bytes = "vec", optional, tag = "1")]
    layer: Option<Vec<u8>>,
}

/// 0 is what a row without a kind reads as, which no row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum StoredKind {
    Unknown = 0,
    View = 1,
    Active = 2,
    Committed = 3,
}

/// A record together with the id of its parent, which only the tables need.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) record: Record,
    pub(crate) parent_id: Option<SnapshotId>,
}

impl Row {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Record {
            id,
            info,
            usage,
            layer,
        } = &self.record;
        StoredSnapshot {
            id: id.get(),
            kind: match info.kind {
                Kind::View => StoredKind::View,
                Kind::Active => StoredKind::Active,
                Kind::Committed => StoredKind::Committed,
            }
            .into(),
            parent: info
                .parent
                .as_ref()
                .map_or_else(String::new, |parent| parent.as_str().to_owned()),
            parent_id: self.parent_id.map_or(0, SnapshotId::get),
            created_ns: nanoseconds(info.created),
            updated_ns: nanoseconds(info.updated),
            labels: info.labels.clone().into_map(),
            usage: usage.map(|usage| StoredUsage {
                size_bytes: usage.size_bytes,
                inodes: usage.inodes,
            }),
            layer: layer.clone(),
        }
        .encode_to_vec()
    }

    /// Reads the row of `key` under `name`.
    pub(crate) fn decode(name: &SnapshotterName, key: &Key, bytes: &[u8]) -> Result<Self> {
        let damaged = |reason: String| damaged_snapshot(name, key, reason);
        let stored = StoredSnapshot::decode(bytes).map_err(|error| damaged(error.to_string()))?;
        let kind = kind(stored.kind).map_err(damaged)?;
        if stored.id == 0 || (stored.parent_id == 0) != stored.parent.is_empty() {
            return Err(damaged(NO_ID.to_owned()));
        }
        let parent = parent(stored.parent).map_err(damaged)?;
        let labels = Labels::new(stored.labels).map_err(|error| damaged(error.to_string()))?;
        Ok(Row {
            record: Record {
                id: SnapshotId::new(stored.id),
                info: Info {
                    key: key.clone(),
                    parent,
                    kind,
                    created: time(stored.created_ns),
                    updated: time(stored.updated_ns),
                    labels,
                },
                usage: stored.usage.map(|usage| Usage {
                    size_bytes: usage.size_bytes,
                    inodes: usage.inodes,
                }),
                layer: stored.layer,
            },
            parent_id: (stored.parent_id != 0).then_some(SnapshotId::new(stored.parent_id)),
        })
    }
}

/// Where a snapshot stands: what a chain and the rules about parents and names need of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) id: SnapshotId,
    pub(crate) kind: Kind,
    pub(crate) parent: Option<Key>,
    pub(crate) layer: Option<Vec<u8>>,
}

impl Place {
    /// Reads the place of `key` under `name` from its row.
    pub(crate) fn decode(name: &SnapshotterName, key: &Key, bytes: &[u8]) -> Result<Self> {
        let damaged = |reason: String| damaged_snapshot(name, key, reason);
        let stored = StoredPlace::decode(bytes).map_err(|error| damaged(error.to_string()))?;
        if stored.id == 0 {
            return Err(damaged(NO_ID.to_owned()));
        }
        Ok(Place {
            id: SnapshotId::new(stored.id),
            kind: kind(stored.kind).map_err(damaged)?,
            parent: parent(stored.parent).map_err(damaged)?,
            layer: stored.layer,
        })
    }
}

const NO_ID: &str = "its id or its parent's id is missing";

fn kind(stored: i32) -> Result<Kind, String> {
    match StoredKind::try_from(stored) {
        Ok(StoredKind::View) => Ok(Kind::View),
        Ok(StoredKind::Active) => Ok(Kind::Active),
        Ok(StoredKind::Committed) => Ok(Kind::Committed),
        _ => Err(format!("its kind is {stored}")),
    }
}

fn parent(stored: String) -> Result<Option<Key>, String> {
    match stored {
        text if text.is_empty() => Ok(None),
        text => Key::new(text).map(Some).map_err(|error| error.to_string()),
    }
}

/// The row of a removed snapshot with this layer.
pub(crate) fn encode_removed(layer: Option<&[u8]>) -> Vec<u8> {
    StoredRemoved {
        layer: layer.map(<[u8]>::to_vec),
    }
    .encode_to_vec()
}

/// The layer of a removed snapshot's row.
pub(crate) fn decode_removed(bytes: &[u8]) -> Result<Option<Vec<u8>>, prost::DecodeError> {
    Ok(StoredRemoved::decode(bytes)?.layer)
}

/// The present, exactly as a row keeps it.
pub(crate) fn now() -> SystemTime {
    time(nanoseconds(SystemTime::now()))
}

/// Nanoseconds since 1970: 0 before that, and the year 2554 at most.
fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos()
        .try_into()
        .unwrap_or(u64::MAX)
}

fn time(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}
