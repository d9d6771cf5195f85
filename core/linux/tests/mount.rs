//! Real mounts. They need root, like the product.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use pontoon_linux::probe::{Scratch, says_nothing, tells_types};
use pontoon_linux::{Call, Mounter, RecordingMounter, SystemMounter};
use pontoon_snapshot::Mount;

/// A directory whose mounts go away with it.
struct Site {
    root: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Site {
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root.path().to_str().unwrap();
        let target = |line: &str| line.split(' ').nth(4).unwrap().to_owned();
        all.lines()
            .map(target)
            .filter(|target| target.starts_with(root))
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for target in self.mounts().iter().rev() {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn mount(fs_type: &str, source: &Path, options: &[String]) -> Mount {
    Mount {
        fs_type: fs_type.to_owned(),
        source: source.to_str().unwrap().to_owned(),
        target: String::new(),
        options: options.to_vec(),
    }
}

fn overlay(lower: &[PathBuf], extra: &[String]) -> Mount {
    let lower: Vec<&str> = lower.iter().map(|path| path.to_str().unwrap()).collect();
    let mut options = vec![format!("lowerdir={}", lower.join(":"))];
    options.extend_from_slice(extra);
    mount("overlay", Path::new("overlay"), &options)
}

fn writable(site: &Site) -> Vec<String> {
    vec![
        format!("upperdir={}", site.dir("upper").display()),
        format!("workdir={}", site.dir("work").display()),
        "index=off".to_owned(),
    ]
}

#[test]
fn an_overlay_is_written_through_and_unmounted() {
    let site = Site::new();
    let (lower, target) = (site.dir("lower"), site.dir("target"));
    fs::write(lower.join("old"), "old").unwrap();
    let mounter = SystemMounter;
    mounter
        .mount(&overlay(&[lower], &writable(&site)), &target)
        .unwrap();
    assert_eq!(fs::read(target.join("old")).unwrap(), b"old");
    fs::remove_file(target.join("old")).unwrap();
    fs::write(target.join("new"), "new").unwrap();
    mounter.unmount(&target).unwrap();
    assert_eq!(site.mounts(), [""; 0]);
    let whiteout = fs::symlink_metadata(site.dir("upper").join("old")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(fs::read(site.dir("upper").join("new")).unwrap(), b"new");
}

#[test]
fn a_path_longer_than_the_new_calls_take_is_mounted_all_the_same() {
    let site = Site::new();
    let deep = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    let lower: Vec<PathBuf> = (0..130)
        .map(|layer| site.dir(&format!("{deep}/{layer}/fs")))
        .collect();
    fs::write(lower[129].join("lowest"), "").unwrap();
    let target = site.dir("target");
    SystemMounter
        .mount(&overlay(&lower, &writable(&site)), &target)
        .unwrap();
    assert!(target.join("lowest").exists());
    fs::write(target.join("new"), "").unwrap();
    assert!(site.dir("upper").join("new").exists());
}

#[test]
fn a_bind_mount_is_read_only_or_not() {
    let site = Site::new();
    let (source, target) = (site.dir("source"), site.dir("target"));
    let bind = |how: &str| mount("bind", &source, &[how.to_owned(), "rbind".to_owned()]);
    SystemMounter.mount(&bind("rw"), &target).unwrap();
    fs::write(target.join("file"), "x").unwrap();
    SystemMounter.unmount(&target).unwrap();
    SystemMounter.mount(&bind("ro"), &target).unwrap();
    assert_eq!(fs::read(target.join("file")).unwrap(), b"x");
    let error = fs::write(target.join("file"), "y").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn ids_are_mapped_in_bind_and_overlay_mounts() {
    let site = Site::new();
    let (lower, target) = (site.dir("lower"), site.dir("target"));
    fs::write(lower.join("file"), "").unwrap();
    chown(lower.join("file"), Some(7), Some(8)).unwrap();
    let maps = ["uidmap=0:100000:65536", "gidmap=0:200000:10,10:1000000:5"];
    let maps: Vec<String> = maps.map(str::to_owned).to_vec();
    let owner = || {
        let file = fs::metadata(target.join("file")).unwrap();
        (file.uid(), file.gid())
    };

    let mut options = maps.clone();
    options.extend(["rw".to_owned(), "rbind".to_owned()]);
    SystemMounter
        .mount(&mount("bind", &lower, &options), &target)
        .unwrap();
    assert_eq!(owner(), (100_007, 200_008));
    SystemMounter.unmount(&target).unwrap();

    let mut options = writable(&site);
    options.extend(maps);
    chown(site.dir("upper"), Some(100_000), Some(200_000)).unwrap();
    SystemMounter
        .mount(
            &overlay(&[lower.clone(), site.dir("other")], &options),
            &target,
        )
        .unwrap();
    assert_eq!(owner(), (100_007, 200_008));
    assert_eq!(fs::metadata(&target).unwrap().uid(), 100_000);
    // Copied up as what it is seen as: the upper directory is not mapped.
    fs::write(target.join("file"), "changed").unwrap();
    let copied = fs::metadata(site.dir("upper").join("file")).unwrap();
    assert_eq!((copied.uid(), copied.gid()), (100_007, 200_008));
    assert_eq!(site.mounts(), [target.to_str().unwrap()]);
}

#[test]
fn a_refused_mount_says_why_and_leaves_nothing() {
    let site = Site::new();
    let target = site.dir("target");
    let lower = [site.dir("lower")];
    let refused = |mount: &Mount| SystemMounter.mount(mount, &target).unwrap_err().to_string();

    let missing = refused(&overlay(&[site.root.path().join("missing")], &[]));
    assert!(missing.contains("missing"), "{missing}");
    let unknown = refused(&overlay(&lower, &["colour=blue".to_owned()]));
    assert!(unknown.contains("colour=blue"), "{unknown}");
    let half = refused(&overlay(&lower, &["uidmap=0:0:1".to_owned()]));
    assert!(half.contains("give both"), "{half}");
    let other = refused(&mount("tmpfs", Path::new("tmpfs"), &[]));
    assert!(other.contains("only overlay and bind"), "{other}");
    assert_eq!(site.mounts(), [""; 0]);
}

#[test]
fn probes_find_what_is_there_and_clean_up() {
    let site = Site::new();
    let directory = site.root.path().join("probe");
    // As a killed probe leaves it.
    site.dir("probe/options/work/work");
    let scratch = Scratch::new(directory.clone()).unwrap();
    scratch.overlay_takes(&["volatile".to_owned()]).unwrap();
    let unknown = scratch
        .overlay_takes(&["colour=blue".to_owned()])
        .unwrap_err();
    assert!(!says_nothing(&unknown));
    assert!(!scratch.needs_userxattr());
    scratch.overlay_takes_id_maps().unwrap();
    drop(scratch);
    assert!(!directory.exists());
    assert_eq!(site.mounts(), [""; 0]);
    assert_eq!(tells_types(&site.dir("empty")).unwrap(), None);
    assert_eq!(tells_types(site.root.path()).unwrap(), Some(true));
}

#[test]
fn a_recorder_only_notes_down() {
    let mounter = RecordingMounter::default();
    let wanted = mount("bind", Path::new("/nowhere"), &["rbind".to_owned()]);
    mounter.mount(&wanted, Path::new("/target")).unwrap();
    mounter.unmount(Path::new("/target")).unwrap();
    let target = PathBuf::from("/target");
    assert_eq!(
        mounter.calls(),
        [Call::Mount(wanted, target.clone()), Call::Unmount(target)]
    );
}

#[test]
fn a_mount_that_is_in_use_for_a_moment_is_unmounted() {
    let site = Site::new();
    let (source, target) = (site.dir("source"), site.dir("target"));
    let mount = Mount {
        fs_type: "bind".to_owned(),
        source: source.to_str().unwrap().to_owned(),
        options: vec!["rw".to_owned(), "rbind".to_owned()],
        ..Mount::default()
    };
    SystemMounter.mount(&mount, &target).unwrap();
    let file = fs::File::create(target.join("file")).unwrap();
    std::thread::scope(|scope| {
        let unmounted = scope.spawn(|| SystemMounter.unmount(&target));
        // What it found in use is given back while it tries.
        drop(file);
        unmounted.join().unwrap().unwrap();
    });
    assert_eq!(site.mounts(), Vec::<String>::new());
}
