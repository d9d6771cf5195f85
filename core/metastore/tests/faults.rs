//! Disks that fail and come back.

use std::io;
use std::ops::Bound;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use pontoon_metastore::{NewSnapshot, Store};
use pontoon_snapshot::{Class, Error, Kind, LabelChange};
use redb::{BackendError, StorageBackend};

use crate::fixture::{Short, key, labels, name};
use crate::model::{Model, observe, perform, script};
use crate::recorded::Recorder;

/// A disk that fails its next calls, as a test tells it.
#[derive(Debug, Clone)]
struct Faulty {
    disk: Recorder,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug)]
struct Plan {
    /// Calls until the failure; none when the disk is well.
    calls_left: Option<u32>,
    /// Fails once, or until the test says otherwise.
    lasting: bool,
    kind: io::ErrorKind,
    failed: bool,
    reads_fail: bool,
    /// How many more times somebody else holds the disk when it is to be opened.
    held: u32,
}

impl Faulty {
    fn new() -> Self {
        let plan = Plan {
            calls_left: None,
            lasting: false,
            kind: io::ErrorKind::Other,
            failed: false,
            reads_fail: false,
            held: 0,
        };
        Faulty {
            disk: Recorder::default(),
            plan: Arc::new(Mutex::new(plan)),
        }
    }

    fn store(&self) -> Store {
        let disk = self.clone();
        Store::with_backend(move || Ok(disk.clone())).unwrap()
    }

    fn fail_after(&self, calls: u32, lasting: bool, kind: io::ErrorKind) {
        let mut plan = self.plan.lock().unwrap();
        *plan = Plan {
            calls_left: Some(calls),
            lasting,
            kind,
            failed: false,
            reads_fail: false,
            held: 0,
        };
    }

    /// Makes the disk well again, and answers whether it had failed.
    fn heal(&self) -> bool {
        let mut plan = self.plan.lock().unwrap();
        plan.calls_left = None;
        plan.held = 0;
        plan.failed
    }

    fn call(&self) -> io::Result<()> {
        let mut plan = self.plan.lock().unwrap();
        match plan.calls_left {
            Some(0) => {
                plan.failed = true;
                if !plan.lasting {
                    plan.calls_left = None;
                }
                Err(plan.kind.into())
            }
            Some(calls) => {
                plan.calls_left = Some(calls - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.plan.lock().unwrap().reads_fail {
            return Err(io::ErrorKind::Other.into());
        }
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call()?;
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call()?;
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call()?;
        self.disk.write(offset, data)
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        let mut plan = self.plan.lock().unwrap();
        if plan.held == 0 {
            return Err(BackendError::Unsupported);
        }
        plan.held -= 1;
        Ok(false)
    }
}

#[test]
fn after_a_failure_an_error_means_that_nothing_changed_and_the_store_goes_on() {
    for lasting in [false, true] {
        let mut failures = 0;
        let (mut unknown, mut unknown_but_done) = (0, 0);
        for calls in 0.. {
            let disk = Faulty::new();
            let store = disk.store();
            disk.fail_after(calls, lasting, io::ErrorKind::StorageFull);
            let mut model = Model::default();
            let mut lost = 0;
            for op in script().into_iter().take(13) {
                let mut after = model.clone();
                let expected = after.apply(&op);
                let answer = perform(&store, &name(), &op);
                if disk.plan.lock().unwrap().failed && answer != expected {
                    disk.heal();
                    lost += 1;
                    if lasting && answer == Err(Class::Unavailable) {
                        // The file could not be read then, so that nobody could know.
                        unknown += 1;
                        if observe(&store, &name()) == after {
                            unknown_but_done += 1;
                            model = after;
                        }
                    } else {
                        assert_eq!(answer, Err(Class::Exhausted), "{op:?}");
                    }
                } else {
                    assert_eq!(answer, expected, "{op:?} after {calls} calls");
                    model = after;
                }
                if lost > 0 {
                    let at = format!("{op:?} after {calls} calls, lasting: {lasting}");
                    assert_eq!(observe(&store, &name()), model, "{at}");
                }
            }
            if !disk.heal() {
                break;
            }
            assert!(lost <= 1, "one failure, {lost} operations lost");
            failures += 1;
        }
        assert!(failures > 80, "only {failures} failures were tried");
        if lasting {
            assert!(0 < unknown_but_done && unknown_but_done < unknown);
        }
    }
}

#[test]
fn a_store_that_cannot_be_reopened_says_so_until_it_can() {
    let disk = Faulty::new();
    let store = disk.store();
    store.active("before", None);
    disk.fail_after(0, true, io::ErrorKind::Other);
    let error = store.make(Kind::Active, "lost", None).unwrap_err();
    // The commit failed, and whether it is in the file is in the file.
    assert!(matches!(error, Error::Uncertain { .. }), "{error}");
    assert_eq!(error.class(), Class::Unavailable);
    let error = store.get(&name(), &key("before")).unwrap_err();
    assert_eq!(error.class(), Class::Internal, "{error}");
    disk.heal();
    store.get(&name(), &key("before")).unwrap();
    store.active("after", None);
    let keys: Vec<_> = store.all().into_iter().map(|r| r.info.key).collect();
    assert_eq!(keys, [key("after"), key("before")]);
}

#[test]
fn a_database_that_is_held_when_it_is_reopened_is_waited_for() {
    let disk = Faulty::new();
    disk.plan.lock().unwrap().held = 1;
    let opener = disk.clone();
    let other_daemon = Store::with_backend(move || Ok(opener.clone())).unwrap_err();
    assert_eq!(other_daemon.class(), Class::FailedPrecondition);

    let store = disk.store();
    store.active("a", None);
    disk.fail_after(0, false, io::ErrorKind::Other);
    disk.plan.lock().unwrap().held = 5;
    let lost = store.make(Kind::Active, "b", None).unwrap_err();
    assert_eq!(lost.class(), Class::Internal, "{lost}");
    assert!(disk.heal(), "nothing failed");

    disk.fail_after(0, false, io::ErrorKind::Other);
    disk.plan.lock().unwrap().held = u32::MAX;
    store.make(Kind::Active, "b", None).unwrap_err();
    // FailedPrecondition would be the answer for a snapshot with children.
    let held = store.remove(&name(), &key("a")).unwrap_err();
    assert_eq!(held.class(), Class::Unavailable, "{held}");
    disk.heal();
    store.remove(&name(), &key("a")).unwrap();
}

#[test]
fn readers_wait_out_a_failing_disk_beside_writers() {
    let disk = Faulty::new();
    let store = disk.store();
    // More than the cache holds, so that reading reads.
    let value = "x".repeat(4000);
    let fillers = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let filler = labels(&fillers.map(|key| (key, value.as_str())));
    for n in 0..100 {
        let new = NewSnapshot {
            id: store.allocate_id(),
            key: key(&format!("key-{n:03}")),
            kind: Kind::Active,
            parent: None,
            labels: filler.clone(),
        };
        store.create(&name(), new).unwrap();
    }
    for _ in 0..10 {
        disk.plan.lock().unwrap().reads_fail = true;
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let store = &store;
                scope.spawn(move || {
                    for n in (reader..100).step_by(13) {
                        let got = store.get(&name(), &key(&format!("key-{n:03}")));
                        // What is in the cache may be answered.
                        let class = got.err().map(|error| error.class());
                        let told =
                            matches!(class, None | Some(Class::Internal | Class::Unavailable));
                        assert!(told, "{class:?}");
                    }
                });
            }
            let change = LabelChange::Set([("l".to_owned(), Some("1".to_owned()))].into());
            store.update(&name(), &key("key-001"), change).ok();
        });
        disk.plan.lock().unwrap().reads_fail = false;
        assert_eq!(store.all().len(), 100);
        store.get(&name(), &key("key-070")).unwrap();
    }
}

