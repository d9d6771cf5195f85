//! The same layers from the kernel's EROFS and from FUSE.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_linux::mounts_below;
use pontoon_remote::FrontEnd;
use pontoon_snapshot::{Key, Labels};

use crate::image::{Image, Layer};
use crate::pull::{base, top};
use crate::registry::Registry;
use crate::site::{Mounted, Site, eventually};

/// The types of what is mounted below the FUSE mount.
fn covers(site: &Site) -> Vec<String> {
    let mounts = mounts_below(&fs::canonicalize(site.root()).unwrap().join("lazy/mnt")).unwrap();
    mounts.into_iter().map(|mount| mount.fs_type).collect()
}

fn is_erofs(site: &Site) -> bool {
    let chosen = site.remote().report().front_end;
    assert!(!chosen.why.is_empty());
    chosen.name == "erofs"
}

fn site(front_end: FrontEnd, background: bool) -> Site {
    Site::with(|config| {
        config.lazy.front_end = front_end;
        config.fetching.background.enabled = background;
        config.lazy.image_lifetime = Duration::ZERO;
    })
}

#[test]
fn layers_are_the_kernels_if_it_can_until_they_are_removed() {
    let registry = Registry::start();
    let image = Image::new(&[&base(), &top()]);
    let reference = registry.push(&image, "a");
    for front_end in [FrontEnd::Auto, FrontEnd::Fuse] {
        let site = site(front_end, false);
        assert!(front_end == FrontEnd::Auto || !is_erofs(&site));
        let names = site.pull("default", &image, &reference);
        assert_eq!(covers(&site), [""; 0]);
        let covered = match is_erofs(&site) {
            true => vec!["erofs"; 2],
            false => Vec::new(),
        };
        for _ in 0..2 {
            site.inside(&names[1], |root| {
                assert_eq!(fs::read(root.join("etc/more")).unwrap(), b"more");
                assert!(!root.join("gone").exists());
            });
            assert_eq!(covers(&site), covered);
        }
        site.remove(&names[1..]);
        assert_eq!(
            covers(&site),
            covered.split_last().map_or(&[][..], |(_, rest)| rest)
        );
        site.inside(&names[0], |root| assert!(root.join("gone").exists()));
        site.remove(&names[..1]);
        eventually("all are gone", || covers(&site).is_empty());
    }
}

/// A layer that is complete when it is mounted is the kernel's alone, also when the cache's file is deleted.
#[test]
fn a_complete_layer_needs_nobody() {
    let registry = Registry::start();
    let mut site = site(FrontEnd::Auto, true);
    if !is_erofs(&site) {
        return;
    }
    let content: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let image = Image::new(&[&Layer::lazy(&[("large", 0o644, &content)])]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let read = |root: &Path| assert!(fs::read(root.join("large")).unwrap() == content);
    site.inside(&names[0], |root| assert!(root.join("large").exists()));
    eventually("everything is here", || {
        let report = site.remote().report();
        report.layers[0].progress.as_ref().unwrap().percent >= 100.0
    });
    site.reopen();
    site.inside(&names[0], |root| {
        let data = files(&site.root().join("lazy/blobs")).into_iter();
        let mut data = data.filter(|path| path.ends_with("data"));
        fs::remove_file(data.next().unwrap()).unwrap();
        read(root);
    });
    let reads = site.remote().totals().fetched;
    assert_eq!((reads.ready_reads, reads.waited_reads), (0, 0));
}

/// What EROFS has read is not kept a second time as pages of FUSE's.
#[test]
fn memory_has_one_copy() {
    let registry = Registry::start();
    let site = site(FrontEnd::Auto, false);
    if !is_erofs(&site) {
        return;
    }
    let content = [7; 500_000];
    let image = Image::new(&[&Layer::lazy(&[("large", 0o644, &content)])]);
    let reference = registry.push(&image, "a");
    let names = site.pull("default", &image, &reference);
    let reads = || {
        let fetched = site.remote().totals().fetched;
        fetched.ready_reads + fetched.waited_reads
    };
    site.inside(&names[0], |root| {
        let read = || assert!(fs::read(root.join("large")).unwrap() == content);
        read();
        let report = site.remote().report();
        let number = report.layers[0].progress.as_ref().unwrap().number.unwrap();
        let data = site.root().join(format!("lazy/mnt/{number}.data"));
        eventually("FUSE's pages are gone", || {
            let before = reads();
            assert!(fs::read(&data).unwrap()[..content.len()] == content);
            reads() > before
        });
        // EROFS's are not.
        let before = reads();
        read();
        assert_eq!(reads(), before);
    });
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// What a container wrote on one front end is there on the other.
#[test]
fn a_container_may_change_its_front_end() {
    let registry = Registry::start();
    let image = Image::new(&[&base(), &top()]);
    let reference = registry.push(&image, "a");
    let mut site = site(FrontEnd::Fuse, false);
    let names = site.pull("default", &image, &reference);
    let key = Key::new("default/7/container").unwrap();
    let snapshots = site.snapshots();
    let prepared = snapshots.prepare(&key, Some(&names[1]), Labels::default());
    prepared.unwrap();
    drop(snapshots);
    let target = tempfile::tempdir().unwrap();
    let root = target.path();
    let mut expected = b"more".to_vec();
    for (front_end, step) in [
        (FrontEnd::Fuse, 1),
        (FrontEnd::Auto, 2),
        (FrontEnd::Fuse, 3),
    ] {
        site.change(|config| config.lazy.front_end = front_end);
        let mounted = Mounted::new(&site.snapshots().mounts(&key).unwrap(), root);
        assert_eq!(fs::read(root.join("etc/more")).unwrap(), expected);
        assert_eq!(fs::read(root.join("etc/name")).unwrap(), b"base");
        assert!(!root.join("gone").exists());
        expected.push(step);
        fs::write(root.join("etc/more"), &expected).unwrap();
        drop(mounted);
    }
}
