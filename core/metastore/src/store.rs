//! The store: callers' operations, grouped into transactions.

mod batch;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use pontoon_snapshot::{Error, Key, LabelChange, Result, SnapshotterName, Usage};
use redb::{ReadOnlyTable, ReadTransaction, StorageBackend};

use crate::database::Database;
use crate::failure::{Fault, SharedFault};
use crate::group::{Group, Seat};
use crate::rows::{Index, Snapshots};
use crate::rules;
use crate::schema::{INDEX, META, META_NEXT_ID, SNAPSHOTS};
use crate::tables::Tables;
use crate::{CommitSnapshot, Created, Link, NewLayer, NewSnapshot, Record, Removed, SnapshotId};

use batch::{Answer, FailedBatch, Pending, Write};

/// More ids than a store gives in a thousand years; a directory whose name is above it is a stranger's.
const ID_LIMIT: u64 = 1 << 56;

/// The records of all snapshots of a daemon, in one file.
///
/// Shared by many threads. What changes something is durable when it returns `Ok`. When it returns an error it
/// has changed nothing, but for [`Error::Uncertain`]: then the file cannot be read any more to find out. Reading
/// never waits for writing.
///
/// After a failure of the disk the store works again as soon as the disk does.
pub struct Store {
    path: PathBuf,
    database: Database,
    group: Group<Write>,
    next_id: AtomicU64,
    /// Not above the row `next_id`: ids below it are spent whatever happens.
    reserved_ids: AtomicU64,
    transactions: AtomicU64,
    operations: AtomicU64,
}