/// A small filesystem of its own, unmounted at the end.
struct Tmpfs {
    directory: tempfile::TempDir,
}

impl Tmpfs {
    fn new(size: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tmpfs = Tmpfs { directory };
        let options = format!("size={size}");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &options, "tmpfs", tmpfs.text()],
        );
        tmpfs
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn text(&self) -> &str {
        self.path().to_str().unwrap()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(
        status.success(),
        "{program} {arguments:?} (this test needs root)"
    );
}

#[test]
fn a_full_disk_refuses_writes_answers_reads_and_recovers() {
    let tmpfs = Tmpfs::new("4m");
    let path = tmpfs.path().join("metadata.redb");
    let store = Store::open(&path).unwrap();
    let ballast = tmpfs.path().join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let mut kept = Vec::new();
    let error = loop {
        let new = NewSnapshot {
            id: store.allocate_id(),
            key: key(&format!("key-{:05}", kept.len())),
            kind: Kind::Active,
            parent: None,
            labels: labels(&[("filler", &"x".repeat(4000))]),
        };
        match store.create(&name(), new) {
            Ok(created) => kept.push(created.record),
            Err(error) => break error,
        }
        assert!(kept.len() < 100_000, "the disk never fills");
    };
    assert_eq!(error.class(), Class::Exhausted, "{error}");
    assert_eq!(store.all(), kept, "reading works while the disk is full");
    let again = store.make(Kind::Active, "again", None).unwrap_err();
    assert_eq!(again.class(), Class::Exhausted, "{again}");
    assert_eq!(store.all(), kept);

    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.all(), kept, "a restart works while the disk is full");
    // Removing is what helps against a full disk.
    store.remove(&name(), &kept[0].info.key).unwrap();
    std::fs::remove_file(&ballast).unwrap();
    store.active("after", None);
    assert_eq!(store.all().len(), kept.len());
}

#[test]
fn a_read_only_filesystem_is_a_clear_error() {
    let tmpfs = Tmpfs::new("4m");
    let path = tmpfs.path().join("metadata.redb");
    drop(Store::open(&path).unwrap());
    run("mount", &["-o", "remount,ro", tmpfs.text()]);
    for path in [path, tmpfs.path().join("new.redb")] {
        let error = Store::open(&path).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            source.contains("Read-only file system"),
            "{error}: {source}"
        );
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn a_file_that_was_taken_away_is_not_replaced_by_an_empty_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    drop(Store::open(&path).unwrap());
    std::fs::write(&path, "").unwrap();
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    let missing = directory.path().join("no such directory/metadata.redb");
    let error = Store::open(&missing).unwrap_err();
    assert_eq!(error.class(), Class::Internal, "{error}");
}
