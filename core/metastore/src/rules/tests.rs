//! The contract's error table, a row a line.

use std::time::UNIX_EPOCH;

use pontoon_snapshot::Class;

use super::*;

const ACTIVE: Option<Kind> = Some(Kind::Active);
const VIEW: Option<Kind> = Some(Kind::View);
const COMMITTED: Option<Kind> = Some(Kind::Committed);

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn info(kind: Kind, parent: Option<&str>) -> Info {
    created(
        key("k"),
        kind,
        parent.map(key),
        Labels::default(),
        UNIX_EPOCH,
    )
}

fn class<T>(outcome: Result<T>) -> Option<Class> {
    outcome.err().map(|error| error.class())
}

#[test]
fn create_table() {
    let p = key("p");
    let parent = |kind| Some(Parent { key: &p, kind });
    for (present, parent, want) in [
        (None, None, None),
        (None, parent(COMMITTED), None),
        (ACTIVE, None, Some(Class::AlreadyExists)),
        (VIEW, None, Some(Class::AlreadyExists)),
        (COMMITTED, parent(COMMITTED), Some(Class::AlreadyExists)),
        (None, parent(None), Some(Class::NotFound)),
        (None, parent(ACTIVE), Some(Class::Invalid)),
        (None, parent(VIEW), Some(Class::Invalid)),
        // Of two faults the parent's is told, as containerd does.
        (ACTIVE, parent(None), Some(Class::NotFound)),
        (ACTIVE, parent(VIEW), Some(Class::Invalid)),
    ] {
        let got = class(create(&key("k"), present, parent));
        assert_eq!(got, want, "{present:?} on {parent:?}");
    }
    assert_eq!(class(creatable(&key("k"), Kind::Active)), None);
    assert_eq!(class(creatable(&key("k"), Kind::View)), None);
    assert_eq!(
        class(creatable(&key("k"), Kind::Committed)),
        Some(Class::Invalid)
    );
}

#[test]
fn commit_table() {
    let base = info(Kind::Active, None);
    let child = info(Kind::Active, Some("p"));
    let (view, layer) = (info(Kind::View, None), info(Kind::Committed, None));
    let (p, q) = (key("p"), key("q"));
    let (k, n) = (key("k"), key("n"));
    let given = |key, kind| Some(Parent { key, kind });
    for (active, name_present, given, want) in [
        (Some(&base), None, None, Ok(None)),
        (Some(&child), None, None, Ok(None)),
        (Some(&child), None, given(&p, COMMITTED), Ok(None)),
        (Some(&base), None, given(&q, COMMITTED), Ok(Some(&q))),
        (None, None, None, Err(Class::NotFound)),
        (Some(&view), None, None, Err(Class::FailedPrecondition)),
        (Some(&layer), None, None, Err(Class::FailedPrecondition)),
        (Some(&base), COMMITTED, None, Err(Class::AlreadyExists)),
        (Some(&view), COMMITTED, None, Err(Class::AlreadyExists)),
        // Of two faults the missing key's is told, as containerd's overlayfs does.
        (None, ACTIVE, None, Err(Class::NotFound)),
        (None, COMMITTED, None, Err(Class::NotFound)),
        (
            Some(&child),
            None,
            given(&q, COMMITTED),
            Err(Class::Invalid),
        ),
        (Some(&child), None, given(&q, None), Err(Class::Invalid)),
        (Some(&base), None, given(&q, None), Err(Class::NotFound)),
        (
            Some(&base),
            None,
            given(&q, ACTIVE),
            Err(Class::FailedPrecondition),
        ),
        (
            Some(&base),
            None,
            given(&q, VIEW),
            Err(Class::FailedPrecondition),
        ),
    ] {
        let outcome = commit(&Commit {
            key: &k,
            active,
            name: &n,
            name_present,
            given,
        });
        let got = outcome.map_err(|error| error.class());
        assert_eq!(got, want, "{active:?} {name_present:?} {given:?}");
    }
}

#[test]
fn mounts_remove_and_style_tables() {
    assert_eq!(class(mountable(&info(Kind::Active, None))), None);
    assert_eq!(class(mountable(&info(Kind::View, None))), None);
    let layer = mountable(&info(Kind::Committed, None));
    assert_eq!(class(layer), Some(Class::FailedPrecondition));

    assert_eq!(class(remove(&key("k"), None)), None);
    let parent = remove(&key("k"), Some(key("child")));
    assert_eq!(class(parent), Some(Class::FailedPrecondition));

    let name = SnapshotterName::new("n").unwrap();
    let namespaced = key("default/1/a");
    for (key, present, want) in [
        (&namespaced, None, None),
        (&namespaced, Some(KeyStyle::Namespaced), None),
        (
            &namespaced,
            Some(KeyStyle::Raw),
            Some(Class::FailedPrecondition),
        ),
        (&key("raw"), None, None),
        (&key("raw"), Some(KeyStyle::Raw), None),
        (
            &key("raw"),
            Some(KeyStyle::Namespaced),
            Some(Class::FailedPrecondition),
        ),
    ] {
        assert_eq!(class(style(&name, key, present)), want, "{key} {present:?}");
    }
}

#[test]
fn the_time_of_an_update_only_goes_forward() {
    let second = |n| UNIX_EPOCH + Duration::from_secs(n);
    let change = || LabelChange::Replace(Labels::default());
    let first = updated(&info(Kind::Active, None), change(), second(9)).unwrap();
    assert_eq!((first.created, first.updated), (UNIX_EPOCH, second(9)));
    // The clock was set back.
    let next = updated(&first, change(), second(1)).unwrap();
    assert!(next.updated > first.updated && next.updated < second(10));
}
