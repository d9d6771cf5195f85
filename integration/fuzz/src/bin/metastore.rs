//! A database of which any row may be anything: checked, repaired, checked again and used.
//! Rows are a byte that says which table, then lengths and bytes of key and value.
#![no_main]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pontoon_metastore::{Store, check};
use pontoon_snapshot::SnapshotterName;
use redb::{Database, TableDefinition};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SNAPSHOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("snapshots.1");
const INDEX: TableDefinition<(u8, u64, u64), &[u8]> = TableDefinition::new("index.1");

/// In memory, of a store without snapshots.
static FRESH: LazyLock<(PathBuf, Vec<u8>)> = LazyLock::new(|| {
    let path = PathBuf::from("/dev/shm/pontoon-fuzz-metastore");
    let _ = fs::remove_file(&path);
    drop(Store::open(&path).expect("a store can be made"));
    let bytes = fs::read(&path).expect("it is there");
    (path, bytes)
});

fuzz_target!(|bytes: &[u8]| {
    let (path, fresh) = &*FRESH;
    fs::write(path, fresh).expect("there is memory");
    fill(path, bytes).expect("a database takes everything");
    let before = check(path, true).expect("it can be opened");
    let after = check(path, false).expect("it can be opened again");
    assert!(
        !after.findings.iter().any(|finding| finding.repairable),
        "{before:?}, {after:?}"
    );
    // What could not be repaired may be found again, and nothing else.
    assert!(after.findings.len() <= before.findings.len());
    let store = Store::open(path).expect("what was repaired can be used");
    let _ = store.removed().is_ok();
    for (name, count) in store.names().unwrap_or_default() {
        assert!(count > 0);
        use_all(&store, &name);
    }
});

/// Each snapshot of `name`, and what it stands on.
fn use_all(store: &Store, name: &SnapshotterName) {
    let mut keys = Vec::new();
    let walked = store.walk(name, &mut |record| {
        keys.push(record.info.key);
        ControlFlow::Continue(())
    });
    walked.expect("what was repaired can be read");
    for key in &keys {
        store.get(name, key).expect("what was listed is there");
        let _ = (
            store.mountable(name, key).is_ok(),
            store.chain(name, key, key).is_ok(),
        );
    }
    if let Some(key) = keys.first() {
        let _ = store.remove(name, key).is_ok();
    }
}

fn fill(path: &Path, mut bytes: &[u8]) -> Result<(), redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    {
        let mut snapshots = transaction.open_table(SNAPSHOTS)?;
        let mut index = transaction.open_table(INDEX)?;
        let mut meta = transaction.open_table(META)?;
        while let Some((table, rest)) = bytes.split_first() {
            let (key, rest) = piece(rest);
            let (value, rest) = piece(rest);
            bytes = rest;
            let number = |at: usize| key.get(at).copied().map_or(0, u64::from);
            match table % 4 {
                0 | 1 => drop(snapshots.insert(key, value)?),
                2 => drop(index.insert((number(0) as u8, number(1), number(2)), value)?),
                _ => {
                    let mut next = [0; 8];
                    next.iter_mut()
                        .zip(value)
                        .for_each(|(to, from)| *to = *from);
                    drop(meta.insert("next_id", u64::from_le_bytes(next))?);
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn piece(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.split_first() {
        Some((length, rest)) => rest.split_at(usize::from(*length).min(rest.len())),
        None => (bytes, bytes),
    }
}
