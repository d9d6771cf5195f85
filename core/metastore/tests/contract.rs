//! The contract's error table and semantics, on a real file.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::SystemTime;

use pontoon_metastore::{CommitSnapshot, NewLayer, NewSnapshot, Record, SnapshotId};
use pontoon_snapshot::{Class, Error, Kind, LabelChange, Labels, SnapshotterName, Usage};

use crate::fixture::{Fixture, Short, key, labels, name};

#[test]
fn a_snapshot_goes_from_active_to_committed_to_removed() {
    let f = Fixture::new();
    let base = f.store.layer("base", None);
    let created = f.store.active("work", Some("base"));
    assert_eq!(created.record.info.parent, Some(key("base")));
    assert_eq!(created.chain.len(), 1);
    assert_eq!(created.chain[0].id, base.id);

    let committed = f
        .store
        .commit(
            &name(),
            CommitSnapshot {
                key: key("work"),
                name: key("top"),
                parent: None,
                labels: labels(&[("l", "1")]),
                usage: Some(Usage {
                    size_bytes: 5,
                    inodes: 2,
                }),
            },
        )
        .unwrap();
    assert_eq!(committed.id, created.record.id, "a commit keeps the id");
    assert_eq!(committed.info.kind, Kind::Committed);
    assert_eq!(committed.info.labels, labels(&[("l", "1")]));
    assert_eq!(f.store.get(&name(), &key("top")).unwrap(), committed);
    let freed = f.store.get(&name(), &key("work")).unwrap_err();
    assert_eq!(freed.class(), Class::NotFound);

    let f = f.reopened();
    assert_eq!(f.store.get(&name(), &key("top")).unwrap(), committed);
    assert_eq!(f.store.remove(&name(), &key("top")).unwrap(), committed);
    assert!(f.store.contains(committed.id).unwrap());
    let removed = f.store.removed().unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].id, committed.id);
    f.store.forget_removed(&[committed.id, base.id]).unwrap();
    assert!(f.store.removed().unwrap().is_empty());
    assert!(!f.store.contains(committed.id).unwrap());
    assert!(f.store.contains(base.id).unwrap());
}

/// A store with a snapshot of each kind, and the check that a request is refused and changes nothing.
struct Refusals {
    fixture: Fixture,
    before: Vec<Record>,
}

impl Refusals {
    fn new() -> Self {
        let fixture = Fixture::new();
        let store = &fixture.store;
        store.layer("base", None);
        store.layer("other", None);
        store.active("active", None);
        store.active("child", Some("base"));
        store.make(Kind::View, "view", Some("base")).unwrap();
        let before = store.all();
        Refusals { fixture, before }
    }

    fn check<T>(&self, what: &str, got: Result<T, Error>, want: Class) {
        let error = got.err().expect(what);
        assert_eq!(error.class(), want, "{what}: {error}");
        assert_eq!(
            self.fixture.store.all(),
            self.before,
            "{what} changed something"
        );
    }
}

#[test]
fn an_unknown_key_is_not_found() {
    let refusals = Refusals::new();
    let (store, no) = (&refusals.fixture.store, &key("no"));
    let change = LabelChange::Replace(Labels::default());
    refusals.check("get", store.get(&name(), no), Class::NotFound);
    refusals.check("mounts", store.mountable(&name(), no), Class::NotFound);
    refusals.check("update", store.update(&name(), no, change), Class::NotFound);
    refusals.check("remove", store.remove(&name(), no), Class::NotFound);
    refusals.check("commit", store.finish("no", "x", None), Class::NotFound);
    let other = SnapshotterName::new("other").unwrap();
    refusals.check(
        "another name",
        store.get(&other, &key("base")),
        Class::NotFound,
    );
}

#[test]
fn create_is_refused_as_the_error_table_says() {
    let refusals = Refusals::new();
    let store = &refusals.fixture.store;
    for kind in [Kind::Active, Kind::View] {
        let make = |key, parent| store.make(kind, key, parent);
        refusals.check("parent unknown", make("x", Some("no")), Class::NotFound);
        refusals.check("parent active", make("x", Some("active")), Class::Invalid);
        refusals.check("parent view", make("x", Some("view")), Class::Invalid);
        for taken in ["active", "view", "base"] {
            refusals.check(
                "key exists",
                make(taken, Some("base")),
                Class::AlreadyExists,
            );
        }
    }
    refusals.check(
        "kind",
        store.make(Kind::Committed, "x", None),
        Class::Invalid,
    );
    let chain = |parent| store.chain(&name(), &key("x"), &key(parent));
    refusals.check("chain on nothing", chain("no"), Class::NotFound);
    refusals.check("chain on active", chain("active"), Class::Invalid);
}

