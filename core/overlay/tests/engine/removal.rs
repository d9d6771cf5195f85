//! Remove, Cleanup, and what a crash leaves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use pontoon_overlay::{Options, fsck};
use pontoon_snapshot::{Class, Error, Labels, SnapshotterName};

use crate::site::{Mounted, Site, eventually, extract, key, option};

fn upper_of(mounts: &[pontoon_snapshot::Mount]) -> &Path {
    Path::new(option(mounts, "upperdir").unwrap_or(&mounts[0].source))
}

#[test]
fn remove_frees_the_key_and_cleanup_the_space() {
    let site = Site::new();
    let snapshots = site.snapshots();
    let first = snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    fs::write(upper_of(&first).join("file"), "data").unwrap();
    snapshots.remove(&key("a")).unwrap();
    assert!(upper_of(&first).exists(), "deleted later");
    let second = snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    assert_ne!(first, second);
    assert_eq!(site.engine().removed().unwrap(), 1);
    snapshots.cleanup().unwrap();
    assert!(!upper_of(&first).exists() && upper_of(&second).exists());
    assert_eq!(site.directories().len(), 1);
    assert_eq!(site.engine().removed().unwrap(), 0);
    snapshots.cleanup().unwrap();
}

#[test]
fn a_synchronous_remove_has_deleted_when_it_returns() {
    let options = Options {
        sync_remove: true,
        ..Options::default()
    };
    let site = Site::with_options(options);
    let snapshots = site.snapshots();
    snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    snapshots.remove(&key("a")).unwrap();
    assert_eq!(site.directories(), [""; 0]);
    assert_eq!(site.engine().removed().unwrap(), 0);
}

#[test]
fn without_cleanup_it_is_deleted_all_the_same() {
    let site = Site::new();
    let snapshots = site.snapshots();
    snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    snapshots.remove(&key("a")).unwrap();
    eventually("the directory is deleted", || site.directories().is_empty());
    eventually("that is noted", || site.engine().removed().unwrap() == 0);
}

/// Makes a file undeletable, also when the test fails.
struct Immutable(std::path::PathBuf);

impl Immutable {
    fn new(path: std::path::PathBuf) -> Self {
        fs::write(&path, "").unwrap();
        let file = fs::File::open(&path).unwrap();
        rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::IMMUTABLE).unwrap();
        Immutable(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        if let Ok(file) = fs::File::open(&self.0) {
            let _ = rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::empty());
        }
    }
}

#[test]
fn what_cannot_be_deleted_is_kept_on_the_list_and_stops_nothing() {
    let site = Site::new();
    let snapshots = site.snapshots();
    let stuck = snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    snapshots
        .prepare(&key("b"), None, Labels::default())
        .unwrap();
    let immutable = Immutable::new(upper_of(&stuck).join("file"));
    snapshots.remove(&key("a")).unwrap();
    snapshots.remove(&key("b")).unwrap();
    snapshots.cleanup().unwrap();
    assert_eq!(site.directories().len(), 1);
    assert_eq!(site.engine().removed().unwrap(), 1);
    drop(immutable);
    snapshots.cleanup().unwrap();
    assert_eq!(site.directories(), [""; 0]);
    assert_eq!(site.engine().removed().unwrap(), 0);
}

#[test]
fn a_refused_prepare_leaves_no_directory() {
    let site = Site::new();
    let snapshots = site.snapshots();
    snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    for labels in [Labels::default(), extract("sha256:1")] {
        let error = snapshots.prepare(&key("a"), None, labels).unwrap_err();
        assert_eq!(error.class(), Class::AlreadyExists);
    }
    let error = snapshots
        .prepare(&key("b"), Some(&key("a")), Labels::default())
        .unwrap_err();
    assert!(matches!(error, Error::ParentNotCommitted { .. }), "{error}");
    let error = snapshots
        .view(&key("b"), Some(&key("none")), Labels::default())
        .unwrap_err();
    assert!(matches!(error, Error::ParentNotFound { .. }), "{error}");
    assert_eq!(site.directories().len(), 1);
}

#[test]
fn the_next_start_deletes_what_a_crash_left() {
    let mut site = Site::new();
    let snapshots = site.snapshots();
    let kept = snapshots
        .prepare(&key("kept"), None, Labels::default())
        .unwrap();
    snapshots
        .prepare(&key("removed"), None, Labels::default())
        .unwrap();
    snapshots.remove(&key("removed")).unwrap();
    drop(snapshots);
    site.reopen(|site| {
        let directory = site.root().join("snapshots");
        // Prepare was cut off before its record; a stranger's directory is not touched.
        fs::create_dir_all(directory.join("900/fs/deep/er")).unwrap();
        fs::create_dir(directory.join("notes")).unwrap();
    });
    let id = upper_of(&kept).parent().unwrap().file_name().unwrap();
    let expected = [id.to_str().unwrap(), "notes"];
    eventually("leftovers are deleted", || site.directories() == expected);
    eventually("that is noted", || site.engine().removed().unwrap() == 0);
    // An id that was seen is not used again.
    let next = site
        .snapshots()
        .prepare(&key("next"), None, Labels::default());
    let next = next.unwrap();
    let id = upper_of(&next).parent().unwrap().file_name().unwrap();
    assert!(id.to_str().unwrap().parse::<u64>().unwrap() > 900);
}

