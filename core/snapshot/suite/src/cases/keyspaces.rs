//! Several snapshotter names at one daemon.

use pontoon_snapshot::{Class, Filter, Labels};

use crate::stage::{Stage, key, refused};

/// One name's snapshots are not another's, whatever their keys.
pub fn names_are_separate(stage: &Stage) {
    let other = stage.keyspace("other");
    stage.prepare("key", "");
    let same = other.prepare(&key("key"), None, Labels::default());
    if stage.differs("containerd's snapshotter is one keyspace, whatever name it is called by") {
        refused(same, Class::AlreadyExists);
        return;
    }
    same.unwrap();
    stage.commit("layer", "key");
    refused(other.stat(&key("layer")), Class::NotFound);
    refused(
        other.prepare(&key("child"), Some(&key("layer")), Labels::default()),
        Class::NotFound,
    );
    let mut found = Vec::new();
    other
        .walk(&Filter::default(), &mut |info| {
            found.push(info.key.to_string());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(found, ["key"]);
    other.remove(&key("key")).unwrap();
    assert_eq!(stage.found(&[]), ["layer"]);
    // Cleanup of one name does not take another's.
    other.cleanup().unwrap();
    assert_eq!(stage.directories(), 1);
}

/// containerd and BuildKit under one name would remove each other's snapshots.
pub fn key_styles_do_not_mix(stage: &Stage) {
    stage.prepare("default/1/active", "");
    let raw = stage.sn().prepare(&key("raw"), None, Labels::default());
    if stage.differs("containerd's snapshotter has one caller only and does not look") {
        raw.unwrap();
        return;
    }
    refused(raw, Class::FailedPrecondition);
    refused(
        stage.sn().view(&key("raw"), None, Labels::default()),
        Class::FailedPrecondition,
    );
    let commit = stage.sn().commit(
        &key("raw"),
        &key("default/1/active"),
        None,
        Labels::default(),
    );
    refused(commit, Class::FailedPrecondition);
    assert_eq!(stage.found(&[]), ["default/1/active"]);
    // An empty keyspace takes either.
    stage.remove("default/1/active");
    stage.prepare("raw", "");
    let namespaced = stage
        .sn()
        .prepare(&key("default/1/active"), None, Labels::default());
    refused(namespaced, Class::FailedPrecondition);
}
