//! The file itself: its versions, and what is left of it.

use std::fs;
use std::path::{Path, PathBuf};

use pontoon_metastore::{NewLayer, Store, check};
use pontoon_snapshot::{Class, Error, Kind, Usage};
use redb::{Database, TableDefinition};

use crate::fixture::{Fixture, Short, key, labels, name};
use crate::random::Random;
use crate::recorded::Recorder;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Every record of a store, one a line.
fn listing(store: &Store) -> String {
    let mut text: String = store.all().iter().map(|r| format!("{r:?}\n")).collect();
    for removed in store.removed().unwrap() {
        text.push_str(&format!("{removed:?}\n"));
    }
    text
}

fn fill(store: &Store) {
    let base = store.layer("base", None);
    let usage = Usage {
        size_bytes: 4096,
        inodes: 3,
    };
    store.put_usages(&[(base.id, usage)]).unwrap();
    let lazy = NewLayer {
        id: store.allocate_id(),
        name: key("lazy"),
        parent: Some(key("base")),
        labels: labels(&[("containerd.io/snapshot.ref", "sha256:1"), ("a", "b")]),
        usage: Some(usage),
        layer: Some(vec![1, 2, 3]),
    };
    store.create_committed(&name(), lazy).unwrap();
    store.active("work", Some("lazy"));
    store.make(Kind::View, "view", Some("lazy")).unwrap();
    store.active("gone", None);
    store.remove(&name(), &key("gone")).unwrap();
}

/// Run by hand when the schema has a new version; the fixtures of older versions stay.
#[test]
#[ignore = "writes the fixture of the present schema"]
fn make_fixture() {
    let path = fixtures().join("schema-1.redb");
    fs::create_dir_all(fixtures()).unwrap();
    if path.exists() {
        // It is what that version wrote, and stays.
        return;
    }
    let store = Store::open(&path).unwrap();
    fill(&store);
    fs::write(fixtures().join("schema-1.txt"), listing(&store)).unwrap();
}

#[test]
fn a_file_of_schema_1_reads_as_it_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    fs::copy(fixtures().join("schema-1.redb"), &path).unwrap();
    let store = Store::open(&path).unwrap();
    let want = fs::read_to_string(fixtures().join("schema-1.txt")).unwrap();
    assert_eq!(listing(&store), want);
    store.active("new", Some("lazy"));
    drop(store);
    let report = check(&path, false).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!(report.snapshots, 5);
}

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SNAPSHOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("snapshots.1");

/// Changes a closed store's file behind its back.
fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[test]
fn a_newer_schema_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    drop(Store::open(&path).unwrap());
    tamper(&path, |transaction| {
        transaction
            .open_table(META)
            .unwrap()
            .insert("schema", 2)
            .unwrap();
    });
    let refused = |error: Error| {
        assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
        assert!(error.to_string().contains("version 2"), "{error}");
        assert!(
            error.to_string().contains("start the newer Pontoon"),
            "{error}"
        );
    };
    refused(Store::open(&path).unwrap_err());
    refused(check(&path, true).unwrap_err());
}

#[test]
fn a_database_of_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(SNAPSHOTS).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
}

#[test]
fn check_repairs_a_file_so_that_the_daemon_can_use_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    let store = Store::open(&path).unwrap();
    fill(&store);
    let base = store.get(&name(), &key("base")).unwrap();
    drop(store);
    let work = [name().as_str(), "work"].join("\0");
    tamper(&path, |transaction| {
        let mut snapshots = transaction.open_table(SNAPSHOTS).unwrap();
        snapshots
            .insert(work.as_bytes(), b"\xff".as_slice())
            .unwrap();
    });

    let store = Store::open(&path).unwrap();
    let error = store.get(&name(), &key("work")).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(error.to_string().contains("pontoon fsck"), "{error}");
    let busy = check(&path, true).unwrap_err();
    assert_eq!(busy.class(), Class::FailedPrecondition, "{busy}");
    drop(store);

    let found = check(&path, false).unwrap();
    assert!(!found.repaired && !found.findings.is_empty(), "{found:?}");
    let repaired = check(&path, true).unwrap();
    assert_eq!(repaired.findings, found.findings);
    assert!(repaired.repaired);
    assert!(check(&path, true).unwrap().findings.is_empty());

    let store = Store::open(&path).unwrap();
    assert_eq!(store.get(&name(), &key("base")).unwrap(), base);
    assert_eq!(store.all().len(), 3);
    assert_eq!(
        store.removed().unwrap().len(),
        2,
        "its directory is to be removed"
    );
    store.active("work", Some("lazy"));
}

