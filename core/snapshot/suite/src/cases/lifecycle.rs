//! From Prepare to Remove.

use std::fs;
use std::time::SystemTime;

use pontoon_snapshot::{Class, Kind, Labels};

use crate::stage::{Stage, key, refused};
use crate::tree;

/// Two layers, written, committed, read, listed and removed.
pub fn basic(stage: &Stage) {
    let first = |at: &std::path::Path| {
        tree::file(at.join("foo"), "foo\n", 0o777);
        fs::create_dir_all(at.join("a/b/c")).unwrap();
    };
    let second = |at: &std::path::Path| {
        tree::file(at.join("bar"), "bar\n", 0o777);
        tree::file(at.join("foo"), "bar\n", 0o777);
        fs::remove_dir_all(at.join("a/b")).unwrap();
    };
    let flat = stage.directory();

    first(stage.mount(&stage.prepare("preparing", "")).path());
    stage.commit("committed", "preparing");
    let committed = stage.stat("committed");
    assert_eq!(
        (committed.kind, &committed.parent),
        (Kind::Committed, &None)
    );
    refused(stage.sn().stat(&key("preparing")), Class::NotFound);

    let mounted = stage.mount(&stage.prepare("next", "committed"));
    first(&flat);
    tree::assert_same(&flat, mounted.path());
    second(mounted.path());
    drop(mounted);
    let next = stage.stat("next");
    assert_eq!(
        (next.kind, next.parent),
        (Kind::Active, Some(key("committed")))
    );
    stage.commit("committed-next", "next");
    let next = stage.stat("committed-next");
    assert_eq!(
        (next.kind, &next.parent),
        (Kind::Committed, &Some(key("committed")))
    );
    refused(stage.sn().stat(&key("next")), Class::NotFound);

    let mut listed = Vec::new();
    stage.walk(&[], |info| listed.push(info));
    assert_eq!(listed, [committed, next]);

    second(&flat);
    let view = stage.mount(&stage.view("view", "committed-next"));
    tree::assert_same(&flat, view.path());
    drop(view);
    stage.remove("view");
    let told = refused(
        stage.sn().remove(&key("committed")),
        Class::FailedPrecondition,
    );
    assert!(
        told.contains("remove"),
        "containerd looks for the word: {told}"
    );
    stage.remove("committed-next");
    stage.remove("committed");
    assert!(stage.found(&[]).is_empty());
}

/// What Stat says of an active snapshot.
pub fn stat_active(stage: &Stage) {
    let mounted = stage.mount(&stage.prepare("preparing", ""));
    tree::file(mounted.path().join("foo"), "foo\n", 0o644);
    let info = stage.stat("preparing");
    assert_eq!(
        (info.key, info.kind, info.parent),
        (key("preparing"), Kind::Active, None)
    );
}

/// What Stat says of a committed snapshot.
pub fn stat_committed(stage: &Stage) {
    stage.layer("committed", "", |at| {
        tree::file(at.join("foo"), "foo\n", 0o644)
    });
    let info = stage.stat("committed");
    assert_eq!(
        (info.key, info.kind, info.parent),
        (key("committed"), Kind::Committed, None)
    );
}

/// A parent's parent is found by Stat.
pub fn transitivity(stage: &Stage) {
    stage.empty_layer("a", "");
    stage.empty_layer("b", "a");
    stage.empty_layer("c", "b");
    let mut chain = vec!["c".to_owned()];
    while let Some(parent) = stage.stat(chain.last().unwrap()).parent {
        chain.push(parent.to_string());
    }
    assert_eq!(chain, ["c", "b", "a"]);
}

/// One key is one snapshot, whatever it is.
pub fn prepare_and_view_of_one_key(stage: &Stage) {
    stage.empty_layer("parent", "");
    let parent = key("parent");
    for (taken, made) in [("active", true), ("view", false)] {
        if made {
            stage.prepare(taken, "parent");
        } else {
            stage.view(taken, "parent");
        }
        let taken = key(taken);
        let sn = stage.sn();
        refused(
            sn.prepare(&taken, Some(&parent), Labels::default()),
            Class::AlreadyExists,
        );
        refused(
            sn.view(&taken, Some(&parent), Labels::default()),
            Class::AlreadyExists,
        );
        refused(
            sn.prepare(&taken, None, Labels::default()),
            Class::AlreadyExists,
        );
        refused(
            sn.view(&taken, None, Labels::default()),
            Class::AlreadyExists,
        );
    }
}

