//! What layers on layers look like.

use std::fs::{self, FileTimes};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::FileType;

use crate::stage::Stage;
use crate::tree::{self, dir, file, mode};

type Change = dyn Fn(&Path);

/// Commits a layer for each of `changes` and compares each with a directory to which the same was done.
fn compare(stage: &Stage, changes: &[&Change]) {
    let flat = stage.directory();
    let mut parent = String::new();
    for (number, change) in changes.iter().enumerate() {
        let name = format!("layer-{number}");
        stage.layer(&name, &parent, change);
        change(&flat);
        let view = stage.mount(&stage.view(&format!("view-{number}"), &name));
        tree::assert_same(&flat, view.path());
        parent = name;
    }
}

/// A change that keeps size and modification time is a change.
pub fn layer_file_update(stage: &Stage) {
    let at_one_time = &|path: &Path, content: &str, mode: u32| {
        file(path, content, mode);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    };
    compare(
        stage,
        &[
            &move |at| {
                dir(at.join("etc"), 0o700);
                at_one_time(&at.join("etc/hosts"), "mydomain 10.0.0.1", 0o644);
                at_one_time(&at.join("etc/profile"), "PATH=/usr/bin", 0o644);
            },
            &move |at| {
                at_one_time(&at.join("etc/hosts"), "mydomain 10.0.0.2", 0o644);
                at_one_time(&at.join("etc/profile"), "PATH=/usr/bin", 0o666);
                dir(at.join("root"), 0o700);
                at_one_time(&at.join("root/.bashrc"), "PATH=/usr/sbin:/usr/bin", 0o644);
            },
        ],
    );
}

/// A directory that was removed and made again hides what was in it, also two layers up.
pub fn remove_directory_in_lower_layer(stage: &Stage) {
    compare(
        stage,
        &[
            &|at| {
                dir(at.join("lib"), 0o700);
                file(at.join("lib/hidden"), "", 0o644);
            },
            &|at| {
                fs::remove_dir_all(at.join("lib")).unwrap();
                dir(at.join("lib"), 0o700);
                file(at.join("lib/not-hidden"), "", 0o644);
            },
            &|at| file(at.join("lib/newfile"), "", 0o644),
        ],
    );
}

/// New owners of what a lower layer holds.
pub fn chown(stage: &Stage) {
    compare(
        stage,
        &[
            &|at| {
                fs::create_dir_all(at.join("opt/a/b")).unwrap();
                file(at.join("opt/a/b/file.txt"), "hello", 0o644);
            },
            &|at| {
                for path in ["opt", "opt/a", "opt/a/b", "opt/a/b/file.txt"] {
                    tree::chown(at.join(path), 1);
                }
            },
        ],
    );
}

/// Owners and modes of directories over three layers.
pub fn directory_permission_on_commit(stage: &Stage) {
    compare(
        stage,
        &[
            &|at| {
                for name in ["dir1", "dir2", "dir3", "dir4", "dir5"] {
                    dir(at.join(name), 0o700);
                    file(at.join(name).join("f1"), "...", 0o644);
                }
                for path in ["dir1", "dir2", "dir3", "dir5", "dir5/f1"] {
                    tree::chown(at.join(path), 1);
                }
            },
            &|at| {
                tree::chown(at.join("dir2"), 0);
                fs::remove_dir_all(at.join("dir3")).unwrap();
                tree::chown(at.join("dir4"), 1);
                tree::chown(at.join("dir4/f1"), 1);
                mode(at.join("dir1"), 0o2775);
            },
            &|at| {
                dir(at.join("dir3"), 0o700);
                tree::chown(at.join("dir3"), 1);
                fs::remove_dir_all(at.join("dir5")).unwrap();
                dir(at.join("dir5"), 0o711);
                tree::chown(at.join("dir5"), 1);
            },
        ],
    );
}

/// Files and directories that a layer deletes, and that a later one makes again.
pub fn deleted_files_in_child(stage: &Stage) {
    compare(
        stage,
        &[
            &|at| {
                file(at.join("foo"), "foo\n", 0o777);
                file(at.join("a"), "foo\n", 0o777);
                fs::create_dir_all(at.join("b/c")).unwrap();
            },
            &|at| {
                fs::remove_file(at.join("foo")).unwrap();
                fs::remove_dir_all(at.join("b")).unwrap();
            },
            &|at| {
                dir(at.join("foo"), 0o755);
                file(at.join("b"), "a file now", 0o600);
                fs::remove_file(at.join("a")).unwrap();
            },
        ],
    );
}

/// A file of a lower layer that is linked elsewhere and removed where it was.
pub fn move_file_from_lower_layer(stage: &Stage) {
    compare(
        stage,
        &[
            &|at| {
                dir(at.join("dir1"), 0o700);
                file(at.join("dir1/f1"), "Hello", 0o644);
                dir(at.join("dir2"), 0o700);
                file(at.join("dir2/f2"), "...", 0o644);
            },
            &|at| {
                dir(at.join("dir3"), 0o700);
                file(at.join("dir3/f1"), "Hello", 0o644);
                fs::remove_dir_all(at.join("dir1")).unwrap();
                fs::hard_link(at.join("dir2/f2"), at.join("dir3/f2")).unwrap();
                fs::remove_file(at.join("dir2/f2")).unwrap();
            },
        ],
    );
}

