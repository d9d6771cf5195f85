//! The mounts that Prepare, View and Mounts answer.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use pontoon_snapshot::{LABEL_GID_MAPPING, LABEL_UID_MAPPING, Labels, Mount};

use crate::stage::{Stage, key};
use crate::tree;

fn has(mount: &Mount, option: &str) -> bool {
    mount.options.iter().any(|given| given == option)
}

/// The value of option `name`, if it is there.
fn value<'a>(mount: &'a Mount, name: &str) -> Option<&'a str> {
    let prefix = format!("{name}=");
    mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix(&prefix))
}

/// A view cannot be written, whatever is below it.
pub fn view_is_read_only(stage: &Stage) {
    let write = |at: &std::path::Path| tree::file(at.join("file"), "", 0o644);
    stage.layer("one", "", write);
    stage.layer("two", "one", write);
    for parent in ["", "one", "two"] {
        let view = stage.mount(&stage.view(&format!("view-{parent}"), parent));
        let written = fs::write(view.path().join("new"), "content");
        assert_eq!(
            written.unwrap_err().kind(),
            ErrorKind::ReadOnlyFilesystem,
            "view of {parent:?}"
        );
    }
}

/// A container's root directory is for everybody to enter, whatever the daemon's umask.
pub fn root_permission(stage: &Stage) {
    let root_mode = |mounts: &[Mount]| {
        let mounted = stage.mount(mounts);
        fs::metadata(mounted.path()).unwrap().mode() & 0o7777
    };
    assert_eq!(root_mode(&stage.prepare("active", "")), 0o755);
    stage.commit("committed", "active");
    assert_eq!(root_mode(&stage.prepare("child", "committed")), 0o755);
    assert_eq!(root_mode(&stage.view("view", "committed")), 0o755);
    assert_eq!(root_mode(&stage.view("empty", "")), 0o755);
}

/// The root of a child belongs to whom the root of its parent belongs.
pub fn root_owner_is_inherited(stage: &Stage) {
    stage.layer("parent", "", |at| tree::chown(at, 1234));
    let child = stage.mount(&stage.prepare("child", "parent"));
    let found = fs::metadata(child.path()).unwrap();
    assert_eq!((found.uid(), found.gid()), (1234, 1234));
}

/// One bind mount where there is one directory, else one overlay: what every caller can mount by itself.
pub fn shapes(stage: &Stage) {
    let one = |mounts: Vec<Mount>, fs_type: &str| {
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        assert_eq!(mounts[0].fs_type, fs_type);
        assert_eq!(mounts[0].target, "");
        mounts.into_iter().next().unwrap()
    };
    let bare = one(stage.prepare("bare", ""), "bind");
    assert!(has(&bare, "rw") && has(&bare, "rbind"), "{bare:?}");
    let empty = one(stage.view("empty", ""), "bind");
    assert!(has(&empty, "ro") && has(&empty, "rbind"), "{empty:?}");

    stage.commit("one", "bare");
    let view = one(stage.view("view-one", "one"), "bind");
    assert!(has(&view, "ro"), "{view:?}");
    assert_eq!(
        view.source, bare.source,
        "a view of one layer is that layer"
    );
    let child = one(stage.prepare("child", "one"), "overlay");
    assert_eq!(value(&child, "lowerdir"), Some(bare.source.as_str()));
    let upper = value(&child, "upperdir").unwrap().to_owned();
    assert!(value(&child, "workdir").is_some(), "{child:?}");

    stage.commit("two", "child");
    let view = one(stage.view("view-two", "two"), "overlay");
    let both = format!("{upper}:{}", bare.source);
    assert_eq!(
        value(&view, "lowerdir"),
        Some(both.as_str()),
        "the nearest parent first"
    );
    assert_eq!(
        (value(&view, "upperdir"), value(&view, "workdir")),
        (None, None)
    );
}

/// Mounts answers what Prepare and View answered, again and again.
pub fn mounts_are_repeated(stage: &Stage) {
    stage.empty_layer("one", "");
    stage.empty_layer("two", "one");
    for parent in ["", "one", "two"] {
        let (active, view) = (format!("active-{parent}"), format!("view-{parent}"));
        for (name, answered) in [
            (&active, stage.prepare(&active, parent)),
            (&view, stage.view(&view, parent)),
        ] {
            for _ in 0..2 {
                assert_eq!(stage.sn().mounts(&key(name)).unwrap(), answered, "{name}");
            }
        }
    }
}

/// A container in a user namespace sees the ids of the image, mapped by the mount.
pub fn mapped_ids(stage: &Stage) {
    stage.layer("image", "", |at| {
        tree::file(at.join("root"), "", 0o644);
        tree::file(at.join("user"), "", 0o644);
        tree::chown(at.join("user"), 1000);
    });
    let mapping = "0:100000:65536";
    let labels = [(LABEL_UID_MAPPING, mapping), (LABEL_GID_MAPPING, mapping)];
    let mounts = stage.prepare_with("container", "image", &labels);
    assert_eq!(value(&mounts[0], "uidmap"), Some(mapping), "{mounts:?}");
    assert_eq!(value(&mounts[0], "gidmap"), Some(mapping), "{mounts:?}");
    assert_eq!(stage.sn().mounts(&key("container")).unwrap(), mounts);

    let mounted = stage.mount(&mounts);
    for (name, owner) in [("", 100_000), ("root", 100_000), ("user", 101_000)] {
        let found = fs::metadata(mounted.path().join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (owner, owner), "{name:?}");
    }
    tree::file(
        mounted.path().join("user"),
        "written through the mapping",
        0o644,
    );
    let found = fs::metadata(mounted.path().join("user")).unwrap();
    assert_eq!(found.uid(), 101_000);
}

/// Mount options hold no comma and no space, which mount(8) would split.
pub fn mount_options_need_no_escape(stage: &Stage) {
    stage.empty_layer("one", "");
    stage.empty_layer("two", "one");
    let sn = stage.sn();
    let mounts = [
        sn.prepare(&key("a, b"), Some(&key("two")), Labels::default())
            .unwrap(),
        sn.view(&key("c, d"), Some(&key("two")), Labels::default())
            .unwrap(),
    ];
    for mount in mounts.iter().flatten() {
        for option in &mount.options {
            assert!(!option.contains([',', ' ']), "{mount:?}");
        }
    }
}
