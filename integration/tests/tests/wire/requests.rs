//! Requests that are wrong.

use std::collections::BTreeMap;

use pontoon_proto::snapshots as v1;
use prost_types::FieldMask;
use tonic::{Code, Status};

use crate::daemon::{Daemon, NAME, refused};

/// The answer of every RPC to a request with this snapshotter name and key.
fn all(daemon: &Daemon, name: &str, key: &str) -> Vec<(&'static str, Result<(), Status>)> {
    let (name, key) = (name.to_owned(), key.to_owned());
    macro_rules! ask {
        ($rpc:ident, $request:ident { $($field:ident: $value:expr),* }) => {{
            let request = v1::$request { snapshotter: name.clone(), $($field: $value),* };
            let answer = daemon.call(|mut service| async move { service.$rpc(request).await });
            (stringify!($rpc), answer.map(drop))
        }};
    }
    let info = v1::Info {
        name: key.clone(),
        ..Default::default()
    };
    vec![
        ask!(
            prepare,
            PrepareSnapshotRequest {
                key: key.clone(),
                parent: String::new(),
                labels: BTreeMap::new()
            }
        ),
        ask!(
            view,
            ViewSnapshotRequest {
                key: key.clone(),
                parent: String::new(),
                labels: BTreeMap::new()
            }
        ),
        ask!(mounts, MountsRequest { key: key.clone() }),
        ask!(
            commit,
            CommitSnapshotRequest {
                name: key.clone(),
                key: key.clone(),
                labels: BTreeMap::new(),
                parent: String::new()
            }
        ),
        ask!(remove, RemoveSnapshotRequest { key: key.clone() }),
        ask!(stat, StatSnapshotRequest { key: key.clone() }),
        ask!(
            update,
            UpdateSnapshotRequest {
                info: Some(info),
                update_mask: None
            }
        ),
        ask!(usage, UsageRequest { key: key.clone() }),
    ]
}

/// The answer of the RPCs that have no key.
fn without_key(daemon: &Daemon, name: &str) -> [Result<(), Status>; 2] {
    let snapshotter = name.to_owned();
    let list = v1::ListSnapshotsRequest {
        snapshotter: snapshotter.clone(),
        filters: Vec::new(),
    };
    let mut service = daemon.service();
    let listed = daemon.block_on(async {
        let mut answer = service.list(list).await?.into_inner();
        while answer.message().await?.is_some() {}
        Ok(())
    });
    let cleanup = v1::CleanupRequest { snapshotter };
    let cleaned = daemon.call(|mut service| async move { service.cleanup(cleanup).await });
    [listed, cleaned]
}

#[test]
fn empty_requests_say_what_is_missing() {
    let mut daemon = Daemon::start();
    for (rpc, answer) in all(&daemon, "", "") {
        let told = refused(answer, Code::InvalidArgument);
        assert!(told.contains("snapshotter name"), "{rpc}: {told}");
    }
    for answer in without_key(&daemon, "") {
        refused(answer, Code::InvalidArgument);
    }
    for (rpc, answer) in all(&daemon, NAME, "") {
        let told = refused(answer, Code::InvalidArgument);
        assert!(told.contains("key"), "{rpc}: {told}");
    }
    let update = v1::UpdateSnapshotRequest {
        snapshotter: NAME.to_owned(),
        info: None,
        update_mask: None,
    };
    let answer = daemon.call(|mut service| async move { service.update(update).await });
    refused(answer, Code::InvalidArgument);
    daemon.assert_nothing_lost();
}

#[test]
fn hostile_snapshotter_names_are_refused() {
    let mut daemon = Daemon::start();
    let long = "n".repeat(10_000);
    for name in [
        "..",
        ".",
        "/",
        "a/b",
        "../../etc",
        "a\0b",
        "a b",
        "a\nb",
        "-",
        "é",
        &long,
    ] {
        for (_, answer) in all(&daemon, name, "key") {
            refused(answer, Code::InvalidArgument);
        }
        for answer in without_key(&daemon, name) {
            refused(answer, Code::InvalidArgument);
        }
    }
    daemon.assert_nothing_lost();
}

#[test]
fn keys_that_cannot_be_are_refused() {
    let mut daemon = Daemon::start();
    let (long, longest) = ("k".repeat(10_000), "k".repeat(4097));
    for key in ["a\0b", "\0", "a\nb", "\u{7f}", "\u{85}", &longest, &long] {
        for (_, answer) in all(&daemon, NAME, key) {
            refused(answer, Code::InvalidArgument);
        }
        refused(daemon.prepare("child", key), Code::InvalidArgument);
        refused(daemon.commit(key, "open"), Code::InvalidArgument);
    }
    daemon.assert_nothing_lost();
}

#[test]
fn keys_are_no_paths() {
    let mut daemon = Daemon::start();
    let (root, longest) = (daemon.plugin.root().to_owned(), "k".repeat(4096));
    let absolute = root.join("snapshots").display().to_string();
    for key in [
        "/",
        "..",
        ".",
        "../..",
        "../../../../tmp/x",
        &absolute,
        "a//b",
        "%2e",
        "|",
        &longest,
    ] {
        let mounts = daemon.prepare(key, "").unwrap();
        assert!(mounts[0].source.starts_with(&absolute), "{mounts:?}");
        daemon.remove(key).unwrap();
    }
    daemon.assert_nothing_lost();
}

