use pontoon_layer::EntryKind;
use pontoon_lazyfs::Config;
use serde_json::json;

use self::fixture::{Maker, Rig, entry, find, noise, open};
use super::*;
use crate::elf::tests::file as elf_file;

#[path = "../../../lazyfs/tests/fixture.rs"]
mod fixture;

#[test]
fn a_command_is_taken_apart() {
    let start = Start::read(Some(json!({
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["exec node  /app/server.js --port=$PORT", "x;y"],
        "Env": ["A=b", "PATH=/opt/bin:/bin", "PATHOLOGY=1"],
        "WorkingDir": "/app", "User": "nobody"
    })));
    assert_eq!(start.words(), ["/bin/sh", "exec", "node", "/app/server.js"]);
    assert_eq!(start.variable("PATH"), Some("/opt/bin:/bin"));
    assert_eq!(start.variable("HOME"), None);
}

#[test]
fn what_is_no_configuration_says_nothing() {
    for config in [
        None,
        Some(json!(7)),
        Some(json!({"Cmd": "text"})),
        Some(json!({"Cmd": null})),
    ] {
        assert_eq!(Start::read(config).words(), [""; 0]);
    }
    let endless = json!({"Cmd": vec!["a"; 10_000]});
    assert_eq!(Start::read(Some(endless)).words().len(), WORDS_MAX);
}

/// Fetches no more than is asked for.
fn exact() -> Config {
    fixture::exact()
}

fn link(maker: &mut Maker, path: &str, target: &'static str) {
    let target = target.as_bytes();
    maker.add(path, entry(EntryKind::Symlink(target), 0o777));
}

/// A distribution: its `/lib` is a link, as are its loader and the command.
fn base() -> Maker {
    let mut maker = Maker::new();
    let loader = elf_file("", &[], "");
    let shell = elf_file("/lib64/ld.so.2", &["libc.so.6"], "");
    maker.file("usr/bin/aaa", 0o755, &noise(1, 50_000), 10_000);
    maker.file("usr/bin/sh", 0o755, &shell, 10_000);
    maker.file("usr/lib/x86_64-linux-gnu/ld-2.so", 0o755, &loader, 10_000);
    maker.file(
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        0o755,
        &elf_file("", &[], ""),
        10_000,
    );
    maker.file(
        "usr/lib/x86_64-linux-gnu/libz.so.1",
        0o755,
        &noise(2, 50_000),
        10_000,
    );
    link(&mut maker, "lib", "usr/lib");
    link(&mut maker, "lib64", "lib/x86_64-linux-gnu");
    link(&mut maker, "bin", "usr/bin");
    link(&mut maker, "usr/lib/x86_64-linux-gnu/ld.so.2", "./ld-2.so");
    maker.file("opt/own/other.so", 0o755, b"hidden", 10_000);
    maker.file("opt/gone", 0o755, b"#!/usr/bin/aaa\n", 10_000);
    maker
}

/// What was built on it: a script that starts a program with libraries of its own.
fn top() -> Maker {
    let mut maker = Maker::new();
    let main = elf_file("/lib64/ld.so.2", &["libown.so"], "$ORIGIN/../own");
    let own = elf_file("", &["other.so", "libc.so.6", "absent.so"], "/opt/own");
    maker.file(
        "app/entry.sh",
        0o755,
        b"#!/usr/bin/env sh\nexec main\n",
        10_000,
    );
    maker.file("app/beside", 0o644, b"beside", 10_000);
    maker.file("app/large", 0o644, &noise(3, 100_000), 10_000);
    maker.file("opt/bin/main", 0o755, &main, 10_000);
    maker.file("opt/own/libown.so", 0o644, &own, 10_000);
    maker.file("opt/own/other.so", 0o644, b"mine", 10_000);
    let whiteout = EntryKind::CharDevice { major: 0, minor: 0 };
    maker.add("opt/gone", entry(whiteout, 0));
    maker
}

/// Whether the file is here.
fn is_here(layer: &Arc<pontoon_lazyfs::LazyLayer>, path: &str) -> bool {
    let inode = layer.tree().inode(find(layer, path)).unwrap();
    let range = inode.data_offset..inode.data_offset + inode.size;
    let chunks = layer.cached().chunks().find(range);
    chunks.clone().all(|chunk| layer.cached().is_ready(chunk))
}

#[test]
fn what_a_start_leads_to_is_fetched_and_nothing_else() {
    let rig = Rig::new(exact(), top());
    let directory = tempfile::tempdir().unwrap();
    let below = open(&rig.engine, &rig.cache, directory.path(), &base().make());
    let merged = Merged::new(vec![rig.layer.clone(), below.clone()]);
    let start = Start::read(Some(json!({
        "Entrypoint": ["/app/entry.sh"],
        "Cmd": ["main", "/opt/gone", "--", "nowhere"],
        "Env": ["PATH=/opt/bin:/bin"],
    })));
    rig.runtime.block_on(Teller::new(merged, start).tell());
    let needed = [
        (&rig.layer, "app/entry.sh"),
        (&rig.layer, "app/beside"),
        (&rig.layer, "opt/bin/main"),
        (&rig.layer, "opt/own/libown.so"),
        (&rig.layer, "opt/own/other.so"),
        (&below, "usr/bin/sh"),
        (&below, "usr/lib/x86_64-linux-gnu/ld-2.so"),
        (&below, "usr/lib/x86_64-linux-gnu/libc.so.6"),
    ];
    fixture::wait_until("what is needed is here", || {
        needed.iter().all(|(layer, path)| is_here(layer, path))
    });
    for (layer, path) in [
        (&rig.layer, "app/large"),
        (&below, "usr/bin/aaa"),
        (&below, "usr/lib/x86_64-linux-gnu/libz.so.1"),
        (&below, "opt/own/other.so"),
        (&below, "opt/gone"),
    ] {
        assert!(!is_here(layer, path), "{path}");
    }
    // Looking is no use.
    assert!(rig.layer.accesses().is_empty());
}

#[test]
fn links_without_end_lead_nowhere() {
    let mut maker = Maker::new();
    link(&mut maker, "a", "b");
    link(&mut maker, "b", "a");
    link(&mut maker, "deep", "deep/deep");
    maker.file("file", 0o755, b"x", 10);
    link(&mut maker, "up", "../../../file");
    let rig = Rig::new(exact(), maker);
    let merged = Merged::new(vec![rig.layer.clone()]);
    for path in ["a", "/b", "deep", "file/x", "/", "", "..", "absent"] {
        assert!(merged.find(b"/", path.as_bytes()).is_none(), "{path}");
    }
    let long = "./".repeat(10_000) + "file";
    for path in ["file", "/./file", "up", "../up", &long] {
        assert!(merged.find(b"/none", b"/file").is_some());
        assert!(merged.find(b"/", path.as_bytes()).is_some(), "{path}");
    }
}