#[test]
fn commit_is_refused_as_the_error_table_says() {
    let refusals = Refusals::new();
    let commit = |key, name, parent| refusals.fixture.store.finish(key, name, parent);
    refusals.check(
        "name exists",
        commit("active", "base", None),
        Class::AlreadyExists,
    );
    refusals.check(
        "name exists, key does not",
        commit("no", "base", None),
        Class::NotFound,
    );
    refusals.check(
        "name is the key",
        commit("active", "active", None),
        Class::AlreadyExists,
    );
    refusals.check(
        "a view",
        commit("view", "x", None),
        Class::FailedPrecondition,
    );
    refusals.check(
        "a layer",
        commit("base", "x", None),
        Class::FailedPrecondition,
    );
    refusals.check(
        "other parent",
        commit("child", "x", Some("other")),
        Class::Invalid,
    );
    refusals.check(
        "on nothing",
        commit("active", "x", Some("no")),
        Class::NotFound,
    );
    for parent in ["active", "view", "child"] {
        let rebased = commit("active", "x", Some(parent));
        refusals.check("on uncommitted", rebased, Class::FailedPrecondition);
    }
}

#[test]
fn mounts_and_remove_are_refused_as_the_error_table_says() {
    let refusals = Refusals::new();
    let store = &refusals.fixture.store;
    let mounts = store.mountable(&name(), &key("base"));
    refusals.check("mounts of a layer", mounts, Class::FailedPrecondition);
    let remove = store.remove(&name(), &key("base"));
    assert!(remove.as_ref().unwrap_err().to_string().contains("remove"));
    refusals.check("has children", remove, Class::FailedPrecondition);
}

#[test]
fn a_commit_rebases_what_has_no_parent() {
    let f = Fixture::new();
    let base = f.store.layer("base", None);
    f.store.active("extract", None);
    let record = f.store.finish("extract", "top", Some("base")).unwrap();
    assert_eq!(record.info.parent, Some(key("base")));
    f.store.active("same", Some("base"));
    f.store.finish("same", "top2", Some("base")).unwrap();

    let blocked = f.store.remove(&name(), &key("base")).unwrap_err();
    assert!(matches!(blocked, Error::HasChildren { .. }), "{blocked}");
    let view = f.store.make(Kind::View, "view", Some("top")).unwrap();
    let ids: Vec<_> = view.chain.iter().map(|link| link.id).collect();
    assert_eq!(ids, [record.id, base.id]);
    assert_eq!(
        f.store.mountable(&name(), &key("view")).unwrap().1,
        view.chain
    );
    for gone in ["view", "top", "top2", "base"] {
        f.store.remove(&name(), &key(gone)).unwrap();
    }
    assert!(f.store.all().is_empty());
}

#[test]
fn times_and_labels() {
    let f = Fixture::new();
    let before = SystemTime::now();
    let active = f.store.active("a", None).record.info;
    let after = SystemTime::now();
    assert_eq!(active.created, active.updated);
    assert!(before <= active.created && active.created <= after);

    let set = |pairs: &[(&str, Option<&str>)]| {
        let changes: BTreeMap<_, _> = pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.map(str::to_owned)))
            .collect();
        f.store
            .update(&name(), &key("a"), LabelChange::Set(changes))
            .unwrap()
            .info
    };
    let first = set(&[("l", Some("1")), ("m", Some("2"))]);
    let second = set(&[("l", None)]);
    assert_eq!(first.created, active.created);
    assert!(active.updated < first.updated && first.updated < second.updated);
    assert_eq!(second.labels, labels(&[("m", "2")]));

    let committed = f.store.finish("a", "b", None).unwrap().info;
    assert!(committed.labels.is_empty(), "labels are not inherited");
    assert_eq!(committed.created, committed.updated);
    assert!(committed.created >= second.updated);
    assert_eq!(
        f.reopened().store.all()[0].info,
        committed,
        "to the nanosecond"
    );
}

