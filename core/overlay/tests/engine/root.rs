//! Roots that are in use, cannot be written, are full, or are none.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pontoon_overlay::{Engine, NoLayers, Options};
use pontoon_snapshot::{
    Class, Error, Keyspaces, LABEL_GID_MAPPING, LABEL_UID_MAPPING, Labels, Result, Snapshotter,
    SnapshotterName,
};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::site::{Site, chain_of, key, labels, option};

fn open(root: &Path) -> Result<Arc<Engine>> {
    Engine::open(root, Options::default(), Arc::new(NoLayers))
}

fn refusal(root: &Path) -> (Class, String) {
    let error = open(root).unwrap_err();
    (error.class(), chain_of(&error))
}

/// A small filesystem of its own in memory, unmounted on drop.
struct Tmpfs {
    directory: tempfile::TempDir,
}

impl Tmpfs {
    fn new(options: &str) -> Self {
        Self::of_type("tmpfs", options)
    }

    fn of_type(fs_type: &str, options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::empty();
        rustix::mount::mount(fs_type, directory.path(), fs_type, flags, Some(&*data)).unwrap();
        Tmpfs { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// A file that takes the room.
    fn ballast(&self) -> PathBuf {
        self.directory.path().join("ballast")
    }

    fn make_read_only(&self) {
        let flags = MountFlags::RDONLY;
        rustix::mount::mount_remount(self.directory.path(), flags, c"").unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.directory.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_missing_root_is_made_for_us_alone() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("a/b");
    let engine = open(&root).unwrap();
    let mode = fs::metadata(&root).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    assert_eq!(engine.root(), fs::canonicalize(&root).unwrap());
    let mut names: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["empty", "lock", "metadata.redb", "snapshots"]);
}

#[test]
fn one_daemon_per_root() {
    let site = Site::new();
    let (class, told) = refusal(&site.root());
    assert_eq!(class, Class::Unavailable);
    let pid = std::process::id();
    let use_ = format!("is in use by process {pid}; stop that process, or use another root");
    assert!(told.contains(&use_), "{told}");
}

#[test]
fn a_closed_engine_frees_its_root() {
    let directory = tempfile::tempdir().unwrap();
    let engine = open(directory.path()).unwrap();
    engine.close();
    engine.close();
    drop(engine);
    open(directory.path()).unwrap();
}

#[test]
fn a_root_that_mount_options_cannot_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a,b", "a:b", "a\\b"] {
        let (class, told) = refusal(&directory.path().join(name));
        assert_eq!(class, Class::Invalid);
        assert!(told.contains("choose another path"), "{told}");
    }
    // Through a link too.
    std::os::unix::fs::symlink(directory.path().join("a,b"), directory.path().join("link"))
        .unwrap();
    assert_eq!(refusal(&directory.path().join("link")).0, Class::Invalid);
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let (_, told) = refusal(&file);
    assert!(
        told.contains("create root") && told.contains("file"),
        "{told}"
    );
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("snapshots"), "").unwrap();
    let (_, told) = refusal(&root);
    assert!(
        told.contains("root/snapshots failed: not a directory"),
        "{told}"
    );
}

#[test]
fn a_read_only_root_is_refused() {
    let tmpfs = Tmpfs::new("size=16m");
    fs::create_dir(tmpfs.root()).unwrap();
    tmpfs.make_read_only();
    let (class, told) = refusal(&tmpfs.root());
    assert_eq!(class, Class::Internal);
    assert!(told.contains("Read-only file system"), "{told}");
    let (_, told) = refusal(&tmpfs.root().join("missing"));
    assert!(told.contains("Read-only file system"), "{told}");
}

#[test]
fn options_that_the_kernel_does_not_know_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (option, reason) in [
        ("colour=blue", "the kernel refuses them"),
        ("upperdir=/x", "every snapshot has its own"),
    ] {
        let options = Options {
            mount_options: vec![option.to_owned()],
            ..Options::default()
        };
        let error = Engine::open(directory.path(), options, Arc::new(NoLayers)).unwrap_err();
        assert_eq!(error.class(), Class::Invalid);
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains(option), "{error}");
    }
}

/// Prepares until the disk is full; how many there are, and the error.
fn fill(snapshots: &dyn Snapshotter) -> (u32, Error) {
    let mut made = 0;
    loop {
        let prepared = snapshots.prepare(&key(&format!("a-{made}")), None, Labels::default());
        match prepared {
            Ok(_) => made += 1,
            Err(error) => return (made, error),
        }
        assert!(made < 100_000, "the disk never fills");
    }
}

/// The keyspace of the tests.
fn keyspace(engine: &Engine) -> Arc<dyn Snapshotter> {
    let name = SnapshotterName::new("test").unwrap();
    Keyspaces::open(engine, &name).unwrap()
}

/// No room for directories, and no room for records.
const FULL: [&str; 2] = ["size=64m,nr_inodes=200", "size=3m"];

/// Makes a snapshot `first`, and then leaves no room.
fn full(options: &str) -> (Tmpfs, Arc<Engine>) {
    let tmpfs = Tmpfs::new(options);
    let engine = open(&tmpfs.root()).unwrap();
    let snapshots = keyspace(&engine);
    snapshots
        .prepare(&key("first"), None, Labels::default())
        .unwrap();
    if !options.contains("inodes") {
        assert!(fs::write(tmpfs.ballast(), vec![0; 64 << 20]).is_err());
    }
    let (made, error) = fill(&*snapshots);
    assert_eq!(error.class(), Class::Exhausted, "{}", chain_of(&error));
    let directories = fs::read_dir(tmpfs.root().join("snapshots")).unwrap();
    assert_eq!(directories.count(), made as usize + 1);
    assert_eq!(engine.names().unwrap()[0].1, u64::from(made) + 1);
    (tmpfs, engine)
}

