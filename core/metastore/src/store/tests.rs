//! Batches of a known make-up, which callers on threads cannot be made to form.

use std::sync::atomic::AtomicUsize;

use pontoon_snapshot::{Class, Kind, Labels};

use super::*;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn name() -> SnapshotterName {
    SnapshotterName::new("n").unwrap()
}

fn store() -> Store {
    Store::with_backend(|| Ok(redb::backends::InMemoryBackend::new())).unwrap()
}

/// One operation of a batch, and where its answer will be.
fn pending<T: Send + 'static>(
    run: impl Fn(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
) -> (Write, Answer<T>) {
    let answer: Answer<T> = Arc::default();
    let work = Pending::new(run, answer.clone());
    let write = Write {
        operation: "testing",
        frees: false,
        seat: Arc::default(),
        work: Box::new(work),
    };
    (write, answer)
}

/// An operation for which there is no space.
fn full(_: &mut Tables<'_>) -> Result<(), Fault> {
    Err(redb::Error::Io(io::ErrorKind::StorageFull.into()).into())
}

fn answer<T>(answer: &Answer<T>) -> Result<T> {
    answer.lock().unwrap().take().expect("an answer")
}

fn new(store: &Store, text: &str, parent: Option<&str>) -> NewSnapshot {
    NewSnapshot {
        id: store.allocate_id(),
        key: key(text),
        kind: Kind::Active,
        parent: parent.map(key),
        labels: Labels::default(),
    }
}

fn commit(text: &str, committed: &str) -> CommitSnapshot {
    CommitSnapshot {
        key: key(text),
        name: key(committed),
        parent: None,
        labels: Labels::default(),
        usage: None,
    }
}

#[test]
fn operations_of_one_batch_see_each_other_in_order() {
    let store = store();
    let (first, second, third) = (
        new(&store, "a", None),
        new(&store, "a", None),
        new(&store, "c", Some("b")),
    );
    let (create, created) = pending(move |tables| tables.create(&name(), first.clone()));
    let (again, refused) = pending(move |tables| tables.create(&name(), second.clone()));
    let (finish, finished) = pending(move |tables| tables.commit(&name(), commit("a", "b")));
    let (child, chained) = pending(move |tables| tables.create(&name(), third.clone()));
    let (remove, kept) = pending(move |tables| tables.remove(&name(), &key("b")));
    store.run(vec![create, again, finish, child, remove]);

    let created = answer(&created).unwrap().record;
    assert_eq!(answer(&refused).unwrap_err().class(), Class::AlreadyExists);
    assert_eq!(answer(&finished).unwrap().id, created.id);
    assert_eq!(answer(&chained).unwrap().chain[0].id, created.id);
    assert_eq!(
        answer(&kept).unwrap_err().class(),
        Class::FailedPrecondition
    );
    assert_eq!(store.names().unwrap(), [(name(), 2)]);
}

#[test]
fn a_failing_operation_fails_its_whole_batch_and_nothing_later() {
    let store = store();
    let first = new(&store, "a", None);
    let (create, created) = pending(move |tables| tables.create(&name(), first.clone()));
    let (fail, failed) = pending(full);
    let (other, never_run) = pending(|_| Ok(()));
    store.run(vec![create, fail, other]);

    assert_eq!(answer(&created).unwrap_err().class(), Class::Exhausted);
    assert_eq!(answer(&failed).unwrap_err().class(), Class::Exhausted);
    assert_eq!(answer(&never_run).unwrap_err().class(), Class::Exhausted);
    store.create(&name(), new(&store, "b", None)).unwrap();
}

#[test]
fn on_a_full_disk_what_frees_space_does_not_fail_with_what_takes_it() {
    let runs = Arc::new(AtomicUsize::new(0));
    let store = store();
    let (take, refused) = pending(full);
    let (mut free, freed) = pending({
        let runs = runs.clone();
        move |_| Ok(runs.fetch_add(1, Ordering::Relaxed))
    });
    free.frees = true;
    store.run(vec![free, take]);
    assert_eq!(answer(&refused).unwrap_err().class(), Class::Exhausted);
    assert_eq!(answer(&freed).unwrap(), 1, "the answer of the second run");

    // Where even that has no space, it is told, and not tried for ever.
    let (mut free, freed) = pending(full);
    free.frees = true;
    let (take, refused) = pending(|_| Ok(()));
    store.run(vec![free, take]);
    for answered in [freed, refused] {
        assert_eq!(answer(&answered).unwrap_err().class(), Class::Exhausted);
    }
}

#[test]
fn a_reader_whose_database_failed_leaves_the_reopened_one_alone() {
    let opened = Arc::new(AtomicUsize::new(0));
    let store = Store::with_backend({
        let opened = opened.clone();
        move || {
            opened.fetch_add(1, Ordering::Relaxed);
            Ok(redb::backends::InMemoryBackend::new())
        }
    })
    .unwrap();
    store.create(&name(), new(&store, "a", None)).unwrap();
    let reads = Cell::new(0);
    let read = store.read("testing", |transaction| {
        reads.set(reads.get() + 1);
        if reads.get() == 1 {
            // Beside this reader a batch fails, and somebody has the database reopened.
            let (fail, _) = pending(full);
            store.run(vec![fail]);
            store.names().unwrap();
        }
        snapshots(transaction)?.names()
    });
    assert_eq!(read.unwrap(), [], "each database is a new one");
    assert_eq!(reads.get(), 2, "the first one's database was closed");
    assert_eq!(opened.load(Ordering::Relaxed), 2, "it closed another one");
}

#[test]
fn a_panic_in_a_batch_reaches_its_callers_as_an_error() {
    let store = store();
    let first = new(&store, "a", None);
    store.create(&name(), first).unwrap();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.write::<()>("panicking", |_| panic!("as the test wants"))
    }));
    assert!(unwound.is_err());
    store.create(&name(), new(&store, "b", None)).unwrap();
    assert_eq!(store.names().unwrap(), [(name(), 2)]);
}

#[test]
fn a_refused_operation_writes_nothing() {
    let store = store();
    let batch = || {
        let index = store
            .database
            .begin_read()
            .unwrap()
            .open_table(INDEX)
            .unwrap();
        Index(index).batch().unwrap()
    };
    assert_eq!(batch(), 0);
    store.remove(&name(), &key("no")).unwrap_err();
    assert_eq!(batch(), 0);
    store.create(&name(), new(&store, "a", None)).unwrap();
    assert_eq!(batch(), 1);
}
