//! What the kernel shows of our images, and overlayfs of that.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use pontoon_layer::{Entry, EntryKind, Kind, Node};
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};

use crate::compare::{image_is, kept, rdev};
use crate::sample::{Draft, Sample, entry, everything, parts, xattr};
use crate::site::{Files, Site};

/// Compares everything that is mounted at `root` with the tree.
pub(crate) fn mount_is(root: &Path, sample: &Sample, files: &Files) {
    let nids = image_is(&files.map(), &sample.tree);
    let data = File::open(&files.data).unwrap();
    let mut count = 0;
    sample.tree.walk(|path, id| {
        let full = root.join(OsStr::from_bytes(path));
        count += 1;
        let node = sample.tree.node(id);
        let seen = fs::symlink_metadata(&full).unwrap_or_else(|error| panic!("{full:?}: {error}"));
        assert_eq!(seen.ino(), nids[&id].get(), "{full:?}");
        attributes_are(&full, &seen, &node);
        content_is(&full, &node, &data);
        if node.is_directory() {
            let mut listed: Vec<Vec<u8>> = fs::read_dir(&full)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
                .collect();
            listed.sort();
            let children = sample.tree.children(id).map(|(name, _)| name.to_vec());
            assert_eq!(listed, children.collect::<Vec<_>>(), "{full:?}");
            let missing = fs::symlink_metadata(full.join("no such name")).unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
        }
        true
    });
    assert!(count >= sample.tree.len());
}