#[test]
fn a_lost_directory_comes_back_empty_if_active_and_is_told_if_committed() {
    let mut site = Site::new();
    site.layer("base", None, |root| {
        fs::write(root.join("file"), "").unwrap()
    });
    site.layer("top", Some("base"), |_| {});
    let snapshots = site.snapshots();
    let active = snapshots
        .prepare(&key("active"), None, Labels::default())
        .unwrap();
    let child = snapshots
        .prepare(&key("child"), Some(&key("top")), Labels::default())
        .unwrap();
    let lower = option(&child, "lowerdir").unwrap().split(':').next_back();
    let base = Path::new(lower.unwrap()).parent().unwrap();
    drop(snapshots);
    site.reopen(|_| {
        fs::remove_dir_all(upper_of(&active).parent().unwrap()).unwrap();
        fs::remove_dir_all(base).unwrap();
    });
    let snapshots = site.snapshots();
    assert_eq!(snapshots.mounts(&key("active")).unwrap(), active);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(upper_of(&active)), 0o755);
    assert_eq!(mode(&upper_of(&active).with_file_name("work")), 0o711);
    let told = [
        snapshots.mounts(&key("child")).unwrap_err(),
        snapshots
            .view(&key("view"), Some(&key("base")), Labels::default())
            .unwrap_err(),
    ];
    for error in told {
        assert_eq!(error.class(), Class::Corrupt);
        assert!(
            error.to_string().contains("snapshot base is damaged"),
            "{error}"
        );
    }
    // It can still be removed.
    snapshots.remove(&key("child")).unwrap();
    snapshots.remove(&key("top")).unwrap();
    snapshots.remove(&key("base")).unwrap();
    snapshots.cleanup().unwrap();
}

#[test]
fn metadata_older_than_the_directories_goes_on_after_them() {
    let mut site = Site::new();
    let metadata = site.root().join("metadata.redb");
    let backup = site.path("backup");
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to).unwrap();
    };
    site.reopen(|_| copy(&metadata, &backup));
    site.snapshots()
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    site.reopen(|_| copy(&backup, &metadata));
    site.snapshots()
        .prepare(&key("b"), None, Labels::default())
        .unwrap();
    eventually("the orphan is deleted", || site.directories() == ["2"]);
    let name = SnapshotterName::new("test").unwrap();
    assert_eq!(site.engine().names().unwrap(), [(name, 1)]);
}

#[test]
fn directories_that_no_record_knows_are_kept_while_they_are_mounted() {
    let mut site = Site::new();
    let metadata = site.root().join("metadata.redb");
    let backup = site.path("backup");
    site.reopen(|_| assert!(fs::copy(&metadata, &backup).is_ok()));
    site.layer("base", None, |root| {
        fs::write(root.join("file"), "").unwrap();
    });
    let snapshots = site.snapshots();
    let prepare = |name| {
        let base = key("base");
        let prepared = snapshots.prepare(&key(name), Some(&base), Labels::default());
        prepared.unwrap()
    };
    let running = prepare("running");
    prepare("idle");
    drop(snapshots);
    let target = site.path("running");
    fs::create_dir(&target).unwrap();
    let mounted = Mounted::new(&running, &target);
    site.reopen(|site| {
        fs::copy(&backup, &metadata).unwrap();
        let report = fsck(&site.root(), false).unwrap();
        let repairable = |finding: &pontoon_overlay::Finding| finding.repairable;
        let findings: Vec<bool> = report.findings.iter().map(repairable).collect();
        assert_eq!(findings, [false, false, true], "{report:?}");
    });
    eventually("what is not mounted is deleted", || {
        site.directories() == ["1", "2"]
    });
    assert!(target.join("file").exists());
    site.reopen(|_| drop(mounted));
    eventually("nothing is kept", || site.directories().is_empty());
}

#[test]
fn a_directory_that_is_there_in_part_is_completed_or_told() {
    let mut site = Site::new();
    site.layer("damaged", None, |_| {});
    site.layer("base", None, |root| chown(root, Some(7), Some(8)).unwrap());
    let snapshots = site.snapshots();
    let base = key("base");
    for name in ["no-work", "no-upper", "nothing"] {
        snapshots
            .prepare(&key(name), Some(&base), Labels::default())
            .unwrap();
    }
    snapshots
        .view(&key("view"), None, Labels::default())
        .unwrap();
    drop(snapshots);
    let path = |site: &Site, name: &str| site.root().join("snapshots").join(name);
    site.reopen(|site| {
        for gone in ["1/fs", "3/work", "4/fs", "5", "6/fs"] {
            fs::remove_dir_all(path(site, gone)).unwrap();
        }
    });
    for made in ["3/work", "4/fs", "4/work", "5/fs", "5/work", "6/fs"] {
        assert!(path(&site, made).is_dir(), "{made}");
    }
    for upper in ["3/fs", "4/fs", "5/fs"] {
        let upper = fs::metadata(path(&site, upper)).unwrap();
        assert_eq!((upper.uid(), upper.gid()), (7, 8));
    }
    let error = site
        .snapshots()
        .view(&key("of-damaged"), Some(&key("damaged")), Labels::default())
        .unwrap_err();
    assert_eq!(error.class(), Class::Corrupt);
}

#[test]
fn closing_does_not_wait_for_deletions_and_the_next_start_ends_them() {
    let mut site = Site::new();
    let snapshots = site.snapshots();
    let mounts = snapshots
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    fs::write(upper_of(&mounts).join("file"), "").unwrap();
    snapshots.remove(&key("a")).unwrap();
    site.engine().close();
    let error = snapshots.cleanup().unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(upper_of(&mounts).join("file").exists());
    drop(snapshots);
    site.reopen(|_| {});
    eventually("the directory is deleted", || site.directories().is_empty());
}