/// Files renamed over files of a lower layer. Directories of a lower layer cannot be: that is overlayfs.
pub fn rename(stage: &Stage) {
    compare(
        stage,
        &[
            &|at| {
                dir(at.join("files"), 0o700);
                file(at.join("files/f1"), "was here first!", 0o644);
                file(at.join("files/f2"), "nothing interesting", 0o644);
            },
            &|at| {
                file(at.join("files/new"), "new content 1", 0o644);
                fs::rename(at.join("files/new"), at.join("files/f1")).unwrap();
                fs::rename(at.join("files/f2"), at.join("files/f3")).unwrap();
                dir(at.join("made"), 0o755);
                fs::rename(at.join("made"), at.join("renamed")).unwrap();
            },
        ],
    );
}

/// As many layers as images may have: each is mounted on all below it, written and compared.
pub fn layers_128(stage: &Stage) {
    let flat = stage.directory();
    let mut parent = String::new();
    for number in 0..128 {
        let active = format!("active-{number}");
        let mounted = stage.mount(&stage.prepare(&active, &parent));
        tree::assert_same(&flat, mounted.path());
        for at in [&flat, mounted.path()] {
            if number == 0 {
                file(at.join("bottom"), "way at the bottom\n", 0o777);
                dir(at.join("addhere"), 0o755);
            } else {
                fs::remove_dir_all(at.join("onlyme")).unwrap();
                file(at.join(format!("addhere/file-{number}")), "same\n", 0o755);
            }
            dir(at.join("onlyme"), 0o755);
            file(
                at.join(format!("onlyme/file-{number}")),
                "only me!\n",
                0o777,
            );
            file(
                at.join("overwriteme"),
                format!("{number} WAS HERE!\n"),
                0o777,
            );
        }
        drop(mounted);
        parent = format!("committed-{number}");
        stage.commit(&parent, &active);
    }
    let view = stage.mount(&stage.view("view", &parent));
    tree::assert_same(&flat, view.path());
}

/// Major 1, minor 3: `/dev/null`.
const NULL: u64 = 0x103;

/// Everything that can be in a layer besides files and directories.
pub fn special_files(stage: &Stage) {
    compare(
        stage,
        &[
            &|at| {
                symlink("../nowhere", at.join("dangling")).unwrap();
                symlink("file", at.join("link")).unwrap();
                tree::node(at.join("pipe"), FileType::Fifo, 0);
                tree::node(at.join("socket"), FileType::Socket, 0);
                tree::node(at.join("null"), FileType::CharacterDevice, NULL);
                tree::node(at.join("block"), FileType::BlockDevice, NULL);
                file(at.join("file"), "x".repeat(100_000), 0o644);
                file(at.join("setuid"), "", 0o4755);
                dir(at.join("sticky"), 0o1777);
                tree::xattr(at.join("file"), "user.note", b"kept");
                tree::xattr(at.join("file"), "trusted.note", b"\0\xff");
                tree::xattr(at.join("setuid"), "security.capability", &CAPABILITY);
                file(at.join("n".repeat(255)), "a long name", 0o600);
                file(at.join("имя \n\\\""), "an odd name", 0o600);
                fs::hard_link(at.join("file"), at.join("second")).unwrap();
            },
            &|at| {
                for path in ["dangling", "pipe", "null"] {
                    fs::remove_file(at.join(path)).unwrap();
                }
                tree::xattr(at.join("setuid"), "user.note", b"added");
                tree::chown(at.join("link"), 7);
                file(at.join("null"), "a file now", 0o644);
            },
        ],
    );
    let view = stage.mount(&stage.view("linked", "layer-0"));
    let inode = |name| fs::metadata(view.path().join(name)).unwrap().ino();
    assert_eq!(inode("file"), inode("second"));
}

/// `cap_net_bind_service=ep`, version 2: little endian words as in linux/capability.h.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a child writes is not its parent's, nor its sibling's.
pub fn committed_content_stays(stage: &Stage) {
    stage.layer("parent", "", |at| {
        file(at.join("kept"), "kept", 0o644);
        file(at.join("changed"), "before", 0o644);
    });
    let child = stage.mount(&stage.prepare("child", "parent"));
    let sibling = stage.mount(&stage.prepare("sibling", "parent"));
    let view = stage.mount(&stage.view("view", "parent"));
    fs::remove_file(child.path().join("kept")).unwrap();
    file(child.path().join("changed"), "after", 0o600);
    for other in [&sibling, &view] {
        assert_eq!(
            fs::read_to_string(other.path().join("kept")).unwrap(),
            "kept"
        );
        assert_eq!(
            fs::read_to_string(other.path().join("changed")).unwrap(),
            "before"
        );
    }
}

/// Commit takes what was written, also while it is still mounted.
pub fn writes_before_commit_are_kept(stage: &Stage) {
    let mounted = stage.mount(&stage.prepare("active", ""));
    file(mounted.path().join("written"), "before the commit", 0o644);
    stage.commit("committed", "active");
    let view = stage.mount(&stage.view("view", "committed"));
    let written = fs::read_to_string(view.path().join("written")).unwrap();
    assert_eq!(written, "before the commit");
}
