//! What erofs-utils say of our images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pontoon_layer::EntryKind;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};

use crate::kernel::mount_is;
use crate::round_trip::{steps, tree};
use crate::sample::{Draft, Sample, entry, everything};
use crate::site::{Files, Site};

/// The versions of a program of erofs-utils that are there: the machine's, and the one that `cargo xtask test` extracts
/// into the checkout. At least one.
fn versions(program: &str) -> Vec<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap();
    let search = std::env::var_os("PATH").unwrap_or_default();
    let machine = std::env::split_paths(&search).find(|dir| dir.join(program).is_file());
    let extracted = checkout.join("target/rig/debian-forky");
    let found = machine
        .into_iter()
        .chain([extracted])
        .map(|dir| dir.join(program));
    let found: Vec<PathBuf> = found.filter(|path| path.is_file()).collect();
    assert!(
        !found.is_empty(),
        "{program} is missing: `apt-get install erofs-utils`, or run `cargo xtask test`, which brings its own"
    );
    found
}

/// What a program of erofs-utils says of an image, in each version.
fn ask(program: &str, arguments: &[&str], files: &Files) -> Vec<String> {
    let device = format!("--device={}", files.data.display());
    let answers = versions(program).into_iter().map(|program| {
        let mut command = Command::new(program);
        command.args(arguments).arg(&device).arg(&files.image);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{command:?}: {said}");
        said
    });
    answers.collect()
}

fn fsck(files: &Files) {
    for said in ask("fsck.erofs", &["-d3"], files) {
        assert!(said.contains("No errors found"), "{said}");
        assert!(!said.contains("<W>") && !said.contains("<E>"), "{said}");
    }
}

fn check(sample: &Sample) {
    let site = Site::new();
    fsck(&site.store("image", sample));
}

#[test]
fn fsck_finds_no_error() {
    check(&everything());
    check(&Draft::new().done());
}

#[test]
fn fsck_takes_large_directories_and_files() {
    let mut draft = Draft::new();
    for number in 0..20_000 {
        draft.add(format!("dir/{number}"), entry(EntryKind::Fifo));
    }
    draft.file(
        "large",
        (9 << 30) + 5,
        entry(EntryKind::File { data_offset: 0 }),
    );
    check(&draft.done());
}

/// Whatever number of inodes ends a block.
#[test]
fn fsck_takes_images_of_every_length() {
    let mut draft = Draft::new();
    for number in 0..300 {
        draft.add(format!("{number}"), entry(EntryKind::Fifo));
        if number % 3 == 0 {
            let mut again = Draft::new();
            for number in 0..=number {
                again.add(format!("{number}"), entry(EntryKind::Fifo));
            }
            check(&again.done());
        }
    }
    check(&draft.done());
}

#[test]
fn dump_shows_what_was_written() {
    let site = Site::new();
    let sample = everything();
    let files = site.store("image", &sample);
    let inodes = sample.tree.len().to_string();
    for said in ask("dump.erofs", &["-s"], &files) {
        for expected in ["sb_csum", "mtime", "chunked_file", "device_table"] {
            assert!(said.contains(expected), "{expected} in {said}");
        }
        let line = said
            .lines()
            .find(|line| line.starts_with("Filesystem inode count:"));
        assert!(line.unwrap().ends_with(&inodes), "{said}");
    }
    for said in ask("dump.erofs", &["-e", "--path=/bin/su"], &files) {
        for expected in [
            "Links: 3",
            "Uid: 1 ",
            "Size: 100000",
            "2023-11-14 22:13:20.123456789",
        ] {
            assert!(said.contains(expected), "{expected} in {said}");
        }
        let extents = said.lines().filter(|line| line.contains("device 1"));
        assert_eq!(extents.count(), 1, "{said}");
    }
}

/// It reads the data through the chunk indexes.
#[test]
fn fsck_extracts_the_files() {
    let site = Site::new();
    let mut draft = Draft::new();
    for size in [0, 1, 4096, 100_000] {
        let file = entry(EntryKind::File { data_offset: 0 });
        draft.file(format!("dir/{size}"), size, file);
    }
    draft.add("dir/link", entry(EntryKind::Symlink(b"0")));
    let files = site.store("image", &draft.done());
    let (image, data) = (files.map(), fs::read(&files.data).unwrap());
    let dir = image.lookup(image.root(), b"dir").unwrap().unwrap();
    let target = site.dir("extracted");
    let extract = format!("--extract={}", target.display());
    ask("fsck.erofs", &[&extract, "--overwrite"], &files);
    for size in ["0", "1", "4096", "100000"] {
        let nid = image.lookup(dir, size.as_bytes()).unwrap().unwrap();
        let inode = image.inode(nid).unwrap();
        let start = inode.data_offset as usize;
        let content = fs::read(target.join("dir").join(size)).unwrap();
        assert!(
            content[..] == data[start..start + inode.size as usize],
            "{size}"
        );
    }
    assert_eq!(
        fs::read_link(target.join("dir/link")).unwrap(),
        Path::new("0")
    );
}

/// Of both sides, whatever tree it is: what fsck and the kernel say.
#[test]
fn any_tree_is_mounted_as_it_was_written() {
    let cases = if std::env::var_os("PONTOON_FULL").is_some() {
        200
    } else {
        20
    };
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&steps(), |steps| {
        let site = Site::new();
        let sample = tree(&steps);
        let files = site.store("image", &sample);
        fsck(&files);
        mount_is(&site.mount("root", &files), &sample, &files);
        Ok(())
    });
    result.unwrap();
}
