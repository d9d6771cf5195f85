//! The tables of the file, and the version of their layout.
//!
//! A table's name carries the version of its rows. The row `schema` of the table `meta`, whose layout never
//! changes, is the version of the whole; a daemon refuses a file with a version that it does not know.

use pontoon_snapshot::{Error, Key, SnapshotterName};
use redb::{Database, ReadableDatabase, TableDefinition};

use crate::failure::Fault;

/// The version that this code writes.
pub(crate) const SCHEMA_VERSION: u64 = 1;

/// Numbers about the file.
pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The row of `meta` with the version of the tables.
pub(crate) const META_SCHEMA: &str = "schema";

/// The row of `meta` with a number above every id that was ever used.
pub(crate) const META_NEXT_ID: &str = "next_id";

/// [`row_key`] to a [`crate::stored::Row`].
pub(crate) const SNAPSHOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("snapshots.1");

/// What leads to the rows of `snapshots`, and what is left of them. One table for all of it, because each table
/// that a transaction changes costs it pages to write.
///
/// - `(INDEX_ID, id, 0)`: the [`row_key`] of the snapshot with this id.
/// - `(INDEX_CHILD, parent's id, id)`: nothing.
/// - `(INDEX_REMOVED, id, 0)`: a removed snapshot whose directory may still be there, encoded as
///   [`crate::stored`] says.
/// - `(INDEX_BATCH, 0, 0)`: how many transactions there were, 8 bytes, little-endian.
pub(crate) const INDEX: TableDefinition<IndexKey, &[u8]> = TableDefinition::new("index.1");

/// What the row is about, and one or two ids.
pub(crate) type IndexKey = (u8, u64, u64);

pub(crate) const INDEX_ID: u8 = 1;
pub(crate) const INDEX_CHILD: u8 = 2;
pub(crate) const INDEX_REMOVED: u8 = 3;
pub(crate) const INDEX_BATCH: u8 = 4;

/// Checks the version of the file, and makes the tables of a new one.
pub(crate) fn prepare(database: &Database) -> Result<(), Fault> {
    let transaction = database.begin_read()?;
    if transaction.list_tables()?.next().is_none() {
        drop(transaction);
        return create_tables(database);
    }
    let version = match transaction.open_table(META) {
        Ok(meta) => meta.get(META_SCHEMA)?.map(|row| row.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match version {
        Some(SCHEMA_VERSION) => Ok(()),
        Some(newer) => Err(Error::Refused {
            what: format!("metadata of schema version {newer}"),
            reason: format!(
                "this Pontoon reads version {SCHEMA_VERSION}; start the newer Pontoon that wrote it, or use another root"
            ),
        }
        .into()),
        None => Err(Error::Corrupt {
            what: "metadata database".to_owned(),
            reason: "it has tables but no schema version, so Pontoon did not write it".to_owned(),
        }
        .into()),
    }
}

/// All tables and the version in one transaction, so that a file has both or neither.
fn create_tables(database: &Database) -> Result<(), Fault> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_SCHEMA, SCHEMA_VERSION)?;
        meta.insert(META_NEXT_ID, 1)?;
        transaction.open_table(SNAPSHOTS)?;
        transaction.open_table(INDEX)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Stands between name and key; neither can hold it.
const SEPARATOR: u8 = 0;

/// The key of a snapshot's row: all rows of a name are neighbours, in the order of their keys.
pub(crate) fn row_key(name: &SnapshotterName, key: &Key) -> Vec<u8> {
    let mut bytes = first_row_key(name);
    bytes.extend_from_slice(key.as_str().as_bytes());
    bytes
}

/// Below every row of `name`.
pub(crate) fn first_row_key(name: &SnapshotterName) -> Vec<u8> {
    let mut bytes = name.as_str().as_bytes().to_vec();
    bytes.push(SEPARATOR);
    bytes
}

/// Above every row of `name`, and below those of the next name.
pub(crate) fn end_row_key(name: &SnapshotterName) -> Vec<u8> {
    let mut bytes = name.as_str().as_bytes().to_vec();
    bytes.push(SEPARATOR + 1);
    bytes
}

/// The name and the key in a row's key, unless it is damaged.
pub(crate) fn split_row_key(bytes: &[u8]) -> Option<(SnapshotterName, Key)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (name, key) = text.split_once(char::from(SEPARATOR))?;
    Some((SnapshotterName::new(name).ok()?, Key::new(key).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_name_are_neighbours_in_key_order() {
        let name = |text: &str| SnapshotterName::new(text).unwrap();
        let key = |text: &str| Key::new(text).unwrap();
        let rows = [
            row_key(&name("a"), &key("x")),
            row_key(&name("a"), &key("ключ")),
            row_key(&name("a-b"), &key("a")),
            row_key(&name("b"), &key("a")),
        ];
        assert!(rows.is_sorted());
        assert!(first_row_key(&name("a")) < rows[0]);
        assert!(rows[1] < end_row_key(&name("a")) && end_row_key(&name("a")) < rows[2]);
        assert_eq!(split_row_key(&rows[1]), Some((name("a"), key("ключ"))));
        assert_eq!(split_row_key(b"a"), None);
        assert_eq!(split_row_key(b"\xff\0x"), None);
    }
}
