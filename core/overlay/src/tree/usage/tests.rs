use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// What du(1) says.
fn du(path: &Path) -> Usage {
    let run = |options: &[&str]| -> u64 {
        let output = Command::new("du").args(options).arg(path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    Usage {
        size_bytes: run(&["-s", "--block-size=1"]),
        inodes: run(&["-s", "--inodes"]),
    }
}

#[test]
fn as_du_counts() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert_eq!(usage(root, Cancel::never()).unwrap(), du(root));
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(root.join("a/file"), root.join("a/b/again")).unwrap();
    fs::hard_link(root.join("a/file"), root.join("once-more")).unwrap();
    fs::write(root.join("a/b/c/small"), "x").unwrap();
    symlink("/etc", root.join("a/link")).unwrap();
    fs::File::create(root.join("sparse"))
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    for file in 0..500 {
        fs::write(root.join(format!("a/b/{file}")), "data").unwrap();
    }
    let measured = usage(root, Cancel::never()).unwrap();
    assert_eq!(measured, du(root));
    assert_eq!(measured.inodes, 1 + 3 + 3 + 1 + 500);
    assert!(measured.size_bytes > 100_000 && measured.size_bytes < 1 << 30);
}

#[test]
fn a_tree_deeper_than_a_path_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    crate::tree::remove::tests::make_deep(&tree, 3000);
    assert_eq!(usage(&tree, Cancel::never()).unwrap().inodes, 1 + 2 * 3000);
    let parent = rustix::fs::openat(CWD, dir.path(), OPEN, Mode::empty()).unwrap();
    crate::tree::remove(parent.as_fd(), "tree", Cancel::never()).unwrap();
}

#[test]
fn what_changes_meanwhile_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let (one, other) = (root.join("one"), root.join("other"));
    fs::create_dir_all(&one).unwrap();
    fs::create_dir_all(&other).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::create_dir_all(one.join("x/y/z")).unwrap();
                fs::write(one.join("x/y/file"), "data").unwrap();
                fs::rename(one.join("x/y"), other.join("y")).unwrap();
                fs::remove_dir_all(other.join("y")).unwrap();
            }
        });
        let measured: Vec<_> = (0..500).map(|_| usage(&root, Cancel::never())).collect();
        stop.store(true, Ordering::Relaxed);
        for answer in measured {
            match answer {
                Ok(usage) => assert!((3..10).contains(&usage.inodes), "{usage:?}"),
                // Never quiet in all attempts; the caller is told.
                Err(error) => assert!(moved(&error), "{error:?}"),
            }
        }
    });
}

#[test]
fn no_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = usage(&dir.path().join("missing"), Cancel::never()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_cancelled_measurement_ends() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = Cancel::default();
    cancel.set();
    let error = usage(dir.path(), &cancel).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
}