/// What a store has written since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Transactions, one fsync each.
    pub transactions: u64,
    /// Operations in them: several in one when several callers came together.
    pub operations: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in the file `path`, which is created if it is not there.
    ///
    /// The whole file is verified. [`Error::Corrupt`] if it is damaged or no database; [`Error::Refused`] if a
    /// newer Pontoon wrote it or another process has it open.
    pub fn open(path: &Path) -> Result<Self> {
        let database = Database::at(path.to_owned())
            .map_err(|fault| fault.error("opening the store", path))?;
        Store::with_database(path, database)
    }

    /// A store in whatever `backend` answers, which is called again after the backend failed. For tests that make
    /// it fail.
    pub fn with_backend<B: StorageBackend>(
        backend: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    ) -> Result<Self> {
        Store::with_database(Path::new("backend"), Database::with_backend(backend))
    }

    fn with_database(path: &Path, database: Database) -> Result<Self> {
        let store = Store {
            path: path.to_owned(),
            database,
            group: Group::new(),
            next_id: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            reserved_ids: AtomicU64::new(0),
        };
        let next_id = store
            .stored_next_id()
            .map_err(|fault| fault.error("opening the store", &store.path))?;
        store.next_id.store(next_id, Ordering::Relaxed);
        store.reserved_ids.store(next_id, Ordering::Relaxed);
        Ok(store)
    }

    /// An id that no snapshot has or ever had.
    pub fn allocate_id(&self) -> SnapshotId {
        SnapshotId::new(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Never answers an id up to `used` again, for instance of a directory that has no record. Numbers that no
    /// store ever reaches are ignored.
    pub fn skip_ids_to(&self, used: SnapshotId) {
        if used.get() < ID_LIMIT {
            self.next_id.fetch_max(used.get() + 1, Ordering::Relaxed);
        }
    }

    /// Creates an active or view snapshot.
    pub fn create(&self, name: &SnapshotterName, new: NewSnapshot) -> Result<Created> {
        let name = name.clone();
        self.write("creating a snapshot", move |tables| {
            tables.create(&name, new.clone())
        })
    }

    /// Creates a snapshot that is committed from its beginning.
    pub fn create_committed(&self, name: &SnapshotterName, new: NewLayer) -> Result<Record> {
        let name = name.clone();
        self.write("creating a layer", move |tables| {
            tables.create_committed(&name, new.clone())
        })
    }

    /// Turns an active snapshot into a committed one with the same id.
    pub fn commit(&self, name: &SnapshotterName, commit: CommitSnapshot) -> Result<Record> {
        let name = name.clone();
        self.write("committing a snapshot", move |tables| {
            tables.commit(&name, commit.clone())
        })
    }

    /// Removes a snapshot that has no children and answers what it was. Its id is among [`Store::removed`] from
    /// then on.
    pub fn remove(&self, name: &SnapshotterName, key: &Key) -> Result<Record> {
        let (name, key) = (name.clone(), key.clone());
        self.free("removing a snapshot", move |tables| {
            tables.remove(&name, &key)
        })
    }

    /// Changes the labels of a snapshot and answers its new record.
    pub fn update(&self, name: &SnapshotterName, key: &Key, change: LabelChange) -> Result<Record> {
        let (name, key) = (name.clone(), key.clone());
        self.write("updating a snapshot", move |tables| {
            tables.update(&name, &key, change.clone())
        })
    }

    /// One snapshot.
    pub fn get(&self, name: &SnapshotterName, key: &Key) -> Result<Record> {
        self.read("reading a snapshot", |transaction| {
            Ok(snapshots(transaction)?.present(name, key)?.record)
        })
    }

    /// An active or view snapshot and its ancestors, nearest first; [`Error::NotMountable`] for a committed one.
    pub fn mountable(&self, name: &SnapshotterName, key: &Key) -> Result<(Record, Vec<Link>)> {
        self.read("reading a snapshot", |transaction| {
            let snapshots = snapshots(transaction)?;
            let record = snapshots.present(name, key)?.record;
            rules::mountable(&record.info)?;
            let chain = snapshots.chain(name, record.info.parent.as_ref())?;
            Ok((record, chain))
        })
    }

    /// The ancestors, nearest first, of a snapshot `key` that is to be made on `parent`.
    pub fn chain(&self, name: &SnapshotterName, key: &Key, parent: &Key) -> Result<Vec<Link>> {
        self.read("reading a snapshot", |transaction| {
            snapshots(transaction)?.chain_for(name, key, parent)
        })
    }

    /// Visits every snapshot of `name` in the order of keys, as of one moment, until `visit` breaks.
    ///
    /// The file grows while a visitor dawdles: what others free is not used again before the visit ends.
    pub fn walk(
        &self,
        name: &SnapshotterName,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<()> {
        let visited = Cell::new(false);
        let mut walk = || {
            let transaction = self.database.begin_read()?;
            snapshots(&transaction)?.walk(name, &mut |record| {
                visited.set(true);
                visit(record)
            })
        };
        let walked = match walk() {
            Err(Fault::Database(error)) => {
                self.reopen_if_failed();
                // What was visited cannot be taken back.
                match visited.get() {
                    true => Err(Fault::Database(error)),
                    false => walk(),
                }
            }
            walked => walked,
        };
        walked.map_err(|fault| fault.error("listing snapshots", &self.path))
    }

    /// What was removed and not yet forgotten.
    pub fn removed(&self) -> Result<Vec<Removed>> {
        self.read("listing removed snapshots", |transaction| {
            Index(transaction.open_table(INDEX)?).removed()
        })
    }

    /// Forgets removed snapshots, once their directories are gone.
    pub fn forget_removed(&self, ids: &[SnapshotId]) -> Result<()> {
        let ids = ids.to_vec();
        self.free("forgetting removed snapshots", move |tables| {
            tables.forget_removed(&ids)
        })
    }

    /// Whether `id` is a snapshot's, or a removed one's that is not yet forgotten.
    pub fn contains(&self, id: SnapshotId) -> Result<bool> {
        self.read("looking up an id", |transaction| {
            Index(transaction.open_table(INDEX)?).contains(id)
        })
    }

    /// Records what snapshots take on disk; ids that are gone are skipped.
    pub fn put_usages(&self, usages: &[(SnapshotId, Usage)]) -> Result<()> {
        let usages = usages.to_vec();
        self.write("recording usage", move |tables| tables.put_usages(&usages))
    }

    /// What was written since the store was opened.
    pub fn written(&self) -> Written {
        Written {
            transactions: self.transactions.load(Ordering::Relaxed),
            operations: self.operations.load(Ordering::Relaxed),
        }
    }

    /// Every snapshotter name that has snapshots, and how many. Takes time in proportion to all snapshots.
    pub fn names(&self) -> Result<Vec<(SnapshotterName, u64)>> {
        self.read("counting snapshots", |transaction| {
            snapshots(transaction)?.names()
        })
    }

    fn stored_next_id(&self) -> Result<u64, Fault> {
        let meta = self.database.begin_read()?.open_table(META)?;
        Ok(meta.get(META_NEXT_ID)?.map_or(1, |row| row.value()))
    }

    /// Reads in one transaction; again, if the database had to be reopened meanwhile.
    fn read<T>(
        &self,
        operation: &'static str,
        read: impl Fn(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T> {
        let once = || {
            self.database
                .begin_read()
                .and_then(|transaction| read(&transaction))
        };
        let outcome = match once() {
            Err(Fault::Database(_)) => {
                self.reopen_if_failed();
                once()
            }
            outcome => outcome,
        };
        outcome.map_err(|fault| fault.error(operation, &self.path))
    }

    /// Only a batch closes a database that failed, so that nobody closes it under another one's batch. This
    /// batch has nothing to do, and so fails only where the database has failed.
    fn reopen_if_failed(&self) {
        // The reader tries again and finds out for itself.
        let _ = self.write("reopening", |_| Ok(()));
    }

    /// Runs `operation` in the next batch and answers once that is durable.
    fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        run: impl Fn(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.submit(operation, false, run)
    }

    /// The same for an operation that must go on when the disk is full.
    fn free<T: Send + 'static>(
        &self,
        operation: &'static str,
        run: impl Fn(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.submit(operation, true, run)
    }

    fn submit<T: Send + 'static>(
        &self,
        operation: &'static str,
        frees: bool,
        run: impl Fn(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let seat = Arc::new(Seat::default());
        let answer: Answer<T> = Arc::default();
        let write = Write {
            operation,
            frees,
            seat: seat.clone(),
            work: Box::new(Pending::new(run, answer.clone())),
        };
        self.group.submit(write, &seat, |batch| self.run(batch));
        let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.unwrap_or_else(|| {
            Err(Error::Failed {
                operation: operation.to_owned(),
                source: "its transaction was abandoned".into(),
            })
        })
    }

    /// One batch: one transaction, one fsync. On a full disk what frees space is tried again without what takes
    /// it, which would not let it go through.
    fn run(&self, mut batch: Vec<Write>) {
        let failure = match self.transact(&mut batch) {
            Ok(()) => None,
            Err(failed) => self.recover(failed),
        };
        let full = failure.as_ref().is_some_and(SharedFault::is_full);
        let mut freeing = Vec::new();
        if full && !batch.iter().all(|write| write.frees) {
            (freeing, batch) = batch.into_iter().partition(|write| write.frees);
        }
        for write in &mut batch {
            let error = failure
                .as_ref()
                .map(|failure| failure.error(write.operation, &self.path));
            write.work.answer(error);
        }
        // Their callers need not wait for the others.
        drop(batch);
        if !freeing.is_empty() {
            self.run(freeing);
        }
    }

    fn transact(&self, batch: &mut [Write]) -> Result<(), FailedBatch> {
        let frees = batch.iter().all(|write| write.frees);
        let operations = batch.len();
        let transaction = self.database.begin_write(frees)?;
        let mut tables = Tables::open(&transaction, self.reserved_ids.load(Ordering::Relaxed))?;
        for write in batch {
            write.work.run(&mut tables)?;
        }
        if !tables.changed() {
            drop(tables);
            return Ok(transaction.abort().map_err(Fault::from)?);
        }
        let number = tables.count_batch()?;
        let reserved = tables.next_id();
        drop(tables);
        transaction.commit().map_err(|error| FailedBatch {
            number: Some(number),
            fault: error.into(),
        })?;
        self.reserved_ids.store(reserved, Ordering::Relaxed);
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.operations
            .fetch_add(operations as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Closes the failed database: what it has in memory is not to be trusted, the file is. A commit that failed
    /// may be in the file nevertheless; then it has not failed.
    fn recover(&self, failed: FailedBatch) -> Option<SharedFault> {
        self.database.close();
        let fault = SharedFault::from(failed.fault);
        let Some(number) = failed.number else {
            return Some(fault);
        };
        let stored = || Index(self.database.begin_read()?.open_table(INDEX)?).batch();
        match stored() {
            Ok(stored) if stored == number => None,
            Ok(_) => Some(fault),
            Err(_) => Some(fault.uncertain()),
        }
    }
}

type SnapshotsTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

fn snapshots(transaction: &ReadTransaction) -> Result<Snapshots<SnapshotsTable>, Fault> {
    Ok(Snapshots(transaction.open_table(SNAPSHOTS)?))
}
