//! How containerd's unpacker works: `snapshot.ref`, one overlay mount, and Commit with a parent.

use std::fs;
use std::path::{Path, PathBuf};

use pontoon_snapshot::{Class, LABEL_SNAPSHOT_REF, Labels, Mount};
use rustix::fs::FileType;

use crate::stage::{Stage, key, refused};
use crate::tree;

/// Where containerd's applier writes: straight into the upper directory of the one overlay mount.
fn upper(mounts: &[Mount]) -> PathBuf {
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    let upper = mounts[0]
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    PathBuf::from(upper.unwrap_or(&mounts[0].source))
}

/// With or without a parent, an extraction is one overlay mount, so that whiteouts are written as such.
pub fn a_layer_is_one_overlay_mount(stage: &Stage) {
    let reference = |digest| [(LABEL_SNAPSHOT_REF, digest)];
    let first = stage.prepare_with("extract-1", "", &reference("sha256:1"));
    assert_eq!(first.len(), 1);
    if stage
        .differs("a bind mount; the unpacker rewrites it for the name overlayfs, and only for that")
    {
        assert_eq!(first[0].fs_type, "bind");
    } else {
        assert_eq!(first[0].fs_type, "overlay");
        tree::file(stage.mount(&first).path().join("file"), "written", 0o644);
        let written = fs::read_to_string(upper(&first).join("file")).unwrap();
        assert_eq!(
            written, "written",
            "the mount and its upper directory are one"
        );
    }
    assert_eq!(stage.sn().mounts(&key("extract-1")).unwrap(), first);
    stage.commit("layer-1", "extract-1");

    let second = stage.prepare_with("extract-2", "layer-1", &reference("sha256:2"));
    assert_eq!((second.len(), second[0].fs_type.as_str()), (1, "overlay"));
    assert_eq!(stage.sn().mounts(&key("extract-2")).unwrap(), second);
}

/// The filter by which containerd looks for a layer that the snapshotter says it has.
pub fn a_layer_is_found_by_its_reference(stage: &Stage) {
    let chain = [(LABEL_SNAPSHOT_REF, "sha256:aa")];
    stage.prepare_with("default/1/extract-1 sha256:aa", "", &chain);
    let filter = "labels.\"containerd.io/snapshot.ref\"==sha256:aa,parent==\"\"";
    assert_eq!(stage.found(&[filter]), ["default/1/extract-1 sha256:aa"]);
    stage.commit_with(
        "default/2/sha256:aa",
        "default/1/extract-1 sha256:aa",
        "",
        &chain,
    );
    assert_eq!(stage.found(&[filter]), ["default/2/sha256:aa"]);

    // Without a provider of layers nothing is ever there before it was unpacked, not even this.
    stage.prepare_with("default/3/extract-2 sha256:aa", "", &chain);
    let other = [(LABEL_SNAPSHOT_REF, "sha256:bb")];
    stage.prepare_with(
        "default/4/extract-3 sha256:bb",
        "default/2/sha256:aa",
        &other,
    );
    stage.commit_with(
        "default/5/sha256:bb",
        "default/4/extract-3 sha256:bb",
        "",
        &other,
    );
    let filter = "labels.\"containerd.io/snapshot.ref\"==sha256:bb,parent==\"default/2/sha256:aa\"";
    assert_eq!(stage.found(&[filter]), ["default/5/sha256:bb"]);
    assert!(stage.found(&[&filter.replace("2/", "7/")]).is_empty());
}

/// Layers unpacked side by side, each without its parent, and committed in order on top of each other.
pub fn rebase(stage: &Stage) {
    let names = ["one", "two", "three"];
    let extracts = names.map(|name| {
        let mounts = stage.prepare_with(
            &format!("extract-{name}"),
            "",
            &[(LABEL_SNAPSHOT_REF, name)],
        );
        tree::file(upper(&mounts).join(name), name, 0o644);
        tree::file(upper(&mounts).join("last"), name, 0o644);
        mounts
    });
    let mut parent = "";
    for name in names {
        stage.commit_with(name, &format!("extract-{name}"), parent, &[]);
        let wanted = (!parent.is_empty()).then(|| key(parent));
        assert_eq!(stage.stat(name).parent, wanted);
        parent = name;
    }
    drop(extracts);
    let container = stage.mount(&stage.prepare("container", "three"));
    for (file, content) in [
        ("one", "one"),
        ("two", "two"),
        ("three", "three"),
        ("last", "three"),
    ] {
        assert_eq!(
            fs::read_to_string(container.path().join(file)).unwrap(),
            content
        );
    }
    drop(container);
    refused(stage.sn().remove(&key("two")), Class::FailedPrecondition);
    for name in ["container", "three", "two", "one"] {
        stage.remove(name);
    }
}

/// What a layer without its parent deletes is deleted when it is committed on that parent.
pub fn rebase_keeps_whiteouts(stage: &Stage) {
    stage.layer("base", "", |at| {
        tree::file(at.join("deleted"), "", 0o644);
        tree::file(at.join("kept"), "", 0o644);
        tree::dir(at.join("replaced"), 0o755);
        tree::file(at.join("replaced/old"), "", 0o644);
    });
    let mounts = stage.prepare_with("extract", "", &[(LABEL_SNAPSHOT_REF, "sha256:1")]);
    let upper = upper(&mounts);
    // As containerd's applier: a whiteout is a character device 0:0, an opaque directory has an attribute.
    tree::node(upper.join("deleted"), FileType::CharacterDevice, 0);
    tree::dir(upper.join("replaced"), 0o755);
    tree::xattr(upper.join("replaced"), "trusted.overlay.opaque", b"y");
    tree::file(upper.join("replaced/new"), "", 0o644);
    stage.commit_with("top", "extract", "base", &[]);
    let found = |at: &Path| {
        let mut files: Vec<_> = tree::read(at).into_keys().collect();
        files.retain(|path| !path.as_os_str().is_empty());
        files
    };
    let wanted = ["kept", "replaced", "replaced/new"].map(PathBuf::from);
    assert_eq!(
        found(stage.mount(&stage.view("view", "top")).path()),
        wanted
    );
    assert_eq!(
        found(stage.mount(&stage.prepare("active", "top")).path()),
        wanted
    );
}

/// Whom a Commit can name as parent.
pub fn rebase_errors(stage: &Stage) {
    stage.empty_layer("base", "");
    stage.empty_layer("other", "");
    stage.prepare("active", "");
    stage.view("view", "base");
    stage.prepare("child", "base");
    let commit = |of: &str, parent: &str| {
        stage.sn().commit(
            &key("name"),
            &key(of),
            Some(&key(parent)),
            Labels::default(),
        )
    };
    refused(commit("active", "nothing"), Class::NotFound);
    refused(commit("active", "view"), Class::FailedPrecondition);
    refused(commit("active", "child"), Class::FailedPrecondition);
    refused(commit("child", "other"), Class::Invalid);
    refused(commit("child", "nothing"), Class::Invalid);
    assert_eq!(stage.found(&["kind==committed"]), ["base", "other"]);
    commit("child", "base").unwrap();
    assert_eq!(stage.stat("name").parent, Some(key("base")));
}
