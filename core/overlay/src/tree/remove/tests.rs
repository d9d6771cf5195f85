use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::mount::UnmountFlags;

use super::*;
use crate::tree::OPEN;

/// Removes `path` as the engine does, by its name in the directory above.
fn remove_path(path: &Path) -> io::Result<()> {
    let parent = rustix::fs::openat(CWD, path.parent().unwrap(), OPEN, Mode::empty())?;
    let name = path.file_name().unwrap().to_str().unwrap();
    remove(parent.as_fd(), name, Cancel::never())
}

/// `levels` directories in each other, deeper than any path may be long, each with a file.
pub(crate) fn make_deep(root: &Path, levels: usize) {
    let mut current = rustix::fs::openat(CWD, root, OPEN, Mode::empty()).unwrap();
    for _ in 0..levels {
        rustix::fs::mkdirat(&current, "d", Mode::from(0o755)).unwrap();
        current = rustix::fs::openat(&current, "d", OPEN, Mode::empty()).unwrap();
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&current, "f", flags, Mode::from(0o644)).unwrap();
    }
}

#[test]
fn what_links_point_to_stays() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "x").unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    symlink(&outside, tree.join("a/to-directory")).unwrap();
    symlink(outside.join("file"), tree.join("a/b/to-file")).unwrap();
    fs::hard_link(outside.join("file"), tree.join("linked")).unwrap();
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o0)).unwrap();
    remove_path(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"x");

    // A link in place of the tree goes itself.
    symlink(&outside, &tree).unwrap();
    remove_path(&tree).unwrap();
    assert!(fs::symlink_metadata(&tree).is_err());
    assert!(outside.join("file").exists());
    remove_path(&tree).unwrap();
}

#[test]
fn neither_depth_nor_width_matters() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("wide/moved-0")).unwrap();
    // Taken names, should deep directories be moved up.
    fs::write(tree.join("moved-1"), "").unwrap();
    fs::create_dir_all(tree.join("moved-2/in-it")).unwrap();
    make_deep(&tree, 3000);
    for file in 0..3000 {
        fs::write(tree.join(format!("wide/{file}")), "").unwrap();
    }
    remove_path(&tree).unwrap();
    assert!(!tree.exists());
}

/// Unmounts also when the test fails.
struct Bind<'a>(&'a Path);

impl Drop for Bind<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn what_is_mounted_inside_stays_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let tree = dir.path().join("tree");
    let target = tree.join("a/mounted");
    fs::create_dir_all(&target).unwrap();
    fs::write(tree.join("z"), "").unwrap();
    // On the same filesystem: nothing but the mount itself tells it.
    rustix::mount::mount_bind(&precious, &target).unwrap();
    let bind = Bind(&target);
    let error = remove_path(&tree).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(precious.join("file").exists());
    assert!(!tree.join("z").exists(), "the rest is deleted all the same");
    drop(bind);
    remove_path(&tree).unwrap();
    assert!(!tree.exists() && precious.join("file").exists());
}

#[test]
fn a_cancelled_removal_ends_and_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    let parent = rustix::fs::openat(CWD, dir.path(), OPEN, Mode::empty()).unwrap();
    let cancel = Cancel::default();
    cancel.set();
    let error = remove(parent.as_fd(), "tree", &cancel).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    assert!(tree.exists());
    remove_path(&tree).unwrap();
    assert!(!tree.exists());
}

#[test]
fn somebody_who_keeps_writing_ends_the_removal() {
    let mut rounds = 0;
    let answer = until_deleted(
        || Ok(false),
        || {
            rounds += 1;
            Ok(())
        },
    );
    assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
    assert_eq!(rounds, ROUNDS_MAX);
}
