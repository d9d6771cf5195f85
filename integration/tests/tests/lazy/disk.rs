//! The disk of the cache is full, or broken: readers get right bytes all the same, and what can be stored again
//! is.

use std::fs;
use std::path::Path;
use std::process::Command;

use pontoon_rig::containerd::Version;
use pontoon_rig::image::{Conversion, convert, lazy_fixture, noise};
use pontoon_rig::wait;
use rustix::fs::Advice;

use crate::stage::{Disk, LARGE, LIMIT, Setup, Stage, View, run};

const STORED: &str = "pontoon_cache_stored_chunks";
const UNSTORED: &str = "pontoon_cache_unstored_chunks";

/// A stage whose cache has a disk of its own, with an image that is read lazily.
fn on_disk(disk: Disk, setup: &Setup) -> Option<(Stage, String)> {
    let stage = Stage::start(&Setup {
        cache_disk: Some(disk),
        ..setup.clone()
    });
    if stage.rival {
        return None;
    }
    let form = match setup.form {
        Conversion::Estargz => Conversion::EstargzSmallChunks,
        other => other,
    };
    let image = convert(&lazy_fixture().unwrap(), form).unwrap();
    let reference = stage.publish(&image, "lazy");
    stage.pull_lazily(&image.image, &reference);
    Some((stage, reference))
}

/// Reads the large file past what the kernel keeps, and fails unless it is what it should be.
fn check_large(stage: &Stage, view: &View<'_>, when: &str) {
    let path = view.path(LARGE.0);
    forget(&path);
    // EROFS reads what FUSE has a copy of.
    let mounts = stage.bench.cluster.plugin.root().join("lazy/mnt");
    for entry in fs::read_dir(mounts).unwrap() {
        let data = entry.unwrap().path();
        if data.extension().is_some_and(|ending| ending == "data") {
            forget(&data);
        }
    }
    let read = fs::read(&path);
    let read = read.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert!(
        read == noise(LARGE.1 as u64, LARGE.1),
        "{when}: wrong bytes"
    );
}

fn forget(path: &Path) {
    let file = fs::File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

fn remount(stage: &Stage, options: &str) {
    let disk = stage.disk.as_ref().unwrap();
    let options = format!("remount,{options}");
    run(Command::new("mount").args(["-o", &options]).arg(disk));
}

fn full_disk(setup: Setup) {
    // The large file alone is larger.
    let Some((mut stage, reference)) = on_disk(Disk::Memory("size=3m"), &setup) else {
        return;
    };
    let view = stage.view(&reference);
    check_large(&stage, &view, "full");
    assert!(stage.number(UNSTORED, "") > 0, "the disk is not full");
    check_large(&stage, &view, "full, once more");
    assert_eq!(view.read("odd/here/first").unwrap(), b"linked\n");
    drop(view);
    stage.check_reads("on-a-full-disk", &reference);
    stage.bench.cluster.plugin.kill().unwrap();
    stage.bench.cluster.plugin.resume().unwrap();
    stage.bench.cluster.wait_connected().unwrap();
    let view = stage.view(&reference);
    check_large(&stage, &view, "full, another daemon");
    // There is space again: what is read is kept.
    remount(&stage, "size=64m");
    is_kept(&stage, &view);
    drop(view);
    stage.finish();
}

/// Waits until all that is read is stored: then nothing is asked for.
fn is_kept(stage: &Stage, view: &View<'_>) {
    wait::until("what is read is kept", LIMIT, || {
        let (before, unstored) = (stage.blob_bytes(), stage.number(UNSTORED, ""));
        check_large(stage, view, "space again");
        let same = stage.blob_bytes() == before && stage.number(UNSTORED, "") == unstored;
        Ok((same && stage.number(STORED, "") > 0).then_some(()))
    })
    .unwrap();
}

/// As after an error of the disk: nothing can be written any more, by nobody.
fn broken_disk(setup: Setup) {
    let Some((mut stage, reference)) = on_disk(Disk::Ext4, &setup) else {
        return;
    };
    let view = stage.view(&reference);
    assert_eq!(view.read("many/001").unwrap(), noise(1, 17));
    remount(&stage, "abort");
    check_large(&stage, &view, "read-only");
    assert!(stage.number(UNSTORED, "") > 0, "the disk can be written");
    check_large(&stage, &view, "read-only, once more");
    assert_eq!(view.read("many/001").unwrap(), noise(1, 17));
    drop(view);
    stage.check_reads("on-a-broken-disk", &reference);
    // It ends as ever; what it could not store is nobody's.
    stage.bench.cluster.containerd.terminate().unwrap();
    assert!(stage.bench.cluster.plugin.terminate().unwrap().success());
}

#[test]
fn a_full_disk_is_read_past() {
    full_disk(Setup::new(Version::V2_3));
}

#[test]
fn a_full_disk_is_read_past_on_fuse() {
    full_disk(Setup::on_fuse(Version::V2_3));
}

#[test]
fn a_full_disk_is_read_past_with_a_nydus_image() {
    full_disk(nydus());
}

#[test]
fn a_disk_that_broke_is_read_past_with_a_nydus_image() {
    broken_disk(nydus());
}

fn nydus() -> Setup {
    Setup {
        form: Conversion::NydusSmallChunks,
        ..Setup::new(Version::V2_3).nydus()
    }
}

#[test]
fn a_disk_that_broke_is_read_past() {
    broken_disk(Setup::new(Version::V2_3));
}

#[test]
fn a_disk_that_broke_is_read_past_on_fuse() {
    broken_disk(Setup::on_fuse(Version::V2_3));
}