#[test]
fn names_are_keyspaces_and_ids_are_not() {
    let f = Fixture::new();
    let other = SnapshotterName::new("overlay-2").unwrap();
    let first = f.store.active("k", None).record;
    let second = f
        .store
        .create(
            &other,
            NewSnapshot {
                id: f.store.allocate_id(),
                key: key("k"),
                kind: Kind::Active,
                parent: None,
                labels: Labels::default(),
            },
        )
        .unwrap()
        .record;
    assert_ne!(first.id, second.id);
    assert_eq!(f.store.names().unwrap(), [(name(), 1), (other.clone(), 1)]);
    f.store.remove(&name(), &key("k")).unwrap();
    assert_eq!(f.store.get(&other, &key("k")).unwrap(), second);
    assert_eq!(f.store.names().unwrap(), [(other, 1)]);
}

#[test]
fn a_name_holds_keys_of_one_style() {
    let f = Fixture::new();
    f.store.active("default/1/a", None);
    let mixed = f.store.make(Kind::Active, "raw", None).unwrap_err();
    assert!(matches!(mixed, Error::MixedKeys { .. }), "{mixed}");
    let mixed = f.store.finish("default/1/a", "raw", None).unwrap_err();
    assert_eq!(mixed.class(), Class::FailedPrecondition);
    f.store.remove(&name(), &key("default/1/a")).unwrap();
    f.store.active("raw", None);
}

#[test]
fn ids_are_never_used_again() {
    let f = Fixture::new();
    let first = f.store.active("a", None).record.id;
    f.store.remove(&name(), &key("a")).unwrap();
    f.store.forget_removed(&[first]).unwrap();
    f.store.skip_ids_to(SnapshotId::new(9_000));
    let f = f.reopened();
    let second = f.store.active("a", None).record.id;
    assert!(second > first);
    f.store.skip_ids_to(SnapshotId::new(50_000));
    let third = f.store.active("b", None).record.id;
    assert_eq!(third.get(), 50_001);
    f.store.skip_ids_to(SnapshotId::new(u64::MAX));
    assert_eq!(
        f.store.allocate_id().get(),
        50_002,
        "no such id was ever given"
    );
    let f = f.reopened();
    assert!(f.store.allocate_id() > third);
}

#[test]
fn usages_and_layers_are_kept_with_the_record() {
    let f = Fixture::new();
    let layer = f
        .store
        .create_committed(
            &name(),
            NewLayer {
                id: f.store.allocate_id(),
                name: key("lazy"),
                parent: None,
                labels: Labels::default(),
                usage: None,
                layer: Some(b"opaque".to_vec()),
            },
        )
        .unwrap();
    let usage = Usage {
        size_bytes: 7,
        inodes: 1,
    };
    f.store
        .put_usages(&[(layer.id, usage), (SnapshotId::new(77), usage)])
        .unwrap();
    let f = f.reopened();
    let record = f.store.get(&name(), &key("lazy")).unwrap();
    assert_eq!(record.usage, Some(usage));
    assert_eq!(record.info, layer.info, "a usage is no update");
    let view = f.store.make(Kind::View, "v", Some("lazy")).unwrap();
    assert_eq!(view.chain[0].layer.as_deref(), Some(&b"opaque"[..]));
    f.store.remove(&name(), &key("v")).unwrap();
    f.store.remove(&name(), &key("lazy")).unwrap();
    let removed = f.store.removed().unwrap();
    assert_eq!(removed[1].layer, None);
    assert_eq!(removed[0].layer.as_deref(), Some(&b"opaque"[..]));
}

#[test]
fn a_walk_is_in_key_order_as_of_one_moment_and_stops_when_told() {
    let f = Fixture::new();
    for key in ["b", "a", "c"] {
        f.store.active(key, None);
    }
    let mut seen = Vec::new();
    f.store
        .walk(&name(), &mut |record| {
            f.store.remove(&name(), &key("c")).ok();
            seen.push(record.info.key.to_string());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, ["a", "b", "c"]);
    let mut count = 0;
    f.store
        .walk(&name(), &mut |_| {
            count += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(count, 1);
}

#[test]
fn a_second_daemon_is_refused() {
    let f = Fixture::new();
    let error = pontoon_metastore::Store::open(&f.path()).unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition, "{error}");
}