#[test]
fn absurd_labels_are_refused_whole() {
    let mut daemon = Daemon::start();
    let label = |key: &str, bytes: usize| BTreeMap::from([(key.to_owned(), "v".repeat(bytes))]);
    let many: BTreeMap<_, _> = (0..100)
        .map(|n| (format!("k{n}"), "v".repeat(4000)))
        .collect();
    let key = "l".repeat(5000);
    for labels in [
        label("l", 4096),
        label("l", 1_000_000),
        label("", 1),
        label(&key, 1),
        many,
    ] {
        let mut labels = labels;
        labels.insert("good".to_owned(), "1".to_owned());
        refused(
            daemon.prepare_with("new", "", labels.clone()),
            Code::InvalidArgument,
        );
        let view = v1::ViewSnapshotRequest {
            snapshotter: NAME.to_owned(),
            key: "new".to_owned(),
            labels: labels.clone(),
            ..Default::default()
        };
        let answer = daemon.call(|mut service| async move { service.view(view).await });
        refused(answer, Code::InvalidArgument);
        let commit = v1::CommitSnapshotRequest {
            snapshotter: NAME.to_owned(),
            name: "new".to_owned(),
            key: "open".to_owned(),
            labels: labels.clone(),
            ..Default::default()
        };
        let answer = daemon.call(|mut service| async move { service.commit(commit).await });
        refused(answer, Code::InvalidArgument);
        refused(update(&daemon, "open", labels, None), Code::InvalidArgument);
    }
    // The longest that is allowed, and one that Update would make too many.
    daemon.prepare_with("new", "", label("l", 4095)).unwrap();
    for number in 0..63 {
        let key = format!("k{number:02}");
        update(
            &daemon,
            "new",
            label(&key, 4093),
            Some(&[&format!("labels.{key}")]),
        )
        .unwrap();
    }
    let more = update(&daemon, "new", label("more", 4000), Some(&["labels.more"]));
    refused(more, Code::InvalidArgument);
    daemon.remove("new").unwrap();
    daemon.assert_nothing_lost();
}

fn update(
    daemon: &Daemon,
    key: &str,
    labels: BTreeMap<String, String>,
    mask: Option<&[&str]>,
) -> Result<v1::Info, Status> {
    let request = v1::UpdateSnapshotRequest {
        snapshotter: NAME.to_owned(),
        info: Some(v1::Info {
            name: key.to_owned(),
            labels,
            ..Default::default()
        }),
        update_mask: mask.map(|paths| FieldMask {
            paths: paths.iter().map(ToString::to_string).collect(),
        }),
    };
    let answer = daemon.call(|mut service| async move { service.update(request).await })?;
    Ok(answer.info.unwrap())
}

#[test]
fn masks_change_labels_and_nothing_else() {
    let mut daemon = Daemon::start();
    daemon.prepare("new", "").unwrap();
    let given = || {
        BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("b".to_owned(), "2".to_owned()),
        ])
    };
    for path in [
        "name",
        "parent",
        "kind",
        "created_at",
        "updated_at",
        "",
        "label",
        "labelsx",
        "*",
        "labels.",
    ] {
        refused(
            update(&daemon, "new", given(), Some(&[path])),
            Code::InvalidArgument,
        );
        refused(
            update(&daemon, "new", given(), Some(&["labels.a", path])),
            Code::InvalidArgument,
        );
    }
    let keys = |info: v1::Info| info.labels.into_keys().collect::<Vec<_>>();
    let changed = |mask| keys(update(&daemon, "new", given(), mask).unwrap());
    assert_eq!(changed(Some(&["labels.a"])), ["a"]);
    assert_eq!(changed(Some(&["labels.absent", "labels.a.b"])), ["a"]);
    assert_eq!(changed(Some(&["labels"])), ["a", "b"]);
    let none = update(&daemon, "new", BTreeMap::new(), Some(&["labels.a"])).unwrap();
    assert_eq!(keys(none), ["b"]);
    assert_eq!(changed(Some(&[])), ["a", "b"]);
    let cleared = update(&daemon, "new", BTreeMap::new(), None).unwrap();
    assert!(cleared.labels.is_empty());
    let paths: Vec<String> = (0..10_000)
        .map(|number| format!("labels.k{number}"))
        .collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    assert_eq!(changed(Some(&paths)), [""; 0]);
    daemon.remove("new").unwrap();
    daemon.assert_nothing_lost();
}

#[test]
fn what_update_carries_besides_labels_does_not_count() {
    let mut daemon = Daemon::start();
    daemon.prepare("new", "kept").unwrap();
    for kind in [-1, 0, 1, 3, 99, i32::MAX] {
        let request = v1::UpdateSnapshotRequest {
            snapshotter: NAME.to_owned(),
            info: Some(v1::Info {
                name: "new".to_owned(),
                parent: "nothing".to_owned(),
                kind,
                created_at: Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: i32::MIN,
                }),
                ..Default::default()
            }),
            update_mask: None,
        };
        let answer = daemon.call(|mut service| async move { service.update(request).await });
        let info = answer.unwrap().info.unwrap();
        assert_eq!(
            (info.kind(), info.parent.as_str()),
            (v1::Kind::Active, "kept")
        );
    }
    daemon.remove("new").unwrap();
    daemon.assert_nothing_lost();
}

#[test]
fn mappings_that_are_none_are_refused() {
    let mut daemon = Daemon::start();
    for mapping in [
        "0:1",
        "a:b:c",
        "-1:0:1",
        "0:0:4294967296",
        "0:0:0",
        ":::",
        "0:100000:65536,",
        " 0:0:1",
    ] {
        let labels = ["uidmapping", "gidmapping"].map(|which| {
            (
                format!("containerd.io/snapshot/{which}"),
                mapping.to_owned(),
            )
        });
        let told = refused(
            daemon.prepare_with("new", "kept", labels.into()),
            Code::InvalidArgument,
        );
        assert!(told.contains("mapping"), "{told}");
    }
    daemon.assert_nothing_lost();
}