/// Opens and checks a damaged file: either the damage does not matter and all is there, or it is told.
fn open_damaged(path: &Path, image: &[u8], want: &str, what: &str) -> bool {
    fs::write(path, image).unwrap();
    let opened = match Store::open(path) {
        Ok(store) => {
            assert_eq!(listing(&store), want, "{what}");
            true
        }
        Err(error) => {
            let told = error.to_string();
            // A damaged version looks like a newer one.
            let newer = told.contains("its file format is version");
            assert!(newer || error.class() == Class::Corrupt, "{what}: {error}");
            assert!(newer || told.contains("pontoon fsck"), "{what}: {error}");
            false
        }
    };
    fs::write(path, image).unwrap();
    let sound = check(path, false).is_ok_and(|report| report.findings.is_empty());
    assert_eq!(sound, opened, "{what}");
    opened
}

#[test]
fn a_damaged_file_is_told_and_never_a_panic_or_a_wrong_answer() {
    let f = Fixture::new();
    for n in 0..40 {
        f.store.layer(&format!("layer-{n}"), None);
    }
    fill(&f.store);
    let want = listing(&f.store);
    let source = f.path();
    let Fixture { directory, store } = f;
    drop(store);
    let image = fs::read(&source).unwrap();
    let path = directory.path().join("damaged.redb");
    assert!(open_damaged(&path, &image, &want, "no damage"));

    let mut random = Random::new(1);
    let mut told = 0;
    for round in 0..120 {
        let mut damaged = image.clone();
        let what = match round % 3 {
            0 => {
                let at = random.below(image.len() as u64) as usize;
                damaged[at] ^= 1 << random.below(8);
                format!("round {round}: a bit of byte {at}")
            }
            1 => {
                // The header is where a wrong byte does most.
                let at = random.below(512) as usize;
                damaged[at] = random.next() as u8;
                format!("round {round}: byte {at} of the header")
            }
            _ => {
                let page = random.below(image.len() as u64 / 4096) as usize * 4096;
                damaged[page..page + 4096].fill_with(|| random.next() as u8);
                format!("round {round}: the page at {page}")
            }
        };
        told += u32::from(!open_damaged(&path, &damaged, &want, &what));
    }
    assert!(told > 20, "only {told} damages were told");
    for len in [
        1,
        100,
        320,
        511,
        512,
        4095,
        4096,
        image.len() / 2,
        image.len() - 1,
    ] {
        let opened = open_damaged(&path, &image[..len], &want, &format!("cut to {len}"));
        assert!(!opened, "cut to {len}");
    }
    let garbage: Vec<u8> = (0..10_000).map(|_| random.next() as u8).collect();
    assert!(!open_damaged(&path, &garbage, &want, "garbage"));
}

#[test]
fn freed_space_is_used_again() {
    let disk = Recorder::default();
    let store = disk.store().unwrap();
    for n in 0..80 {
        store.layer(&format!("kept-{n:03}"), None);
    }
    let cycle = |n: usize| {
        store.layer(&format!("layer-{n}"), Some("kept-000"));
        let removed = store.remove(&name(), &key(&format!("layer-{n}"))).unwrap();
        store.forget_removed(&[removed.id]).unwrap();
    };
    (0..20).for_each(cycle);
    let before = disk.image().len();
    (20..150).for_each(cycle);
    assert_eq!(disk.image().len(), before);
}
