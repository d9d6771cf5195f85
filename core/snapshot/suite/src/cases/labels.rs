//! Labels and Update.

use std::collections::BTreeMap;
use std::time::SystemTime;

use pontoon_snapshot::{Class, Kind, LABEL_BYTES_MAX, LABEL_MAX_SIZE, LabelChange, Labels};

use crate::stage::{Stage, key, labels, refused};

fn set(changes: &[(&str, Option<&str>)]) -> LabelChange {
    let change = |(key, value): &(&str, Option<&str>)| (key.to_string(), value.map(str::to_owned));
    LabelChange::Set(changes.iter().map(change).collect::<BTreeMap<_, _>>())
}

/// Labels set, deleted and replaced, of each kind of snapshot; nothing else changes but the time.
pub fn update(stage: &Stage) {
    stage.empty_layer("committed", "");
    stage.prepare("active", "committed");
    stage.view("view", "committed");
    stage.prepare("alone", "");
    for (name, kind, parent) in [
        ("committed", Kind::Committed, None),
        ("active", Kind::Active, Some(key("committed"))),
        ("view", Kind::View, Some(key("committed"))),
        ("alone", Kind::Active, None),
    ] {
        let created = stage.stat(name).created;
        let mut last = created;
        for (change, wanted) in [
            (
                LabelChange::Replace(labels(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3")])),
                labels(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3")]),
            ),
            (
                set(&[("l1", Some("updated")), ("l2", None)]),
                labels(&[("l1", "updated"), ("l3", "v3")]),
            ),
            (
                set(&[("new", Some("x")), ("absent", None)]),
                labels(&[("l1", "updated"), ("l3", "v3"), ("new", "x")]),
            ),
            (
                LabelChange::Replace(labels(&[("l4", "v4")])),
                labels(&[("l4", "v4")]),
            ),
            (LabelChange::Replace(Labels::default()), Labels::default()),
        ] {
            let before = SystemTime::now();
            let info = stage.sn().update(&key(name), change).unwrap();
            assert_eq!(info.labels, wanted, "{name}");
            assert_eq!(
                (info.kind, &info.parent, info.created),
                (kind, &parent, created)
            );
            assert!(
                before <= info.updated && info.updated <= SystemTime::now(),
                "{name}"
            );
            assert!(last < info.updated, "{name}");
            last = info.updated;
            assert_eq!(stage.stat(name), info);
        }
    }
}

/// Update of a key that nobody has.
pub fn update_of_nothing(stage: &Stage) {
    stage.prepare("something", "");
    let change = || LabelChange::Replace(labels(&[("a", "b")]));
    refused(
        stage.sn().update(&key("nothing"), change()),
        Class::NotFound,
    );
    assert_eq!(stage.found(&[]), ["something"]);
}

/// A committed snapshot has the labels that Commit gave, not those that Prepare gave.
pub fn commit_replaces_labels(stage: &Stage) {
    stage.prepare_with("active", "", &[("prepared", "1"), ("both", "1")]);
    assert_eq!(
        stage.stat("active").labels,
        labels(&[("prepared", "1"), ("both", "1")])
    );
    stage.commit_with(
        "committed",
        "active",
        "",
        &[("both", "2"), ("committed", "2")],
    );
    assert_eq!(
        stage.stat("committed").labels,
        labels(&[("both", "2"), ("committed", "2")])
    );
}

/// A label as long as containerd allows, and as many as an image may bring.
pub fn labels_at_the_limit(stage: &Stage) {
    let long = "v".repeat(LABEL_BYTES_MAX - 4);
    let many: Vec<_> = (10..70).map(|number| format!("l-{number}")).collect();
    let mut pairs: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), &long[1..])).collect();
    pairs.push(("long", &long));
    stage.prepare_with("active", "", &pairs);
    assert_eq!(stage.stat("active").labels, labels(&pairs));
    stage.commit_with("committed", "active", "", &pairs);
    assert_eq!(stage.stat("committed").labels, labels(&pairs));
    assert_eq!(stage.found(&["labels.long,labels.\"l-9\""]).len(), 0);
    assert_eq!(stage.found(&["labels.long,labels.\"l-10\""]), ["committed"]);
    let info = stage
        .sn()
        .update(&key("committed"), set(&[("l-10", None)]))
        .unwrap();
    assert_eq!(info.labels.iter().count(), 60);
}

/// A label whose value is empty is no label.
pub fn empty_values_delete(stage: &Stage) {
    stage.prepare_with("active", "", &[("a", ""), ("b", "2")]);
    assert_eq!(stage.stat("active").labels, labels(&[("b", "2")]));
    let info = stage
        .sn()
        .update(&key("active"), set(&[("b", Some("")), ("c", Some("3"))]));
    assert_eq!(info.unwrap().labels, labels(&[("c", "3")]));
    assert_eq!(stage.stat("active").labels, labels(&[("c", "3")]));
}

/// A limit that is not kept would be a promise broken.
pub fn max_size(stage: &Stage) {
    let limited = labels(&[(LABEL_MAX_SIZE, "1048576")]);
    let answer = stage.sn().prepare(&key("limited"), None, limited);
    if stage.differs("containerd's overlayfs ignores the limit, Pontoon says that it has none") {
        answer.unwrap();
        return;
    }
    refused(answer, Class::FailedPrecondition);
    assert!(stage.found(&[]).is_empty());
}
