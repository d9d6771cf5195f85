//! fsck over what crashes and people leave.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pontoon_overlay::{FsckReport, fsck};
use pontoon_snapshot::{Class, Labels};

use crate::site::{Site, key};

/// `base` (1) with `top` (2) with active `container` (3) on it, and by themselves active `active` (4), view `view` (5).
fn site() -> Site {
    let site = Site::new();
    site.layer("base", None, |root| {
        fs::write(root.join("file"), "").unwrap()
    });
    site.layer("top", Some("base"), |_| {});
    let snapshots = site.snapshots();
    let top = key("top");
    snapshots
        .prepare(&key("container"), Some(&top), Labels::default())
        .unwrap();
    snapshots
        .prepare(&key("active"), None, Labels::default())
        .unwrap();
    snapshots
        .view(&key("view"), None, Labels::default())
        .unwrap();
    site
}

fn directory(site: &Site, name: &str) -> PathBuf {
    site.root().join("snapshots").join(name)
}

/// As [`repair_root`]; the check does not touch the snapshots.
fn repair(site: &Site) -> (FsckReport, FsckReport) {
    let before = site.directories();
    fsck(&site.root(), false).unwrap();
    assert_eq!(site.directories(), before, "a check changes nothing");
    repair_root(site)
}

/// Checks, repairs and checks again; the reports of the first two.
fn repair_root(site: &Site) -> (FsckReport, FsckReport) {
    let found = fsck(&site.root(), false).unwrap();
    let repaired = fsck(&site.root(), true).unwrap();
    assert!(found.findings.iter().all(|finding| !finding.repaired));
    assert!(repaired.findings.iter().all(|finding| finding.repaired));
    let objects = |report: &FsckReport| -> Vec<String> {
        report
            .findings
            .iter()
            .map(|finding| finding.object.clone())
            .collect()
    };
    assert_eq!(objects(&found), objects(&repaired));
    assert_eq!(fsck(&site.root(), false).unwrap().findings, []);
    (found, repaired)
}

fn told(report: &FsckReport) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_root_has_no_findings() {
    let mut site = site();
    site.snapshots().remove(&key("active")).unwrap();
    site.reopen(|site| {
        let report = fsck(&site.root(), false).unwrap();
        assert_eq!((report.snapshots, report.findings), (4, vec![]));
    });
}

#[test]
fn a_root_in_use_is_left_alone() {
    let site = site();
    let error = fsck(&site.root(), true).unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    let missing = fsck(&site.path("missing"), true).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    assert!(!site.path("missing").exists());
}

#[test]
fn directories_follow_the_records() {
    let mut site = site();
    site.reopen(|site| {
        fs::create_dir_all(directory(site, "99/fs/deep")).unwrap();
        fs::create_dir(directory(site, "notes")).unwrap();
        fs::remove_dir_all(directory(site, "4")).unwrap();
        fs::remove_dir(directory(site, "5/fs")).unwrap();
        fs::remove_dir(directory(site, "3/work")).unwrap();
        fs::set_permissions(site.root().join("empty"), fs::Permissions::from_mode(0o777)).unwrap();
        let (found, _) = repair(site);
        let told = told(&found);
        assert_eq!(told.len(), 5, "{told:#?}");
        assert!(told[0].ends_with("empty: its mode is 0777, not 0755; set its mode"), "{told:#?}");
        for expected in [
            "active snapshot active of test: its directory snapshots/4/fs is missing; make it, empty",
            "active snapshot container of test: its work directory is missing; make it",
            "view snapshot view of test: its directory snapshots/5/fs is missing; make it, empty",
        ] {
            assert!(told.iter().any(|told| told.starts_with(expected)), "{told:#?}");
        }
        assert!(told[4].contains("snapshots/99: no snapshot has it; delete it"), "{told:#?}");
        assert_eq!(site.directories(), ["1", "2", "3", "4", "5", "notes"]);
    });
    let mounts = site.snapshots().mounts(&key("container")).unwrap();
    site.inside(&mounts, |root| {
        assert!(root.join("file").exists());
        fs::write(root.join("new"), "").unwrap();
    });
}

#[test]
fn a_lost_layer_takes_along_what_is_built_on_it() {
    let mut site = site();
    site.reopen(|site| {
        fs::remove_dir_all(directory(site, "1")).unwrap();
        fs::remove_dir_all(directory(site, "3")).unwrap();
        let (found, _) = repair(site);
        assert_eq!(found.snapshots, 5);
        let loud = "REMOVE IT WITH ITS DATA; then remove the image and the containers that use it, let containerd collect, and pull the image again";
        assert_eq!(
            told(&found),
            [
                format!("snapshot container of test: it is built on base, whose directory is missing; {loud}"),
                format!("snapshot top of test: it is built on base, whose directory is missing; {loud}"),
                format!("snapshot base of test: it is committed, and its directory is missing; {loud}"),
            ]
        );
    });
    let snapshots = site.snapshots();
    for gone in ["base", "top", "container"] {
        assert_eq!(
            snapshots.stat(&key(gone)).unwrap_err().class(),
            Class::NotFound
        );
    }
    for kept in ["active", "view"] {
        snapshots.mounts(&key(kept)).unwrap();
    }
}

#[test]
fn directories_without_any_metadata_are_never_deleted() {
    let mut site = site();
    let kept = site.path("kept");
    site.reopen(|site| {
        let metadata = site.root().join("metadata.redb");
        fs::rename(&metadata, &kept).unwrap();
        let report = fsck(&site.root(), true).unwrap();
        assert_eq!(report.findings.len(), 1);
        assert!(!report.findings[0].repairable && !report.findings[0].repaired);
        assert!(
            report.findings[0]
                .problem
                .contains("5 snapshot directories")
        );
        let error = site.open_refused();
        assert_eq!(error.class(), Class::FailedPrecondition);
        assert!(
            error.to_string().contains("metadata.redb is missing"),
            "{error}"
        );
        assert!(!metadata.exists());

        fs::write(&metadata, "garbage").unwrap();
        let report = fsck(&site.root(), true).unwrap();
        assert!(report.findings.iter().all(|finding| !finding.repaired));
        assert_eq!(report.findings.len(), 1, "{report:?}");
        assert_eq!(site.open_refused().class(), Class::Corrupt);
        assert_eq!(site.directories().len(), 5);
        fs::rename(&kept, &metadata).unwrap();
    });
    assert_eq!(site.engine().names().unwrap()[0].1, 5);
}

#[test]
fn missing_directories_of_the_root_are_made() {
    let mut site = Site::new();
    site.reopen(|site| {
        fs::remove_dir(site.root().join("snapshots")).unwrap();
        fs::remove_dir(site.root().join("empty")).unwrap();
        let (found, _) = repair_root(site);
        assert_eq!(found.findings.len(), 2);
    });
    assert_eq!(site.directories(), [""; 0]);
}

#[test]
fn a_directory_that_is_no_root_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let error = fsck(directory.path(), true).unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
