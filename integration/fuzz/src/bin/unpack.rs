//! A layer that is unpacked: either bytes as they are in a blob, or a script whose lines become entries, which gets
//! further. Beside the directory and above it there are files that nothing may touch.
#![no_main]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::{script, sealed};
use pontoon_unpack::{Limits, Options, unpack};

/// In memory, and so short that a script can name it.
const ROOT: &str = "/dev/shm/fz";

/// What is known of everything outside of the directory: any change of it changes one of the times.
type Outside = Vec<(PathBuf, u64, i64, i64)>;

static BEFORE: LazyLock<Outside> = LazyLock::new(|| {
    let _ = fs::remove_dir_all(ROOT);
    let made = fs::create_dir_all(target()).and_then(|()| {
        for directory in ["", "a", "a/b", "etc"] {
            let directory = Path::new(ROOT).join(directory);
            fs::create_dir_all(&directory)?;
            fs::write(directory.join("passwd"), "precious")?;
        }
        Ok(())
    });
    made.expect("there is memory");
    outside()
});

fn target() -> PathBuf {
    Path::new(ROOT).join("a/b/target")
}

fn outside() -> Outside {
    let mut all = Vec::new();
    let mut open = vec![PathBuf::from(ROOT)];
    while let Some(path) = open.pop() {
        let facts = fs::symlink_metadata(&path).expect("what was there is there");
        all.push((path.clone(), facts.ino(), facts.ctime(), facts.ctime_nsec()));
        if facts.is_dir() && path != target() {
            let entries = fs::read_dir(&path).expect("a directory can be read");
            open.extend(entries.map(|entry| entry.expect("so can its entries").path()));
        }
    }
    // The directory's own times are not promised.
    all.retain(|(path, ..)| *path != target());
    all.sort();
    all
}

fuzz_target!(|bytes: &[u8]| {
    let before = &*BEFORE;
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let blob = match kind {
        b's' => script(rest),
        _ => sealed(rest),
    };
    let options = Options {
        limits: Limits {
            archive_bytes_max: 1 << 20,
            inodes_max: 2000,
            path_bytes_max: 256,
            extension_bytes_max: 16 << 10,
            memory_bytes_max: 1 << 20,
        },
        ..Options::new()
    };
    let unpacked = unpack(&blob[..], &target(), &options);
    assert_eq!(&outside(), before);
    let inside = empty(&target());
    if let Ok(unpacked) = unpacked {
        assert_eq!(unpacked.inodes, inside);
        assert_eq!(unpacked.blob_bytes, blob.len() as u64);
    }
});

/// Removes what is in a directory. How many inodes that were.
fn empty(directory: &Path) -> u64 {
    let mut inodes = 0;
    for entry in fs::read_dir(directory).expect("a directory can be read") {
        let path = entry.expect("so can its entries").path();
        let facts = fs::symlink_metadata(&path).expect("it is there");
        if facts.is_dir() {
            inodes += 1 + empty(&path);
            fs::remove_dir(&path).expect("it is empty");
        } else {
            inodes += u64::from(facts.nlink() == 1);
            fs::remove_file(&path).expect("root may");
        }
    }
    inodes
}
