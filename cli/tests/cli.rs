//! The pontoon command as its users call it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod convert;
mod documents;
mod scripted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use pontoon_overlay::{Engine, NoLayers, Options};
use pontoon_snapshot::{Key, Keyspaces, Labels, SnapshotterName};

fn pontoon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pontoon"))
        .args(arguments)
        .output()
        .unwrap()
}

fn fsck(root: &Path, more: &[&str]) -> (i32, String) {
    let mut arguments = vec!["fsck", "--root", root.to_str().unwrap()];
    arguments.extend(more);
    let output = pontoon(&arguments);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

fn open(root: &Path) -> Arc<Engine> {
    Engine::open(root, Options::default(), Arc::new(NoLayers)).unwrap()
}

/// A root with a committed and an active snapshot, and the directory of the active one.
fn root(place: &Path) -> (PathBuf, PathBuf) {
    let root = place.join("root");
    let engine = open(&root);
    let keyspace = engine.open(&SnapshotterName::new("test").unwrap()).unwrap();
    let key = |text: &str| Key::new(text).unwrap();
    keyspace
        .prepare(&key("extract"), None, Labels::default())
        .unwrap();
    keyspace
        .commit(&key("layer"), &key("extract"), None, Labels::default())
        .unwrap();
    let mounts = keyspace
        .prepare(&key("container"), Some(&key("layer")), Labels::default())
        .unwrap();
    let options = mounts[0].options.iter();
    let upper = options
        .filter_map(|option| option.strip_prefix("upperdir="))
        .next()
        .unwrap();
    let directory = Path::new(upper).parent().unwrap().to_owned();
    engine.close();
    (root, directory)
}

#[test]
fn a_root_without_fault_is_left_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let (root, _) = root(place.path());
    for arguments in [&[][..], &["--repair"]] {
        let (code, said) = fsck(&root, arguments);
        assert_eq!(
            (code, said.as_str()),
            (0, "2 snapshots, 0 findings, 0 repaired\n")
        );
    }
}

#[test]
fn what_is_wrong_is_said_and_then_repaired() {
    let place = tempfile::tempdir().unwrap();
    let (root, directory) = root(place.path());
    fs::remove_dir_all(&directory).unwrap();
    let orphan = directory.with_file_name("4711");
    fs::create_dir_all(orphan.join("fs")).unwrap();
    let (code, said) = fsck(&root, &[]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("repairable: "), "{said}");
    assert!(
        said.ends_with("2 snapshots, 2 findings, 0 repaired; --repair would repair 2\n"),
        "{said}"
    );
    assert!(
        orphan.exists() && !directory.exists(),
        "a check changes nothing"
    );
    let (code, said) = fsck(&root, &["--repair", "--json"]);
    assert_eq!(code, 1, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["snapshots"], 2);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 2);
    assert!(
        findings.iter().all(|finding| finding["repaired"] == true),
        "{said}"
    );
    assert!(!orphan.exists() && directory.join("fs").is_dir());
    assert_eq!(fsck(&root, &[]).0, 0);
}

#[test]
fn a_root_that_cannot_be_checked_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let (root, _) = root(place.path());
    let engine = open(&root);
    let (code, said) = fsck(&root, &["--repair"]);
    assert_eq!(code, 8, "{said}");
    assert!(
        said.contains(&std::process::id().to_string()),
        "names who uses it: {said}"
    );
    engine.close();
    let mistyped = place.path().join("rooot");
    let (code, said) = fsck(&mistyped, &[]);
    assert_eq!(code, 8, "{said}");
    assert!(
        said.contains("is no directory; give the daemon's root"),
        "{said}"
    );
    assert!(!mistyped.exists());
}

#[test]
fn the_command_line_is_checked() {
    for wrong in [
        &["fsck"][..],
        &[],
        &["fsck", "--root"],
        &["fsk", "--root", "/"],
    ] {
        assert_eq!(pontoon(wrong).status.code(), Some(64), "{wrong:?}");
    }
    let version = pontoon(&["--version"]);
    assert_eq!(
        version.stdout,
        format!("pontoon {}\n", env!("CARGO_PKG_VERSION")).as_bytes()
    );
    let help = String::from_utf8(pontoon(&["fsck", "--help"]).stdout).unwrap();
    assert!(help.contains("Exit codes:"), "{help}");
}
