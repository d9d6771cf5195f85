//! Usage and Cleanup.

use std::fs;
use std::path::{Path, PathBuf};

use pontoon_snapshot::{LABEL_SNAPSHOT_REF, Mount, Usage};

use crate::stage::{Stage, key};
use crate::tree;

/// The directory that a snapshot writes into.
fn written(mounts: &[Mount]) -> PathBuf {
    let upper = mounts[0]
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    PathBuf::from(upper.unwrap_or(&mounts[0].source))
}

fn usage_of(stage: &Stage, name: &str) -> Usage {
    stage
        .sn()
        .usage(&key(name))
        .unwrap_or_else(|error| panic!("usage of {name}: {error}"))
}

#[track_caller]
fn assert_usage(stage: &Stage, name: &str, directory: &Path) -> Usage {
    let (size_bytes, inodes) = tree::space(directory);
    let usage = usage_of(stage, name);
    assert_eq!(usage, Usage { size_bytes, inodes }, "usage of {name}");
    usage
}

/// Writes `bytes` bytes that take their space on disk at once.
fn fill(path: PathBuf, bytes: usize) {
    fs::write(&path, vec![7; bytes]).unwrap();
    fs::File::open(&path).unwrap().sync_all().unwrap();
}

/// A snapshot takes what is in its own directory, not what is below it, before and after Commit.
pub fn usage(stage: &Stage) {
    let mounts = stage.prepare("active", "");
    let base = written(&mounts);
    let empty = assert_usage(stage, "active", &base);
    assert_eq!(empty.inodes, 1, "the root directory");
    {
        let mounted = stage.mount(&mounts);
        fill(mounted.path().join("file"), 1024 * 1024);
        fs::create_dir_all(mounted.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("file", mounted.path().join("link")).unwrap();
    }
    let full = assert_usage(stage, "active", &base);
    assert_eq!(full.inodes, 5);
    assert!(full.size_bytes >= 1024 * 1024, "{full:?}");
    stage.commit("committed", "active");
    assert_eq!(assert_usage(stage, "committed", &base), full);

    let mounts = stage.prepare("child", "committed");
    let child = written(&mounts);
    fill(stage.mount(&mounts).path().join("more"), 64 * 1024);
    let used = assert_usage(stage, "child", &child);
    assert!(used.size_bytes < 1024 * 1024, "its parent counts: {used:?}");
    stage.commit("second", "child");
    assert_eq!(assert_usage(stage, "second", &child), used);

    // Hundreds of files in many directories, on an extraction.
    let mounts = stage.prepare_with("extract", "second", &[(LABEL_SNAPSHOT_REF, "sha256:1")]);
    let layer = written(&mounts);
    for number in 0..300 {
        let directory = layer.join(format!("d{}", number % 17));
        fs::create_dir_all(&directory).unwrap();
        fill(directory.join(format!("f{number}")), number * 100);
    }
    let used = assert_usage(stage, "extract", &layer);
    assert_eq!(used.inodes, 1 + 17 + 300);
    stage.commit("third", "extract");
    assert_eq!(assert_usage(stage, "third", &layer), used);
}

/// A file with several names counts once; a sparse one counts what it has.
pub fn usage_of_hard_links(stage: &Stage) {
    let mounts = stage.prepare("active", "");
    let base = written(&mounts);
    fs::create_dir(base.join("dir")).unwrap();
    fill(base.join("file"), 100_000);
    for number in 0..5 {
        fs::hard_link(base.join("file"), base.join(format!("dir/link-{number}"))).unwrap();
    }
    fs::File::create(base.join("sparse"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let used = assert_usage(stage, "active", &base);
    assert_eq!(used.inodes, 4);
    assert!(used.size_bytes < 1024 * 1024, "{used:?}");
    stage.commit("committed", "active");
    assert_usage(stage, "committed", &base);
}

/// A view writes nothing and takes nothing.
pub fn usage_of_views(stage: &Stage) {
    stage.layer("one", "", |at| fill(at.join("file"), 100_000));
    stage.empty_layer("two", "one");
    for parent in ["", "one", "two"] {
        let name = format!("view-{parent}");
        stage.view(&name, parent);
        assert_eq!(usage_of(stage, &name), Usage::default(), "{name}");
    }
}

/// After Cleanup there is one directory for each snapshot, and none else. A view on a parent may do without.
pub fn cleanup(stage: &Stage) {
    for round in 0..3 {
        stage.layer("base", "", |at| fill(at.join("file"), 10_000));
        stage.layer("layer", "base", |at| {
            for number in 0..100 {
                fs::create_dir_all(at.join(format!("{number}/a/b/c"))).unwrap();
            }
        });
        stage.prepare("active", "layer");
        stage.view("view", "layer");
        assert_directories(stage, 3, 1);
        stage.remove("view");
        stage.remove("active");
        assert_eq!(stage.directories(), 2, "round {round}");
        stage.remove("layer");
        stage.remove("base");
        assert_eq!(stage.directories(), 0, "round {round}");
    }
    stage.sn().cleanup().unwrap();
}

/// Panics unless there is a directory for each of so many snapshots, and perhaps for the views.
fn assert_directories(stage: &Stage, snapshots: usize, views: usize) {
    let found = stage.directories();
    let expected = snapshots..=snapshots + views;
    assert!(expected.contains(&found), "{found} not in {expected:?}");
}

/// Cleanup leaves alone what is there: mounted, committed, or just prepared.
pub fn cleanup_spares_the_living(stage: &Stage) {
    stage.layer("base", "", |at| tree::file(at.join("base"), "base", 0o644));
    let mounts = stage.prepare("active", "base");
    let mounted = stage.mount(&mounts);
    tree::file(mounted.path().join("mine"), "mine", 0o644);
    let view = stage.mount(&stage.view("view", "base"));
    stage.prepare("removed", "base");
    stage.remove("removed");
    assert_directories(stage, 2, 1);
    for (at, file) in [(&mounted, "base"), (&mounted, "mine"), (&view, "base")] {
        assert_eq!(fs::read_to_string(at.path().join(file)).unwrap(), file);
    }
    tree::file(mounted.path().join("more"), "more", 0o644);
    drop(mounted);
    stage.commit("top", "active");
    assert_directories(stage, 2, 1);
    let top = stage.mount(&stage.view("top-view", "top"));
    assert_eq!(fs::read_to_string(top.path().join("more")).unwrap(), "more");
}
