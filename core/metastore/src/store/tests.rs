//! Batches of a known make-up, which callers on threads cannot be made to form.

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
    run: impl FnOnce(&mut Tables<'_>) -> Result<T, Fault> + Send + 'static,
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
    let (create, created) = pending(move |tables| tables.create(&name(), first));
    let (again, refused) = pending(move |tables| tables.create(&name(), second));
    let (finish, finished) = pending(move |tables| tables.commit(&name(), commit("a", "b")));
    let (child, chained) = pending(move |tables| tables.create(&name(), third));
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
    let (create, created) = pending(move |tables| tables.create(&name(), first));
    let (fail, failed) = pending(|_| -> Result<(), Fault> {
        Err(redb::Error::Io(io::ErrorKind::StorageFull.into()).into())
    });
    let (other, never_run) = pending(|_| Ok(()));
    store.run(vec![create, fail, other]);

    assert_eq!(answer(&created).unwrap_err().class(), Class::Exhausted);
    assert_eq!(answer(&failed).unwrap_err().class(), Class::Exhausted);
    assert_eq!(answer(&never_run).unwrap_err().class(), Class::Exhausted);
    store.create(&name(), new(&store, "b", None)).unwrap();
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
