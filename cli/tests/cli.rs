//! The pontoon command as its users call it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod convert;
mod documents;
mod optimize;
mod scripted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use pontoon_cache::{Cache, Config, Meta, Put};
use pontoon_layer::{Algorithm, Chunk, ChunkTable, Compression, Digest, Verified};
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

/// A cache with one layer of three chunks; the file with their bytes.
fn cache(root: &Path) -> PathBuf {
    fs::create_dir_all(root.join("lazy")).unwrap();
    let directory = root.join(pontoon_remote::CACHE);
    let contents: Vec<Vec<u8>> = (1..4).map(|byte| vec![byte; 5000]).collect();
    let chunks = contents.iter().zip(0..).map(|(content, index)| Chunk {
        data_offset: index * 8192,
        length: 5000,
        blob_length: 5000,
        blob_offset: index * 5000,
        inner_offset: 0,
        compression: Compression::Gzip,
        algorithm: Algorithm::Sha256,
        digest: *Digest::of(content).as_sha256().unwrap(),
    });
    let table = ChunkTable::new(Compression::Gzip, 2 * 8192 + 5000, chunks.collect()).unwrap();
    let key = pontoon_cache::Key::new(Digest::of(b"blob"), Digest::of(b"table of contents"));
    let cache = Cache::open(&directory, Config::default()).unwrap();
    let layer = cache.create(&key, &table, Meta::default()).unwrap();
    for (index, content) in contents.iter().enumerate() {
        let verified = Verified::check(content, &Digest::of(content)).unwrap();
        assert_eq!(layer.put(index, verified), Put::Stored);
    }
    drop((layer, cache));
    let mut layers = fs::read_dir(directory.join("sha256")).unwrap();
    layers.next().unwrap().unwrap().path().join("data")
}

#[test]
fn a_scrub_drops_what_the_disk_has_changed() {
    let place = tempfile::tempdir().unwrap();
    let (root, _) = root(place.path());
    let last = |said: &str| said.lines().last().unwrap().to_owned();
    let (code, said) = fsck(&root, &["--scrub"]);
    let nothing =
        "0 cached layers, 0 chunks and 0 bytes verified, 0 chunks dropped, 0 layers removed";
    assert_eq!((code, last(&said).as_str()), (0, nothing));
    assert!(!root.join("lazy").exists(), "a check makes nothing");

    let data = cache(&root);
    let whole =
        "1 cached layers, 3 chunks and 15000 bytes verified, 0 chunks dropped, 0 layers removed";
    let (code, said) = fsck(&root, &["--scrub"]);
    assert_eq!((code, last(&said).as_str()), (0, whole));
    let mut bytes = fs::read(&data).unwrap();
    bytes[8192 + 100] ^= 1;
    fs::write(&data, bytes).unwrap();
    assert_eq!(fsck(&root, &[]).0, 0, "only who asks for it waits for it");
    let (code, said) = fsck(&root, &["--scrub", "--json"]);
    assert_eq!(code, 1, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let found = serde_json::json!({
        "layers": 1,
        "verified_chunks": 2,
        "verified_bytes": 10_000,
        "dropped_chunks": 1,
        "removed_layers": 0,
        "failed_layers": 0,
    });
    assert_eq!(report["cache"], found);
    let (code, said) = fsck(&root, &["--scrub"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("2 chunks and 10000 bytes verified"), "{said}");
}

#[test]
fn a_cache_in_use_is_not_scrubbed() {
    let place = tempfile::tempdir().unwrap();
    let (root, _) = root(place.path());
    cache(&root);
    let used = Cache::open(&root.join(pontoon_remote::CACHE), Config::default()).unwrap();
    let (code, said) = fsck(&root, &["--scrub"]);
    assert_eq!(code, 8, "{said}");
    assert!(said.contains("stop what uses it"), "{said}");
    drop(used);
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
