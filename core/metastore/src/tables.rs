//! The operations that change the tables, in the transaction that a batch shares.

use pontoon_snapshot::{Error, Key, Kind, LabelChange, SnapshotterName, Usage};
use redb::{ReadableTable, Table, WriteTransaction};

use crate::failure::{Fault, damaged_snapshot};
use crate::rows::{Index, Snapshots};
use crate::rules::{self, Parent};
use crate::schema::{
    INDEX, INDEX_BATCH, INDEX_CHILD, INDEX_ID, INDEX_REMOVED, IndexKey, META, META_NEXT_ID,
    SNAPSHOTS, row_key,
};
use crate::stored::{Row, encode_removed, now};
use crate::{CommitSnapshot, Created, NewLayer, NewSnapshot, Record, SnapshotId};

/// How far the row `next_id` runs ahead of the ids in use, so that few transactions write it. A restart skips
/// what is left of a block.
const ID_BLOCK: u64 = 4096;

type Result<T> = std::result::Result<T, Fault>;

/// All tables in a write transaction. Each operation reads and checks before it writes: an operation that is
/// refused has changed nothing, so the others in the same transaction can go on.
pub(crate) struct Tables<'t> {
    snapshots: Snapshots<Table<'t, &'static [u8], &'static [u8]>>,
    index: Index<Table<'t, IndexKey, &'static [u8]>>,
    transaction: &'t WriteTransaction,
    /// Above every id in the tables.
    next_id: u64,
    changed: bool,
}

impl<'t> Tables<'t> {
    /// The tables in `transaction`; `next_id` is not above the row of that name.
    pub(crate) fn open(transaction: &'t WriteTransaction, next_id: u64) -> Result<Self> {
        Ok(Tables {
            snapshots: Snapshots(transaction.open_table(SNAPSHOTS)?),
            index: Index(transaction.open_table(INDEX)?),
            transaction,
            next_id,
            changed: false,
        })
    }

    /// Counts this transaction, so that it can be recognised when its commit fails half-way. Answers its number.
    pub(crate) fn count_batch(&mut self) -> Result<u64> {
        let batch = self.index.batch()?.wrapping_add(1);
        let row = batch.to_le_bytes();
        self.index.0.insert((INDEX_BATCH, 0, 0), row.as_slice())?;
        Ok(batch)
    }

    /// The row `next_id`, once the transaction is committed.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Whether there is anything to commit.
    pub(crate) fn changed(&self) -> bool {
        self.changed
    }

    pub(crate) fn create(&mut self, name: &SnapshotterName, new: NewSnapshot) -> Result<Created> {
        rules::creatable(&new.key, new.kind)?;
        let row = self.new_row(name, new)?;
        let chain = self
            .snapshots
            .chain(name, row.record.info.parent.as_ref())?;
        self.insert(name, &row)?;
        Ok(Created {
            record: row.record,
            chain,
        })
    }

    pub(crate) fn create_committed(
        &mut self,
        name: &SnapshotterName,
        new: NewLayer,
    ) -> Result<Record> {
        let mut row = self.new_row(
            name,
            NewSnapshot {
                id: new.id,
                key: new.name,
                kind: Kind::Committed,
                parent: new.parent,
                labels: new.labels,
            },
        )?;
        row.record.usage = new.usage;
        row.record.layer = new.layer;
        self.insert(name, &row)?;
        Ok(row.record)
    }

    /// The row of a new snapshot, once all rules are kept.
    fn new_row(&self, name: &SnapshotterName, new: NewSnapshot) -> Result<Row> {
        rules::style(name, &new.key, self.snapshots.style(name)?)?;
        let parent = self.parent(name, new.parent.as_ref())?;
        let present = self.kind(name, &new.key)?;
        rules::create(&new.key, present, parent.map(|(parent, _)| parent))?;
        if self.index.contains(new.id)? {
            return Err(damaged_snapshot(
                name,
                &new.key,
                format!("its new id {} is in use", new.id),
            )
            .into());
        }
        let parent_id = parent.and_then(|(_, id)| id);
        let info = rules::created(new.key, new.kind, new.parent, new.labels, now());
        Ok(Row {
            record: Record {
                id: new.id,
                info,
                usage: None,
                layer: None,
            },
            parent_id,
        })
    }

