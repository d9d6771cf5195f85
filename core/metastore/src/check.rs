//! Checks a store's file beyond what redb does: that its tables say the same. And repairs it.
//!
//! The records are what counts. The index is made from them, so it is rebuilt. A record is dropped only when
//! it cannot be used: unreadable, without its parent, or in the directory of another.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use pontoon_snapshot::{Error, Result};
use redb::{ReadTransaction, ReadableTable, TableError};

use crate::database::Database;
use crate::failure::Fault;
use crate::schema::{INDEX, IndexKey, META, META_NEXT_ID, SNAPSHOTS};

use plan::{Edit, Plan};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// What is wrong, in the order of the tables; nothing if the file is sound.
    pub findings: Vec<Finding>,
    /// Snapshots that are fit for use, over all snapshotter names.
    pub snapshots: u64,
    /// Whether the repairs were made.
    pub repaired: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The record, the row of the index, or the whole file.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What repairing does, or, where it does nothing, what the operator can do.
    pub remedy: String,
    /// Whether repairing helps.
    pub repairable: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.problem, self.remedy)
    }
}

/// Checks the store in the file `path`, and repairs it if `repair`. No daemon may have it open.
///
/// Opening alone already completes or takes back what a crash left half-written. A file that cannot be opened
/// because it is damaged is a finding; another failure is an error.
pub fn check(path: &Path, repair: bool) -> Result<CheckReport> {
    check_database(path, repair).or_else(|fault| {
        let error = fault.error("checking the store", path);
        let Error::Corrupt { what, reason } = error else {
            return Err(error);
        };
        let finding = Finding {
            object: what,
            problem: reason,
            remedy: "not repairable: restore the file from a backup, or move the whole root away and let containerd pull its images again".to_owned(),
            repairable: false,
        };
        Ok(CheckReport {
            findings: vec![finding],
            snapshots: 0,
            repaired: false,
        })
    })
}

fn check_database(path: &Path, repair: bool) -> Result<CheckReport, Fault> {
    let database = Database::existing(path.to_owned());
    let Plan {
        findings,
        edits,
        snapshots,
    } = plan::plan(&Tables::read(&database.begin_read()?)?);
    let repaired = repair && !edits.is_empty();
    if repaired {
        apply(&database, &edits)?;
    }
    Ok(CheckReport {
        findings,
        snapshots,
        repaired,
    })
}

/// All rows of the file, as they are.
#[derive(Debug, Default)]
struct Tables {
    snapshots: BTreeMap<Vec<u8>, Vec<u8>>,
    index: BTreeMap<IndexKey, Vec<u8>>,
    next_id: u64,
}

impl Tables {
    fn read(transaction: &ReadTransaction) -> Result<Self, Fault> {
        let mut tables = Tables::default();
        if let Some(snapshots) = present(transaction.open_table(SNAPSHOTS))? {
            for row in snapshots.iter()? {
                let (key, value) = row?;
                let (key, value) = (key.value().to_vec(), value.value().to_vec());
                tables.snapshots.insert(key, value);
            }
        }
        if let Some(index) = present(transaction.open_table(INDEX))? {
            for row in index.iter()? {
                let (key, value) = row?;
                tables.index.insert(key.value(), value.value().to_vec());
            }
        }
        let next_id = transaction.open_table(META)?.get(META_NEXT_ID)?;
        tables.next_id = next_id.map_or(0, |row| row.value());
        Ok(tables)
    }
}

/// A table that is missing is one without rows.
fn present<T>(table: Result<T, TableError>) -> Result<Option<T>, TableError> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes all edits, or none.
fn apply(database: &Database, edits: &[Edit]) -> Result<(), Fault> {
    let transaction = database.begin_write(true)?;
    {
        let mut snapshots = transaction.open_table(SNAPSHOTS)?;
        let mut index = transaction.open_table(INDEX)?;
        let mut meta = transaction.open_table(META)?;
        for edit in edits {
            match edit {
                Edit::DropSnapshot(key) => drop(snapshots.remove(key.as_slice())?),
                Edit::PutSnapshot(key, row) => {
                    drop(snapshots.insert(key.as_slice(), row.as_slice())?);
                }
                Edit::DropIndex(key) => drop(index.remove(key)?),
                Edit::PutIndex(key, row) => drop(index.insert(key, row.as_slice())?),
                Edit::NextId(next_id) => drop(meta.insert(META_NEXT_ID, next_id)?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}
