//! List.

use std::ops::ControlFlow;

use pontoon_snapshot::{Filter, Labels};

use crate::stage::{Stage, key};

/// Kinds, names, parents and labels, in filters as containerd's own suite has them.
pub fn walk(stage: &Stage) {
    let root = ("containerd.io/gc.root", "check");
    stage.prepare_with("a-np", "", &[root]);
    stage.prepare("p-tmp", "");
    stage.commit_with("p", "p-tmp", "", &[root]);
    stage.prepare_with("a", "p", &[root]);
    stage
        .sn()
        .view(&key("v"), Some(&key("p")), crate::labels(&[root]))
        .unwrap();
    stage.prepare("p-wl-tmp", "");
    stage.commit_with("p-wl", "p-wl-tmp", "", &[root, ("l", "1")]);
    stage.prepare_with("a-wl", "p-wl", &[root, ("l", "2")]);
    let labelled = crate::labels(&[root, ("l", "3")]);
    stage
        .sn()
        .view(&key("v-wl"), Some(&key("p-wl")), labelled)
        .unwrap();
    stage.prepare_with("a-np-wl", "", &[root, ("l", "2")]);

    let all = ["a", "a-np", "a-np-wl", "a-wl", "p", "p-wl", "v", "v-wl"];
    let marked = "labels.\"containerd.io/gc.root\"==check";
    for (filters, wanted) in [
        (&[][..], &all[..]),
        (&[""], &all),
        (&[marked], &all),
        (&["kind==active"], &["a", "a-np", "a-np-wl", "a-wl"]),
        (&["kind==view"], &["v", "v-wl"]),
        (&["kind==committed"], &["p", "p-wl"]),
        (&["name==p", "name==a-np-wl"], &["a-np-wl", "p"]),
        (&["name==a-wl,labels.l"], &["a-wl"]),
        (&["name==a,labels.l"], &[]),
        (&["parent==p"], &["a", "v"]),
        (&["parent!=\"\""], &["a", "a-wl", "v", "v-wl"]),
        (&["parent==\"\",kind!=committed"], &["a-np", "a-np-wl"]),
        (&["labels.l"], &["a-np-wl", "a-wl", "p-wl", "v-wl"]),
        (&["labels.l==2"], &["a-np-wl", "a-wl"]),
        (&["labels.l~=^[13]$"], &["p-wl", "v-wl"]),
        (&["labels.l!=2,parent==p-wl"], &["v-wl"]),
        (&["name==nothing"], &[]),
    ] {
        assert_eq!(stage.found(filters), wanted, "{filters:?}");
    }
}

/// The visitor may ask for what it is shown, and is told the same.
pub fn stat_in_walk(stage: &Stage) {
    stage.empty_layer("base", "");
    stage.empty_layer("layer", "base");
    stage.prepare_with("active", "layer", &[("a", "1")]);
    stage.view("view", "layer");
    let mut seen = 0;
    stage.walk(&[], |info| {
        assert_eq!(stage.stat(info.key.as_str()), info);
        seen += 1;
    });
    assert_eq!(seen, 4);
}

/// In the order of the keys' bytes.
pub fn walk_in_order(stage: &Stage) {
    for name in ["b", "a/10", "a/9", "", "Z", "é", "~", "a"]
        .iter()
        .filter(|name| !name.is_empty())
    {
        stage.prepare(name, "");
    }
    assert_eq!(stage.found(&[]), ["Z", "a", "a/10", "a/9", "b", "~", "é"]);
}

/// A visitor that breaks is not called again.
pub fn walk_breaks(stage: &Stage) {
    for name in ["a", "b", "c"] {
        stage.prepare(name, "");
    }
    let mut seen = Vec::new();
    let walked = stage.sn().walk(&Filter::default(), &mut |info| {
        seen.push(info.key.to_string());
        if seen.len() == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    walked.unwrap();
    assert_eq!(seen, ["a", "b"]);
    stage.remove("c");
}

/// A visitor that removes and prepares changes nothing of what it is shown.
pub fn walk_sees_one_moment(stage: &Stage) {
    let names: Vec<String> = (0..50).map(|number| format!("k-{number:02}")).collect();
    for name in &names {
        stage.prepare(name, "");
    }
    let mut seen = Vec::new();
    stage.walk(&[], |info| {
        let number = seen.len();
        seen.push(info.key.to_string());
        stage.remove(&names[names.len() - 1 - number]);
        stage.prepare(&format!("new-{number}"), "");
    });
    assert_eq!(seen, names);
    assert_eq!(stage.found(&[]).len(), names.len());
}

/// More than one message holds.
pub fn walk_of_many(stage: &Stage) {
    let long = "v".repeat(1000);
    for number in 0..450 {
        let last = if number % 10 == 0 { "yes" } else { "no" };
        stage.prepare_with(
            &format!("k-{number:03}"),
            "",
            &[("long", &long), ("tenth", last)],
        );
    }
    let found = stage.found(&[]);
    assert_eq!(found.len(), 450);
    assert!(found.is_sorted());
    assert_eq!(stage.found(&["labels.tenth==yes"]).len(), 45);
    assert_eq!(stage.found(&["name==k-007", "name~=^k-44"]).len(), 11);
}

/// The keyspace itself is not touched by a List that fails: this side refuses what cannot be parsed, and what
/// the other side says to it is part of the tests of the wire.
pub fn filters_that_are_wrong(stage: &Stage) {
    stage
        .sn()
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    for wrong in ["name=", "=", "name==", "labels.\"", "name~=("] {
        Filter::parse(&[wrong]).unwrap_err();
    }
    assert_eq!(stage.found(&["name==b", "name==a"]), ["a"]);
}
