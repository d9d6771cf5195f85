//! Short ways to say what the tests are about.

use std::ops::ControlFlow;
use std::path::PathBuf;

use pontoon_metastore::{CommitSnapshot, Created, NewSnapshot, Record, Store};
use pontoon_snapshot::{Key, Kind, Labels, Result, SnapshotterName};

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn name() -> SnapshotterName {
    SnapshotterName::new("overlay").unwrap()
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string())),
    )
    .unwrap()
}

/// A store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("metadata.redb")).unwrap();
        Fixture { directory, store }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("metadata.redb")
    }

    /// Closes the store and opens it again.
    pub(crate) fn reopened(self) -> Self {
        let Fixture { directory, store } = self;
        drop(store);
        let store = Store::open(&directory.path().join("metadata.redb")).unwrap();
        Fixture { directory, store }
    }
}

/// The operations with the fewest words.
pub(crate) trait Short {
    fn make(&self, kind: Kind, key: &str, parent: Option<&str>) -> Result<Created>;
    fn active(&self, key: &str, parent: Option<&str>) -> Created;
    fn finish(&self, key: &str, name: &str, parent: Option<&str>) -> Result<Record>;
    fn layer(&self, name: &str, parent: Option<&str>) -> Record;
    fn all(&self) -> Vec<Record>;
}

impl Short for Store {
    fn make(&self, kind: Kind, text: &str, parent: Option<&str>) -> Result<Created> {
        self.create(
            &name(),
            NewSnapshot {
                id: self.allocate_id(),
                key: key(text),
                kind,
                parent: parent.map(key),
                labels: Labels::default(),
            },
        )
    }

    fn active(&self, key: &str, parent: Option<&str>) -> Created {
        self.make(Kind::Active, key, parent).unwrap()
    }

    fn finish(&self, active: &str, committed: &str, parent: Option<&str>) -> Result<Record> {
        self.commit(
            &name(),
            CommitSnapshot {
                key: key(active),
                name: key(committed),
                parent: parent.map(key),
                labels: Labels::default(),
                usage: None,
            },
        )
    }

    /// A committed snapshot.
    fn layer(&self, name: &str, parent: Option<&str>) -> Record {
        let active = format!("{name} in the making");
        self.active(&active, parent);
        self.finish(&active, name, None).unwrap()
    }

    fn all(&self) -> Vec<Record> {
        let mut records = Vec::new();
        self.walk(&name(), &mut |record| {
            records.push(record);
            ControlFlow::Continue(())
        })
        .unwrap();
        records
    }
}
