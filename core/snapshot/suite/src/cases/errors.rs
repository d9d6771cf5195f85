//! The class of every error that containerd tells apart.

use pontoon_snapshot::{Class, LabelChange, Labels};

use crate::stage::{Stage, key, refused};

/// A key that nobody has, in every operation.
pub fn unknown_keys(stage: &Stage) {
    let (sn, nothing) = (stage.sn(), key("nothing"));
    refused(sn.stat(&nothing), Class::NotFound);
    refused(
        sn.update(&nothing, LabelChange::Replace(Labels::default())),
        Class::NotFound,
    );
    refused(sn.usage(&nothing), Class::NotFound);
    refused(sn.mounts(&nothing), Class::NotFound);
    refused(sn.remove(&nothing), Class::NotFound);
    refused(
        sn.commit(&key("name"), &nothing, None, Labels::default()),
        Class::NotFound,
    );
    stage.empty_layer("gone", "");
    stage.remove("gone");
    refused(sn.stat(&key("gone")), Class::NotFound);
    refused(sn.remove(&key("gone")), Class::NotFound);
    assert!(stage.found(&[]).is_empty());
}

/// A parent that is not there, or cannot be one.
pub fn parents(stage: &Stage) {
    stage.empty_layer("committed", "");
    stage.prepare("active", "committed");
    stage.view("view", "committed");
    let (sn, child) = (stage.sn(), key("child"));
    for (parent, class) in [
        ("nothing", Class::NotFound),
        ("active", Class::Invalid),
        ("view", Class::Invalid),
        // A key cannot be its own parent: it is not there yet.
        ("child", Class::NotFound),
    ] {
        refused(
            sn.prepare(&child, Some(&key(parent)), Labels::default()),
            class,
        );
        refused(
            sn.view(&child, Some(&key(parent)), Labels::default()),
            class,
        );
    }
    assert_eq!(stage.found(&[]), ["active", "committed", "view"]);
}

/// A key or name that is in use, by each kind.
pub fn taken_keys(stage: &Stage) {
    stage.empty_layer("committed", "");
    stage.prepare("active", "committed");
    stage.view("view", "committed");
    stage.prepare("ready", "");
    let sn = stage.sn();
    for taken in ["committed", "active", "view"].map(key) {
        refused(
            sn.prepare(&taken, None, Labels::default()),
            Class::AlreadyExists,
        );
        refused(
            sn.view(&taken, None, Labels::default()),
            Class::AlreadyExists,
        );
        refused(
            sn.commit(&taken, &key("ready"), None, Labels::default()),
            Class::AlreadyExists,
        );
    }
    refused(
        sn.commit(&key("ready"), &key("ready"), None, Labels::default()),
        Class::AlreadyExists,
    );
    assert_eq!(stage.found(&["kind==active"]), ["active", "ready"]);
}

/// Only an active snapshot can be committed.
pub fn commits(stage: &Stage) {
    stage.empty_layer("committed", "");
    stage.view("view", "committed");
    let sn = stage.sn();
    for not_active in ["committed", "view"].map(key) {
        let answer = sn.commit(&key("name"), &not_active, None, Labels::default());
        refused(answer, Class::FailedPrecondition);
    }
    refused(sn.stat(&key("name")), Class::NotFound);
}

/// What others are built on cannot be removed, and the message says so with the word that containerd wants.
pub fn children(stage: &Stage) {
    stage.empty_layer("base", "");
    for make_child in [
        &(|| drop(stage.prepare("child", "base"))) as &dyn Fn(),
        &|| drop(stage.view("child", "base")),
        &|| stage.empty_layer("child", "base"),
    ] {
        make_child();
        let told = refused(stage.sn().remove(&key("base")), Class::FailedPrecondition);
        assert!(told.contains("remove"), "{told}");
        stage.remove("child");
    }
    stage.remove("base");
}

/// A committed snapshot has no mounts.
pub fn committed_has_no_mounts(stage: &Stage) {
    stage.empty_layer("one", "");
    stage.empty_layer("two", "one");
    for name in ["one", "two"] {
        refused(stage.sn().mounts(&key(name)), Class::FailedPrecondition);
    }
}

/// After all these failures everything is as it was, and no directory is left over.
pub fn failures_change_nothing(stage: &Stage) {
    stage.empty_layer("base", "");
    stage.prepare_with("active", "base", &[("a", "1")]);
    let all = || {
        let mut infos = Vec::new();
        stage.walk(&[], |info| infos.push(info));
        infos
    };
    let (before, mounts) = (all(), stage.sn().mounts(&key("active")).unwrap());
    let (sn, none) = (stage.sn(), Labels::default);
    for _ in 0..3 {
        sn.prepare(&key("active"), None, none()).unwrap_err();
        sn.prepare(&key("new"), Some(&key("active")), none())
            .unwrap_err();
        sn.prepare(&key("new"), Some(&key("nothing")), none())
            .unwrap_err();
        sn.view(&key("base"), None, none()).unwrap_err();
        sn.commit(&key("base"), &key("active"), None, none())
            .unwrap_err();
        sn.commit(&key("new"), &key("active"), Some(&key("nothing")), none())
            .unwrap_err();
        sn.remove(&key("base")).unwrap_err();
    }
    assert_eq!(all(), before);
    assert_eq!(sn.mounts(&key("active")).unwrap(), mounts);
    assert_eq!(stage.directories(), 2);
}
