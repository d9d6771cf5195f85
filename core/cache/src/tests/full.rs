//! A disk that is really full. Needs root, because it mounts one.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::disk::names;
use super::fixture::{Sample, wait_until};
use crate::{Cache, Config, Error, NotStored, Put};

/// A small filesystem.
struct Small {
    dir: TempDir,
}

impl Small {
    fn tmpfs(size: &str) -> Option<Small> {
        Small::mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
    }

    fn mount(arguments: &[&str]) -> Option<Small> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not run: only root can mount a small disk");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(arguments)
            .arg(dir.path())
            .status();
        assert!(mounted.unwrap().success());
        Some(Small { dir })
    }

    fn remount(&self, how: &str) {
        let mut mount = Command::new("mount");
        mount.arg("-o").arg(format!("remount,{how}"));
        assert!(mount.arg(self.dir.path()).status().unwrap().success());
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("blobs")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.dir.path()).status();
        assert!(unmounted.unwrap().success() || std::thread::panicking());
    }
}

/// More than fits, into a pinned layer; then another one is unmounted.
fn fill(dir: &Path, sample: &Sample, old: &Sample) {
    let cache = Cache::open(dir, Config::default()).unwrap();
    let old_layer = old.create(&cache);
    old.put_all(&old_layer);
    let old_pin = old_layer.pin().unwrap();
    let layer = sample.create(&cache);
    let pin = layer.pin().unwrap();
    assert!(cache.admits_background());
    let stored = |index: &usize| sample.put(&layer, *index) == Put::Stored;
    let fitted = sample.real().into_iter().take_while(stored).count();
    assert!(
        fitted > 3 && fitted < sample.real().len(),
        "{fitted} fitted"
    );
    let next = sample.real()[fitted];
    assert_eq!(sample.put(&layer, next), Put::NotStored(NotStored::Full));
    assert!(cache.stats().full && !cache.admits_background());
    // What is there can be read, and a layer that does not fit leaves nothing.
    assert!(sample.ready(&layer).len() >= fitted);
    let large = Sample::new(9, 20_000, 2);
    let error = cache
        .create(&large.key, &large.table, large.meta())
        .unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(names(&dir.join("discard")), [""; 0]);

    drop((old_pin, old_layer));
    wait_until("the old layer is evicted", || {
        cache.stats().evicted_layers == 1
    });
    wait_until("there is room", || cache.admits_background());
    assert_eq!(sample.put(&layer, next), Put::Stored);
    cache.flush().unwrap();
    drop((pin, layer, cache));
    let cache = Cache::open(dir, Config::default()).unwrap();
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert!(sample.ready(&layer).len() > fitted);
}

#[test]
fn a_full_disk_is_lived_with() {
    let Some(small) = Small::tmpfs("2m") else {
        return;
    };
    fill(
        &small.path(),
        &Sample::new(1, 40, 100_000),
        &Sample::new(2, 9, 100_000),
    );
}

#[test]
fn a_cache_on_a_full_disk_is_opened_and_read() {
    let Some(small) = Small::tmpfs("2m") else {
        return;
    };
    let sample = Sample::new(1, 10, 50_000);
    let open = || Cache::open(&small.path(), Config::default()).unwrap();
    sample.put_all(&sample.create(&open()));
    let ballast = small.dir.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let trust = small.path().join("trust");
    for _ in 0..2 {
        let cache = open();
        assert!(!trust.exists(), "it was noted on a full disk");
        let layer = cache.layer(&sample.key).unwrap().unwrap();
        assert_eq!(sample.ready(&layer).len(), sample.len());
        // What the missing note has left free.
        let mut file = OpenOptions::new().append(true).open(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }
    std::fs::remove_file(ballast).unwrap();
    let cache = open();
    assert!(trust.exists());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert_eq!(sample.ready(&layer).len(), sample.len());
    assert_eq!(cache.stats().damaged_chunks, 0);
}

#[test]
fn a_cache_that_cannot_be_written_says_so_and_loses_nothing() {
    let Some(small) = Small::tmpfs("2m") else {
        return;
    };
    let sample = Sample::new(1, 10, 50_000);
    let open = || Cache::open(&small.path(), Config::default());
    sample.put_all(&sample.create(&open().unwrap()));
    small.remount("ro");
    let error = open().unwrap_err();
    let Error::Io { path, source, .. } = &error else {
        panic!("{error}");
    };
    assert!(path.starts_with(small.path()), "{error}");
    assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    small.remount("rw");
    let cache = open().unwrap();
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert!(layer.is_complete());
    assert_eq!(sample.ready(&layer).len(), sample.len());
}

/// With delayed allocation and a journal. Long, because of mkfs and fsync.
#[test]
fn a_full_ext4_is_lived_with() {
    if std::env::var_os("PONTOON_FULL").is_none() {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(32 << 20).unwrap();
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(image.path())
        .status();
    assert!(made.unwrap().success());
    let file = image.path().to_str().unwrap();
    let Some(small) = Small::mount(&["-o", "loop", file]) else {
        return;
    };
    fill(
        &small.path(),
        &Sample::new(1, 80, 1_000_000),
        &Sample::new(2, 9, 1_000_000),
    );
}