/// A removed key is free at once, for a snapshot of another kind and parent.
pub fn remove(stage: &Stage) {
    stage.empty_layer("committed", "");
    stage.prepare("reused", "committed");
    stage.remove("reused");
    stage.view("reused", "committed");
    stage.remove("reused");
    stage.prepare("reused", "");
    stage.remove("committed");
    stage.commit("committed", "reused");
    assert_eq!(stage.found(&[]), ["committed"]);
}

/// What others are built on cannot go; from the top down everything can.
pub fn remove_intermediate(stage: &Stage) {
    stage.empty_layer("base", "");
    stage.empty_layer("middle", "base");
    stage.prepare("top", "middle");
    for in_use in ["base", "middle"] {
        refused(stage.sn().remove(&key(in_use)), Class::FailedPrecondition);
    }
    for next in ["top", "middle", "base"] {
        stage.remove(next);
    }
    assert!(stage.found(&[]).is_empty());
}

/// Each of several children counts, of whatever kind, and only while it is there.
pub fn remove_in_any_allowed_order(stage: &Stage) {
    stage.empty_layer("base", "");
    stage.prepare("active", "base");
    stage.view("view", "base");
    stage.empty_layer("child", "base");
    for child in ["view", "child", "active"] {
        refused(stage.sn().remove(&key("base")), Class::FailedPrecondition);
        stage.remove(child);
    }
    stage.remove("base");
    refused(stage.sn().remove(&key("base")), Class::NotFound);
}

/// Commit frees the key; what it is used for then is another snapshot.
pub fn keys_are_reused(stage: &Stage) {
    for round in ["1", "2", "3"] {
        let mounted = stage.mount(&stage.prepare("key", ""));
        assert_eq!(
            fs::read_dir(mounted.path()).unwrap().count(),
            0,
            "round {round}"
        );
        tree::file(mounted.path().join("round"), round, 0o644);
        drop(mounted);
        stage.commit(round, "key");
    }
    for round in ["1", "2", "3"] {
        let view = stage.mount(&stage.view(&format!("view-{round}"), round));
        assert_eq!(
            fs::read_to_string(view.path().join("round")).unwrap(),
            round
        );
    }
}

/// A second handle of a keyspace sees the same, and its end is not the keyspace's.
pub fn close_twice(stage: &Stage) {
    let other = stage.keyspace("suite");
    let another = stage.keyspace("suite");
    other.prepare(&key("a"), None, Labels::default()).unwrap();
    drop(other);
    drop(another);
    stage.commit("b", "a");
    stage.remove("b");
}

/// A key is opaque: nothing in it is a path, and long ones are as good as short ones.
pub fn odd_keys(stage: &Stage) {
    let long = "k".repeat(4096);
    for odd in [
        "../../etc",
        "/",
        "..",
        "a/../b",
        "%s",
        "ключ é",
        " ",
        "a:b,c=d",
        "a\\b\"c'",
        &long,
    ] {
        let committed = format!("{}-", &odd[..odd.len().min(4000)]);
        stage.prepare(odd, "");
        assert_eq!(stage.stat(odd).key, key(odd));
        stage.commit(&committed, odd);
        let mounts = stage.prepare(odd, &committed);
        assert_eq!(stage.sn().mounts(&key(odd)).unwrap(), mounts);
        assert_eq!(stage.stat(odd).parent, Some(key(&committed)));
        stage.remove(odd);
        stage.remove(&committed);
    }
    assert_eq!(stage.directories(), 0);
}

/// Created and updated are the same until something is updated, and are those of the commit.
pub fn timestamps(stage: &Stage) {
    let before = SystemTime::now();
    stage.prepare("active", "");
    let prepared = stage.stat("active");
    assert_eq!(prepared.created, prepared.updated);
    assert!(before <= prepared.created && prepared.created <= SystemTime::now());
    let before = SystemTime::now();
    stage.commit("committed", "active");
    let committed = stage.stat("committed");
    assert_eq!(committed.created, committed.updated);
    assert!(before <= committed.created && committed.created <= SystemTime::now());
    assert!(prepared.created < committed.created);
}