fn attributes_are(path: &Path, seen: &fs::Metadata, node: &Node<'_>) {
    let file_type = seen.file_type();
    let same_type = match node.kind {
        Kind::Directory => file_type.is_dir(),
        Kind::File { .. } => file_type.is_file(),
        Kind::Symlink(_) => file_type.is_symlink(),
        Kind::CharDevice { .. } => file_type.is_char_device(),
        Kind::BlockDevice { .. } => file_type.is_block_device(),
        Kind::Fifo => file_type.is_fifo(),
        Kind::Socket => file_type.is_socket(),
    };
    assert!(same_type, "{path:?} is {file_type:?}");
    assert_eq!(seen.mode() & 0o7777, u32::from(node.mode), "{path:?}");
    assert_eq!((seen.uid(), seen.gid()), (node.uid, node.gid), "{path:?}");
    let mtime = (node.mtime.seconds, i64::from(node.mtime.nanoseconds));
    assert_eq!((seen.mtime(), seen.mtime_nsec()), mtime, "{path:?}");
    assert_eq!(seen.nlink(), u64::from(node.links), "{path:?}");
    let device = seen.rdev();
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    assert_eq!(device, rdev(node.kind), "{path:?}");
    assert_eq!(xattrs(path), kept(node), "{path:?}");
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let length = llistxattr(path, &mut names[..]).unwrap();
    names.truncate(length);
    let names = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

fn content_is(path: &Path, node: &Node<'_>, data: &File) {
    match node.kind {
        Kind::Symlink(target) => {
            assert_eq!(fs::read_link(path).unwrap().as_os_str().as_bytes(), target);
        }
        Kind::File { data_offset } => {
            let file = File::open(path).unwrap();
            assert_eq!(file.metadata().unwrap().len(), node.size);
            for (start, length) in parts(node.size) {
                let (mut seen, mut expected) = (vec![0; length], vec![1; length]);
                file.read_exact_at(&mut seen, start).unwrap();
                data.read_exact_at(&mut expected, data_offset + start)
                    .unwrap();
                assert!(seen == expected, "{path:?} at {start}");
            }
            let mut rest = [0; 10];
            assert_eq!(file.read_at(&mut rest, node.size).unwrap(), 0);
        }
        _ => {}
    }
}

#[test]
fn everything_is_mounted_as_it_was_written() {
    let site = Site::new();
    let sample = everything();
    let files = site.store("image", &sample);
    let root = site.mount("root", &files);
    mount_is(&root, &sample, &files);
    let denied = fs::write(root.join("new"), "").unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn files_of_several_gigabytes_are_read_at_every_chunk() {
    let site = Site::new();
    let mut draft = Draft::new();
    let file = || entry(EntryKind::File { data_offset: 0 });
    // One chunk, exactly; more than one by a byte; more than 4 GiB.
    for size in [1 << 30, (1 << 30) + 1, (5 << 30) + 12_345] {
        draft.file(format!("{size}"), size, file());
        draft.file(format!("after-{size}"), 1000, file());
    }
    let sample = draft.done();
    let files = site.store("image", &sample);
    mount_is(&site.mount("root", &files), &sample, &files);
}

#[test]
fn large_directories_are_listed_and_searched() {
    let site = Site::new();
    let mut draft = Draft::new();
    for number in 0..100_000u32 {
        let name = format!("dir/{number}{}", "n".repeat(number as usize % 40));
        draft.add(
            name,
            entry(EntryKind::CharDevice {
                major: number % 4096,
                minor: number,
            }),
        );
    }
    let sample = draft.done();
    let files = site.store("image", &sample);
    let dir = site.mount("root", &files).join("dir");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 100_000);
    let id = sample.tree.find(b"dir").unwrap();
    for (name, child) in sample.tree.children(id).step_by(7) {
        let seen = fs::symlink_metadata(dir.join(OsStr::from_bytes(name))).unwrap();
        let device = (
            rustix::fs::major(seen.rdev()),
            rustix::fs::minor(seen.rdev()),
        );
        assert_eq!(device, rdev(sample.tree.node(child).kind));
    }
    fs::symlink_metadata(dir.join("100000")).unwrap_err();
}

/// A layer with directories, and one on top of it that removes some of them.
fn two_layers() -> (Sample, Sample) {
    let file = || entry(EntryKind::File { data_offset: 0 });
    let directory = |mode| Entry {
        mode,
        ..entry(EntryKind::Directory)
    };
    let mut below = Draft::new();
    below.add("", directory(0o755));
    for path in [
        "etc/passwd",
        "etc/shadow",
        "var/cache/a",
        "var/cache/b",
        "usr/old/x",
    ] {
        below.file(path, 5000, file());
    }
    below.file(
        "usr/bin/tool",
        70_000,
        Entry {
            mode: 0o755,
            xattrs: vec![xattr("user.kept", "yes")],
            ..file()
        },
    );
    below.link("usr/bin/alias", "usr/bin/tool");
    let mut above = Draft::new();
    above.add("", directory(0o711));
    above.file("etc/.wh.shadow", 0, file());
    above.add("var/cache", directory(0o750));
    above.file("var/cache/.wh..wh..opq", 0, file());
    above.file("var/cache/c", 6000, file());
    above.file("usr/.wh.old", 0, file());
    (below.done(), above.done())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn overlayfs_takes_whiteouts_and_opaque_directories() {
    let site = Site::new();
    let (below, above) = two_layers();
    let mounted =
        |name, sample: &Sample| -> PathBuf { site.mount(name, &site.store(name, sample)) };
    let (below, above) = (mounted("below", &below), mounted("above", &above));
    let root = site.overlay("merged", &[&above, &below]);
    assert_eq!(names(&root), ["etc", "usr", "var"]);
    let cache = fs::metadata(root.join("var/cache")).unwrap();
    assert_eq!(cache.mode() & 0o7777, 0o750);
    assert_eq!(names(&root.join("etc")), ["passwd"]);
    assert_eq!(names(&root.join("var/cache")), ["c"]);
    assert_eq!(names(&root.join("usr")), ["bin"]);
    fs::symlink_metadata(root.join("etc/shadow")).unwrap_err();
    let tool = root.join("usr/bin/tool");
    let same =
        |path: &Path| fs::read(root.join(path)).unwrap() == fs::read(below.join(path)).unwrap();
    assert!(same(Path::new("usr/bin/tool")) && same(Path::new("usr/bin/alias")));
    assert_eq!(
        fs::read(root.join("var/cache/c")).unwrap(),
        fs::read(above.join("var/cache/c")).unwrap()
    );
    assert_eq!(xattrs(&tool).get(&b"user.kept"[..]).unwrap(), b"yes");
    // What is written goes on top.
    lsetxattr(&tool, "user.mine", b"too", XattrFlags::empty()).unwrap();
    assert_eq!(xattrs(&tool).len(), 2);
    fs::write(root.join("etc/shadow"), "again").unwrap();
    fs::remove_file(root.join("etc/passwd")).unwrap();
    fs::remove_dir_all(root.join("var")).unwrap();
    assert_eq!(names(&root.join("etc")), ["shadow"]);
    assert_eq!(names(&root), ["etc", "usr"]);
}

/// overlayfs turns `xino` and `index` off where a lower filesystem has no UUID, or the same as another one.
#[test]
fn overlayfs_knows_the_layers_apart() {
    let site = Site::new();
    let (below, above) = two_layers();
    assert_ne!(below.image()[1072..1088], above.image()[1072..1088]);
    let mounted =
        |name, sample: &Sample| -> PathBuf { site.mount(name, &site.store(name, sample)) };
    let (below, above) = (mounted("below", &below), mounted("above", &above));
    let root = site.overlay("merged", &[&above, &below]);
    let of = |path: &str| fs::metadata(root.join(path)).unwrap();
    let (tool, alias, c) = (of("usr/bin/tool"), of("usr/bin/alias"), of("var/cache/c"));
    assert_eq!((tool.dev(), tool.ino()), (alias.dev(), alias.ino()));
    assert_ne!(tool.ino(), c.ino());
    // Without `xino` each layer would have a device number of its own.
    let dev = of(".").dev();
    assert_eq!((tool.dev(), c.dev()), (dev, dev));
}

#[test]
fn what_the_kernel_refuses_is_explained() {
    let site = Site::new();
    let files = site.store("image", &everything());
    let missing = files.data.with_extension("missing");
    let target = site.dir("root");
    let error = pontoon_linux::mount_erofs(
        &files.image,
        &[&missing],
        pontoon_linux::DeviceReads::Buffered,
        &target,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains(files.image.to_str().unwrap()),
        "{error}"
    );
    let error = pontoon_linux::mount_erofs(
        &files.data,
        &[&files.data],
        pontoon_linux::DeviceReads::Buffered,
        &target,
    )
    .unwrap_err();
    assert_eq!(error.errno(), Some(rustix::io::Errno::INVAL), "{error}");
    fs::write(&files.image, vec![0; 8192]).unwrap();
    pontoon_linux::mount_erofs(
        &files.image,
        &[&files.data],
        pontoon_linux::DeviceReads::Buffered,
        &target,
    )
    .unwrap_err();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}
