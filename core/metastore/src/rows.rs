//! Reading the tables, in any transaction.

use std::ops::ControlFlow;

use pontoon_snapshot::{Error, Key, KeyStyle, Result as DomainResult, SnapshotterName};
use redb::ReadableTable;

use crate::failure::{Fault, damaged_snapshot};
use crate::rules::{self, Parent};
use crate::schema::{
    INDEX_BATCH, INDEX_CHILD, INDEX_ID, INDEX_REMOVED, IndexKey, end_row_key, first_row_key,
    row_key, split_row_key,
};
use crate::stored::{Place, Row, decode_removed};
use crate::{Link, Record, Removed, SnapshotId};

type Result<T> = std::result::Result<T, Fault>;

/// The snapshots table of any transaction.
#[derive(Debug)]
pub(crate) struct Snapshots<T>(pub(crate) T);

impl<T: ReadableTable<&'static [u8], &'static [u8]>> Snapshots<T> {
    /// The row of `key`.
    pub(crate) fn row(&self, name: &SnapshotterName, key: &Key) -> Result<Option<Row>> {
        match self.0.get(row_key(name, key).as_slice())? {
            Some(bytes) => Ok(Some(Row::decode(name, key, bytes.value())?)),
            None => Ok(None),
        }
    }

    /// Where `key` stands.
    pub(crate) fn place(&self, name: &SnapshotterName, key: &Key) -> Result<Option<Place>> {
        match self.0.get(row_key(name, key).as_slice())? {
            Some(bytes) => Ok(Some(Place::decode(name, key, bytes.value())?)),
            None => Ok(None),
        }
    }

    /// The row of `key`, which must be there.
    pub(crate) fn present(&self, name: &SnapshotterName, key: &Key) -> Result<Row> {
        let row = self.row(name, key)?;
        Ok(row.ok_or_else(|| Error::NotFound { key: key.clone() })?)
    }

    /// The ancestors of a snapshot with this parent, nearest first.
    pub(crate) fn chain(&self, name: &SnapshotterName, parent: Option<&Key>) -> Result<Vec<Link>> {
        let mut chain = Vec::new();
        let mut next = parent.cloned();
        while let Some(key) = next {
            let damaged = |reason: &str| damaged_snapshot(name, &key, reason.to_owned());
            let Some(place) = self.place(name, &key)? else {
                return Err(damaged("it is missing, but a snapshot is built on it").into());
            };
            // Only a damaged file has a chain that does not end.
            if chain.len() as u64 > self.0.len()? {
                return Err(damaged("it is among its own ancestors").into());
            }
            chain.push(Link {
                id: place.id,
                name: key,
                layer: place.layer,
            });
            next = place.parent;
        }
        Ok(chain)
    }

    /// The ancestors of snapshot `key` that is to be made on `parent`.
    pub(crate) fn chain_for(
        &self,
        name: &SnapshotterName,
        key: &Key,
        parent: &Key,
    ) -> Result<Vec<Link>> {
        let kind = self.place(name, parent)?.map(|place| place.kind);
        rules::parent(key, Parent { key: parent, kind })?;
        self.chain(name, Some(parent))
    }

    /// Visits the records of `name` in the order of their keys.
    pub(crate) fn walk(
        &self,
        name: &SnapshotterName,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<()> {
        let (first, end) = (first_row_key(name), end_row_key(name));
        for entry in self.0.range(first.as_slice()..end.as_slice())? {
            let (key, value) = entry?;
            let (_, key) = split(key.value())?;
            if visit(Row::decode(name, &key, value.value())?.record).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// How many snapshots each name has.
    pub(crate) fn names(&self) -> Result<Vec<(SnapshotterName, u64)>> {
        let mut names: Vec<(SnapshotterName, u64)> = Vec::new();
        for entry in self.0.iter()? {
            let (name, _) = split(entry?.0.value())?;
            match names.last_mut() {
                Some((last, count)) if *last == name => *count += 1,
                _ => names.push((name, 1)),
            }
        }
        Ok(names)
    }

    /// The style of the keys under `name`, which is that of any of them.
    pub(crate) fn style(&self, name: &SnapshotterName) -> Result<Option<KeyStyle>> {
        let (first, end) = (first_row_key(name), end_row_key(name));
        match self.0.range(first.as_slice()..end.as_slice())?.next() {
            Some(entry) => Ok(Some(split(entry?.0.value())?.1.style())),
            None => Ok(None),
        }
    }
}

/// The index table of any transaction.
#[derive(Debug)]
pub(crate) struct Index<T>(pub(crate) T);

impl<T: ReadableTable<IndexKey, &'static [u8]>> Index<T> {
    /// Whether `id` is a snapshot's or a removed one's.
    pub(crate) fn contains(&self, id: SnapshotId) -> Result<bool> {
        let id = id.get();
        Ok(self.0.get((INDEX_ID, id, 0))?.is_some()
            || self.0.get((INDEX_REMOVED, id, 0))?.is_some())
    }

    /// The removed snapshots.
    pub(crate) fn removed(&self) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        for entry in self
            .0
            .range((INDEX_REMOVED, 0, 0)..(INDEX_REMOVED + 1, 0, 0))?
        {
            let (key, value) = entry?;
            let id = SnapshotId::new(key.value().1);
            let layer = decode_removed(value.value()).map_err(|error| Error::Corrupt {
                what: format!("record of removed snapshot {id}"),
                reason: error.to_string(),
            })?;
            removed.push(Removed { id, layer });
        }
        Ok(removed)
    }

    /// How many transactions there were.
    pub(crate) fn batch(&self) -> Result<u64> {
        let row = self.0.get((INDEX_BATCH, 0, 0))?;
        let number = row.and_then(|row| row.value().try_into().ok());
        Ok(number.map_or(0, u64::from_le_bytes))
    }

    /// The name and the key of the snapshot with this id.
    pub(crate) fn key_of(&self, id: SnapshotId) -> Result<Option<(SnapshotterName, Key)>> {
        match self.0.get((INDEX_ID, id.get(), 0))? {
            Some(row_key) => Ok(Some(split(row_key.value())?)),
            None => Ok(None),
        }
    }

    /// The key of one of the snapshots that are built on `id`.
    pub(crate) fn child(&self, id: SnapshotId) -> Result<Option<Key>> {
        let children = (INDEX_CHILD, id.get(), 0)..=(INDEX_CHILD, id.get(), u64::MAX);
        let Some(entry) = self.0.range(children)?.next() else {
            return Ok(None);
        };
        let child = SnapshotId::new(entry?.0.value().2);
        let (_, key) = self.key_of(child)?.ok_or_else(|| Error::Corrupt {
            what: "index of ids".to_owned(),
            reason: format!("child {child} of snapshot {id} is not in it"),
        })?;
        Ok(Some(key))
    }
}

fn split(row_key: &[u8]) -> DomainResult<(SnapshotterName, Key)> {
    split_row_key(row_key).ok_or_else(|| Error::Corrupt {
        what: format!("key of record {}", row_key.escape_ascii()),
        reason: "it is no snapshotter name and key".to_owned(),
    })
}
