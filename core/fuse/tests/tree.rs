//! A mounted layer is its tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use pontoon_fuse::Config;
use pontoon_layer::{Entry, EntryKind, Time};

use crate::fixture::{Maker, entry, find, noise};
use crate::mounted::{Added, Mounted, run, xattrs};

/// A file capability, as the kernel takes it (linux/capability.h, version 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn everything() -> Maker {
    let mut maker = Maker::new();
    let device = |major, minor| EntryKind::CharDevice { major, minor };
    maker.add("dev", entry(EntryKind::Directory, 0o1777));
    maker.add("dev/null", entry(device(1, 3), 0o666));
    let (major, minor) = (4095, 1_048_575);
    let largest = EntryKind::BlockDevice { major, minor };
    maker.add("dev/odd", entry(largest, 0o600));
    maker.add("dev/pipe", entry(EntryKind::Fifo, 0o644));
    let link = EntryKind::Symlink(b"../bin/large");
    maker.add("dev/link", entry(link, 0o777));
    let long = [b"x/".repeat(2000), b"end".to_vec()].concat();
    maker.add("dev/long", entry(EntryKind::Symlink(&long), 0o777));
    let nothing = EntryKind::File { data_offset: 0 };
    maker.add(".wh.away", entry(nothing, 0));
    maker.file("bin/large", 0o4755, &noise(1, 3_000_000), 400_000);
    maker.link("bin/other", "bin/large");
    maker.file("bin/empty", 0o644, b"", 1);
    maker.zeros("bin/zeros", 123_456);
    let owned = Entry {
        uid: 4_000_000_000,
        gid: 65_534,
        mtime: Time {
            seconds: -5,
            nanoseconds: 999_999_999,
        },
        xattrs: vec![
            (b"user.one".to_vec(), b"1".to_vec()),
            (b"security.capability".to_vec(), CAPABILITY.to_vec()),
            (b"trusted.two".to_vec(), vec![0, 255, 0]),
        ],
        ..entry(EntryKind::Directory, 0o2710)
    };
    maker.add("owned", owned);
    for index in 0..3000 {
        let name = format!("many/a-name-that-takes-some-room-{index}");
        maker.add(&name, entry(EntryKind::Symlink(b"target"), 0o777));
    }
    maker
}

/// Every name below `root`, and what stat says of it.
fn walk(root: &Path) -> BTreeMap<String, fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for child in fs::read_dir(&directory).unwrap() {
            let child = child.unwrap();
            let metadata = child.path().symlink_metadata().unwrap();
            assert_eq!(child.file_type().unwrap(), metadata.file_type());
            if metadata.is_dir() {
                left.push(child.path());
            }
            let path = child.path();
            let path = path.strip_prefix(root).unwrap().to_str().unwrap();
            let twice = found.insert(path.to_owned(), metadata);
            assert!(twice.is_none(), "{path} is listed twice");
        }
    }
    found
}

#[test]
fn names_attributes_links_and_xattrs_are_the_trees() {
    let mounted = Mounted::empty();
    let added = mounted.add(7, everything());
    let found = walk(&added.path);
    let many = found.keys().filter(|path| path.starts_with("many/"));
    assert_eq!(many.count(), 3000);
    assert!(!found.contains_key(".stargz-snapshotter"));
    for (path, metadata) in &found {
        check(&added, path, metadata);
    }
    assert_eq!(xattrs(&added.path.join("owned")).unwrap().len(), 2);
    assert_eq!(found["bin/large"].ino(), found["bin/other"].ino());
    assert_eq!(found["away"].rdev(), 0);
    let inodes: BTreeSet<u64> = found.values().map(MetadataExt::ino).collect();
    assert_eq!(inodes.len(), found.len() - 1);
}

fn check(added: &Added, path: &str, metadata: &fs::Metadata) {
    let tree = added.layer.tree();
    let inode = tree.inode(find(&added.layer, path)).unwrap();
    let mode = u32::from(inode.mode | inode.file_type.mode());
    assert_eq!(metadata.mode(), mode, "{path}");
    let owner = (metadata.uid(), metadata.gid());
    assert_eq!(owner, (inode.uid, inode.gid), "{path}");
    let mtime = (metadata.mtime(), metadata.mtime_nsec());
    let expected = (inode.mtime.seconds, inode.mtime.nanoseconds.into());
    assert_eq!(mtime, expected, "{path}");
    assert_eq!(metadata.nlink(), u64::from(inode.links), "{path}");
    assert_eq!(metadata.size(), inode.size, "{path}");
    let device = rustix::fs::makedev(inode.major(), inode.minor());
    assert_eq!(metadata.rdev(), device, "{path}");
    let nid = metadata.ino() & ((1 << 40) - 1);
    assert_eq!(nid, inode.nid.get(), "{path}");
    let mut expected = Vec::new();
    for xattr in tree.xattrs(inode.nid).unwrap() {
        let xattr = xattr.unwrap();
        expected.push((xattr.name(), xattr.value.to_vec()));
    }
    expected.sort();
    let actual = xattrs(&added.path.join(path)).unwrap();
    assert_eq!(actual, expected, "{path}");
    if metadata.is_symlink() {
        let target = fs::read_link(added.path.join(path)).unwrap();
        let expected = tree.read_link(inode.nid).unwrap();
        assert_eq!(target.as_os_str().as_bytes(), expected, "{path}");
    }
}