    pub(crate) fn commit(
        &mut self,
        name: &SnapshotterName,
        commit: CommitSnapshot,
    ) -> Result<Record> {
        rules::style(name, &commit.name, self.snapshots.style(name)?)?;
        let active = self.snapshots.row(name, &commit.key)?;
        let given = self.parent(name, commit.parent.as_ref())?;
        let rebased_on = rules::commit(&rules::Commit {
            key: &commit.key,
            active: active.as_ref().map(|row| &row.record.info),
            name: &commit.name,
            name_present: self.kind(name, &commit.name)?,
            given: given.map(|(parent, _)| parent),
        })?
        .cloned();
        let Some(Row { record, parent_id }) = active else {
            return Err(Error::NotFound { key: commit.key }.into());
        };
        let rebased_on_id = match rebased_on {
            Some(_) => given.and_then(|(_, id)| id),
            None => None,
        };
        let row = Row {
            record: Record {
                info: rules::committed(record.info, commit.name, rebased_on, commit.labels, now()),
                usage: commit.usage,
                ..record
            },
            parent_id: parent_id.or(rebased_on_id),
        };
        self.changed = true;
        self.snapshots
            .0
            .remove(row_key(name, &commit.key).as_slice())?;
        self.insert(name, &row)?;
        Ok(row.record)
    }

    pub(crate) fn remove(&mut self, name: &SnapshotterName, key: &Key) -> Result<Record> {
        let Row { record, parent_id } = self.snapshots.present(name, key)?;
        rules::remove(key, self.index.child(record.id)?)?;
        self.changed = true;
        let id = record.id.get();
        self.snapshots.0.remove(row_key(name, key).as_slice())?;
        let index = &mut self.index.0;
        index.remove((INDEX_ID, id, 0))?;
        if let Some(parent_id) = parent_id {
            index.remove((INDEX_CHILD, parent_id.get(), id))?;
        }
        let removed = encode_removed(record.layer.as_deref());
        index.insert((INDEX_REMOVED, id, 0), removed.as_slice())?;
        Ok(record)
    }

    pub(crate) fn update(
        &mut self,
        name: &SnapshotterName,
        key: &Key,
        change: LabelChange,
    ) -> Result<Record> {
        let mut row = self.snapshots.present(name, key)?;
        row.record.info = rules::updated(&row.record.info, change, now())?;
        self.put(name, &row)?;
        Ok(row.record)
    }

    pub(crate) fn put_usages(&mut self, usages: &[(SnapshotId, Usage)]) -> Result<()> {
        for (id, usage) in usages {
            let Some((name, key)) = self.index.key_of(*id)? else {
                continue;
            };
            let mut row = self.snapshots.present(&name, &key)?;
            row.record.usage = Some(*usage);
            self.put(&name, &row)?;
        }
        Ok(())
    }

    pub(crate) fn forget_removed(&mut self, ids: &[SnapshotId]) -> Result<()> {
        for id in ids {
            let key = (INDEX_REMOVED, id.get(), 0);
            self.changed |= self.index.0.remove(key)?.is_some();
        }
        Ok(())
    }

    fn kind(&self, name: &SnapshotterName, key: &Key) -> Result<Option<Kind>> {
        Ok(self.snapshots.place(name, key)?.map(|place| place.kind))
    }

    /// What stands under the key of a parent that a request names, and its id.
    fn parent<'a>(
        &self,
        name: &SnapshotterName,
        parent: Option<&'a Key>,
    ) -> Result<Option<(Parent<'a>, Option<SnapshotId>)>> {
        let Some(key) = parent else {
            return Ok(None);
        };
        let place = self.snapshots.place(name, key)?;
        let kind = place.as_ref().map(|place| place.kind);
        Ok(Some((Parent { key, kind }, place.map(|place| place.id))))
    }

    /// Writes a row and everything that leads to it.
    fn insert(&mut self, name: &SnapshotterName, row: &Row) -> Result<()> {
        self.put(name, row)?;
        let id = row.record.id.get();
        let row_key = row_key(name, &row.record.info.key);
        let index = &mut self.index.0;
        index.insert((INDEX_ID, id, 0), row_key.as_slice())?;
        if let Some(parent_id) = row.parent_id {
            index.insert((INDEX_CHILD, parent_id.get(), id), [].as_slice())?;
        }
        self.reserve_ids(id)
    }

    /// Keeps the row `next_id` above `used`.
    fn reserve_ids(&mut self, used: u64) -> Result<()> {
        if used < self.next_id {
            return Ok(());
        }
        let mut meta = self.transaction.open_table(META)?;
        let stored = meta.get(META_NEXT_ID)?.map_or(0, |row| row.value());
        self.next_id = stored.max(used.saturating_add(ID_BLOCK));
        meta.insert(META_NEXT_ID, self.next_id)?;
        Ok(())
    }

    /// Writes a row whose key and id the indexes know.
    fn put(&mut self, name: &SnapshotterName, row: &Row) -> Result<()> {
        self.changed = true;
        let row_key = row_key(name, &row.record.info.key);
        self.snapshots
            .0
            .insert(row_key.as_slice(), row.encode().as_slice())?;
        Ok(())
    }
}