#[test]
fn a_full_disk_is_told_and_with_room_again_it_goes_on() {
    for options in FULL {
        let (tmpfs, engine) = full(options);
        let snapshots = keyspace(&engine);
        snapshots.stat(&key("first")).unwrap();
        if options.contains("inodes") {
            snapshots.remove(&key("first")).unwrap();
            snapshots.cleanup().unwrap();
        } else {
            fs::remove_file(tmpfs.ballast()).unwrap();
        }
        let mounts = snapshots.prepare(&key("again"), None, Labels::default());
        assert!(option(&mounts.unwrap(), "upperdir").is_none());
    }
}

#[test]
fn a_daemon_starts_on_a_full_disk_and_frees_space() {
    for options in FULL {
        let (tmpfs, engine) = full(options);
        drop(engine);
        let engine = open(&tmpfs.root()).unwrap();
        let snapshots = keyspace(&engine);
        snapshots.mounts(&key("first")).unwrap();
        let before = fs::read_dir(tmpfs.root().join("snapshots"))
            .unwrap()
            .count();
        snapshots.remove(&key("first")).unwrap();
        snapshots.cleanup().unwrap();
        let after = fs::read_dir(tmpfs.root().join("snapshots"))
            .unwrap()
            .count();
        assert_eq!(after + 1, before);
    }
}

#[test]
fn a_filesystem_that_cannot_carry_overlays_is_refused() {
    // overlayfs does not take an overlay as upper directory.
    let site = Site::new();
    site.layer("base", None, |_| {});
    let mounts = site
        .snapshots()
        .prepare(&key("a"), Some(&key("base")), Labels::default())
        .unwrap();
    site.inside(&mounts, |root| {
        let (class, told) = refusal(&root.join("nested"));
        assert_eq!(class, Class::Invalid);
        assert!(told.contains("choose a root on another one"), "{told}");
    });
}

/// The answers of Prepare and then Mounts with id mappings on a filesystem that cannot be idmapped, and who owns the
/// upper directory.
fn remapped(slow_chown: bool) -> Result<(Vec<String>, (u32, u32))> {
    let ramfs = Tmpfs::of_type("ramfs", "");
    let options = Options {
        slow_chown,
        ..Options::default()
    };
    let engine = Engine::open(&ramfs.root(), options, Arc::new(NoLayers)).unwrap();
    engine.features().id_maps.as_ref().unwrap_err();
    let snapshots = keyspace(&engine);
    let mappings = labels(&[
        (LABEL_UID_MAPPING, "0:100000:65536"),
        (LABEL_GID_MAPPING, "0:200000:65536"),
    ]);
    let mounts = snapshots.prepare(&key("a"), None, mappings)?;
    assert_eq!(snapshots.mounts(&key("a")).unwrap(), mounts);
    let upper = fs::metadata(&mounts[0].source).unwrap();
    Ok((mounts[0].options.clone(), (upper.uid(), upper.gid())))
}

#[test]
fn ids_that_cannot_be_mapped_are_left_to_containerd_or_refused() {
    let (options, owner) = remapped(true).unwrap();
    assert_eq!(options, ["rw", "rbind"]);
    assert_eq!(owner, (100_000, 200_000));
    let error = remapped(false).unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    assert!(error.to_string().contains("slow_chown = true"), "{error}");
}

/// A small ext2 in a file, without types in its directories, unmounted on drop.
struct Typeless {
    directory: tempfile::TempDir,
}

impl Typeless {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let typeless = Typeless { directory };
        fs::create_dir(typeless.mount_point()).unwrap();
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?}: {told}");
        };
        run(Command::new("mkfs.ext2")
            .args(["-q", "-O", "^filetype"])
            .arg(&image));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(typeless.mount_point()));
        typeless
    }

    fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }
}

impl Drop for Typeless {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.mount_point(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_filesystem_that_does_not_tell_types_is_refused() {
    let typeless = Typeless::new();
    let (class, told) = refusal(&typeless.mount_point().join("root"));
    assert_eq!(class, Class::Invalid);
    assert!(
        told.contains("d_type") && told.contains("ftype=1"),
        "{told}"
    );
}

/// It mounts what is below it, so it needs none, and nobody misses it at the next start.
#[test]
fn a_view_on_a_parent_has_no_directory() {
    let mut site = Site::with_options(Options {
        upperdir_label: true,
        ..Options::default()
    });
    site.layer("base", None, |target| {
        fs::write(target.join("file"), "of base").unwrap();
    });
    let mounts = site
        .snapshots()
        .view(&key("view"), Some(&key("base")), Labels::default())
        .unwrap();
    assert_eq!(site.directories(), ["1"]);
    let labels_of = |name: &str| site.snapshots().stat(&key(name)).unwrap().labels;
    assert!(!labels_of("base").clone().into_map().is_empty());
    assert!(labels_of("view").into_map().is_empty());
    site.reopen(|_| {});
    assert_eq!(site.directories(), ["1"]);
    assert_eq!(site.snapshots().mounts(&key("view")).unwrap(), mounts);
    site.inside(&mounts, |target| {
        assert_eq!(fs::read(target.join("file")).unwrap(), b"of base");
    });
    site.snapshots().remove(&key("view")).unwrap();
    site.snapshots().cleanup().unwrap();
    assert_eq!(site.directories(), ["1"]);
}