#[test]
fn files_are_read_at_every_size() {
    let mounted = Mounted::empty();
    let added = mounted.add(1, everything());
    for (path, expected) in &added.files {
        let bytes = fs::read(added.path.join(path)).unwrap();
        assert!(bytes == *expected, "{path}");
    }
    let path = added.path.join("bin/large");
    let file = File::open(&path).unwrap();
    let expected = &added.files["bin/large"];
    for (offset, length) in [
        (0, 1),
        (399_999, 2),
        (1_000_000, 1_900_000),
        (2_999_999, 10),
        (5_000_000, 3),
    ] {
        let mut bytes = vec![0; length];
        let count = file.read_at(&mut bytes, offset as u64).unwrap();
        let start = expected.len().min(offset);
        let end = expected.len().min(start + length);
        assert!(bytes[..count] == expected[start..end], "at {offset}");
    }
    // Direct, so that nothing is read ahead: one request for each MiB.
    let before = mounted.server.operations().read;
    let input = format!("if={}", path.display());
    run("dd", &[&input, "of=/dev/null", "bs=1M", "iflag=direct"]);
    assert!(mounted.server.operations().read - before <= 4);
}

#[test]
fn programs_run_from_it() {
    let mut maker = Maker::new();
    let program = fs::read("/bin/cat").unwrap();
    maker.file("bin/cat", 0o755, &program, 20_000);
    maker.file("text", 0o644, b"mapped and run", 100);
    let mounted = Mounted::empty();
    let added = mounted.add(1, maker);
    let (program, text) = (added.path.join("bin/cat"), added.path.join("text"));
    let output = run(program.to_str().unwrap(), &[text.to_str().unwrap()]);
    assert_eq!(output.stdout, b"mapped and run");
}

#[test]
fn what_the_kernel_knows_it_does_not_ask_again() {
    let mounted = Mounted::empty();
    let added = mounted.add(1, everything());
    let look = || {
        let found = walk(&added.path);
        fs::read(added.path.join("bin/large")).unwrap();
        fs::read_link(added.path.join("dev/link")).unwrap();
        let missing = fs::metadata(added.path.join("bin/missing"));
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        found.len()
    };
    let seen = look();
    let before = mounted.server.operations();
    assert_eq!(look(), seen);
    assert_eq!(mounted.server.operations(), before);
    // Of opening and closing it was heard once, when the server started.
    let heard = (before.open, before.opendir, before.flush);
    assert_eq!(heard, (1, 1, 1));
}

#[test]
fn the_size_of_a_layer_is_told() {
    let mounted = Mounted::empty();
    let one = mounted.add(1, everything());
    let two = mounted.add(2, {
        let mut maker = Maker::new();
        maker.file("file", 0o644, &noise(2, 100_000), 100_000);
        maker
    });
    let statfs = |path: &Path| {
        let statfs = rustix::fs::statvfs(path).unwrap();
        (statfs.f_blocks * statfs.f_frsize, statfs.f_files)
    };
    let of = |added: &Added| {
        let tree = added.layer.tree();
        (tree.data_bytes(), tree.inodes())
    };
    assert_eq!(statfs(&one.path), of(&one));
    assert_eq!(statfs(&two.path), of(&two));
    let sum = (of(&one).0 + of(&two).0, of(&one).1 + of(&two).1);
    assert_eq!(statfs(&mounted.mountpoint()), sum);
}

#[test]
fn nothing_can_be_written() {
    let mounted = Mounted::empty();
    let added = mounted.add(1, everything());
    let error = fs::write(added.path.join("bin/new"), "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn the_state_of_a_layer_is_a_file() {
    for silent_opens in [true, false] {
        let served = Config {
            silent_opens,
            ..Config::default()
        };
        let mounted = Mounted::served(&served, pontoon_lazyfs::Config::default());
        check_state(&mounted.add(3, everything()));
    }
}

fn check_state(added: &Added) {
    let directory = added.path.join(".stargz-snapshotter");
    assert_eq!(directory.metadata().unwrap().mode(), 0o040_500);
    let names = fs::read_dir(&directory).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    let name = format!("{}.json", added.layer.digest());
    assert_eq!(names, [&*name]);
    let file = directory.join(&name);
    assert_eq!(file.metadata().unwrap().mode(), 0o100_400);
    let read = || {
        let text = fs::read(&file).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["digest"], added.layer.digest().to_string());
        value["fetchedPercent"].as_f64().unwrap()
    };
    assert!(read() < 10.0);
    fs::read(added.path.join("bin/large")).unwrap();
    assert_eq!(read(), 100.0);
}

#[test]
fn a_kernel_that_asks_to_open_keeps_pages_and_does_not_flush() {
    let served = Config {
        silent_opens: false,
        ..Config::default()
    };
    let mounted = Mounted::served(&served, pontoon_lazyfs::Config::default());
    let added = mounted.add(1, everything());
    let path = added.path.join("bin/large");
    fs::read(&path).unwrap();
    let before = mounted.server.operations();
    assert!(fs::read(&path).unwrap() == added.files["bin/large"]);
    let after = mounted.server.operations();
    assert_eq!((after.read, after.open), (before.read, before.open + 1));
    assert_eq!(after.flush, 0);
}
