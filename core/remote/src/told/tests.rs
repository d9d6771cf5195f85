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
    let long = "./".repeat(2_000) + "file";
    let longer = "./".repeat(2_100) + "file";
    assert!(merged.find(b"/", longer.as_bytes()).is_none());
    for path in ["file", "/./file", "up", "../up", &long] {
        assert!(merged.find(b"/none", b"/file").is_some());
        assert!(merged.find(b"/", path.as_bytes()).is_some(), "{path}");
    }
}

/// Does `work` on a thread of its own, and answers what comes of it if that is soon.
fn soon<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    let patience = Duration::from_secs(60);
    receiver
        .recv_timeout(patience)
        .expect("it keeps a thread busy")
}

#[test]
fn an_image_that_wants_millions_of_lookups_keeps_no_thread_busy() {
    let names: Vec<String> = (0..256).map(|name| format!("lib{name}.so")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut maker = Maker::new();
    maker.file("bin/main", 0o755, &elf_file("", &names, ""), 100_000);
    for name in 0..100 {
        let content = format!("#!/bin/{} x y z\n", name + 1);
        maker.file(&format!("bin/{name}"), 0o755, content.as_bytes(), 10_000);
    }
    let rig = Rig::new(exact(), maker);
    // An image's configuration may have 8 MiB.
    let start = Start::read(Some(json!({
        "Entrypoint": ["main"],
        "Cmd": (0..WORDS_MAX).map(|word| format!("{word}")).collect::<Vec<_>>(),
        "WorkingDir": "/none/".repeat(100_000),
        "Env": [
            format!("PATH={}/bin", "/a/b/c:".repeat(60)),
            format!("LD_LIBRARY_PATH={}", "/a/b/c:".repeat(500_000)),
        ],
    })));
    let merged = Merged::new(vec![rig.layer.clone()]);
    let handle = rig.runtime.handle().clone();
    soon(move || handle.block_on(Teller::new(merged, start).tell()));
}

#[test]
fn places_that_name_their_own_directory_take_little_memory() {
    let deep = vec!["d".repeat(200); 18].join("/");
    let origins = "$ORIGIN".repeat(500);
    let mut maker = Maker::new();
    let names: Vec<String> = (0..200).map(|name| format!("lib{name}.so")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let main = format!("{deep}/main");
    maker.file(&main, 0o755, &elf_file("", &names, &origins), 100_000);
    for name in &names {
        let library = elf_file("", &[], &origins);
        maker.file(&format!("lib/{name}"), 0o644, &library, 10_000);
    }
    let rig = Rig::new(exact(), maker);
    let merged = Merged::new(vec![rig.layer.clone()]);
    let start = Start::read(Some(json!({ "Entrypoint": [format!("/{main}")] })));
    let mut teller = Teller::new(merged, start);
    let found = teller.command(&format!("/{main}")).unwrap();
    let places = Places::default();
    let look = teller.look_at(&found, &places);
    rig.runtime.block_on(look).unwrap();
    assert_eq!(teller.programs.len(), names.len());
    let mut shared: Vec<_> = teller.programs.iter().map(|(_, places)| places).collect();
    shared.dedup_by(|one, other| Arc::ptr_eq(one, other));
    let bytes: usize = shared
        .iter()
        .flat_map(|places| places.iter())
        .map(Vec::len)
        .sum();
    assert!(bytes <= PLACES_BYTES_MAX, "{bytes} bytes");
    // What is short enough is looked at.
    assert_eq!(self::origins(b"$ORIGIN/../lib:/x", &found).len(), 2);
}

#[test]
fn many_scripts_have_no_more_fetched_than_is_worth_it() {
    let mut maker = Maker::new();
    let numbers = 0..40;
    let names: Vec<String> = numbers
        .clone()
        .map(|name| format!("lib{name}.so"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    maker.file("main", 0o755, &elf_file("", &names, ""), 10_000);
    for (directory, name) in names.iter().enumerate() {
        maker.file(&format!("{directory}/{name}"), 0o755, b"#!none\n", 10_000);
        for file in 0..200 {
            let path = format!("{directory}/{file:03}");
            maker.file(&path, 0o644, &noise(file, 10), 10_000);
        }
    }
    let rig = Rig::new(exact(), maker);
    let merged = Merged::new(vec![rig.layer.clone()]);
    let places: Vec<String> = numbers.map(|place| format!("/{place}")).collect();
    let start = Start::read(Some(json!({
        "Entrypoint": ["/main"],
        "Env": [format!("LD_LIBRARY_PATH={}", places.join(":"))],
    })));
    let mut teller = Teller::new(merged, start);
    rig.runtime.block_on(teller.look_at_all());
    let most = FILES_MAX + (BESIDE_ALL_BYTES_MAX / BLOCK_BYTES) as usize;
    assert!(teller.seen.len() > names.len(), "some come");
    assert!(teller.seen.len() <= most, "{} files", teller.seen.len());
}
