//! Disks that fail.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::disk::{Call, TestDisk, broken, full, names};
use super::fixture::{Sample, open, temporary};
use super::image::layer_file;
use crate::{Cache, CachedLayer, Config, Error, NotStored, Put};

fn cached(dir: &std::path::Path) -> (Arc<TestDisk>, Cache, Sample, Arc<CachedLayer>) {
    let disk = TestDisk::forgetful(dir);
    let cache = Cache::open_on(disk.clone(), dir, Config::default()).unwrap();
    let sample = Sample::new(1, 10, 5000);
    let layer = sample.create(&cache);
    (disk, cache, sample, layer)
}

#[test]
fn what_could_not_be_synced_is_not_trusted_any_more() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    sample.put(&layer, 0);
    cache.flush().unwrap();
    sample.put(&layer, 1);
    disk.fail(|call, path| (call == Call::SyncData && path.ends_with("data")).then(broken));
    // Unless the cache's own thread was faster.
    let flushed = cache.flush();
    disk.work();
    assert!(flushed.is_err() || cache.stats().failed_syncs > 0);
    assert_eq!(sample.ready(&layer), [0, 6]);
    assert_eq!(cache.stats().distrusted_chunks, 1);
    assert_eq!(sample.put(&layer, 1), Put::Stored);
    cache.flush().unwrap();
    drop((layer, cache));
    let cache = open(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert_eq!(sample.ready(&layer), [0, 1, 6]);
}

/// The kernel may have lost what was put while it synced, and says so only once.
#[test]
fn what_was_put_during_a_sync_that_failed_is_not_trusted_either() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    let weak = Arc::downgrade(&layer);
    let failed = Arc::new(AtomicUsize::new(0));
    let fails = failed.clone();
    disk.fail(move |call, path| {
        let fatal = call == Call::SyncData && path.ends_with("data");
        (fatal && fails.fetch_add(1, Ordering::Relaxed) == 0).then(broken)
    });
    disk.after(move |call, path| {
        if call == Call::SyncData
            && path.ends_with("data")
            && failed.load(Ordering::Relaxed) == 1
            && let Some(layer) = weak.upgrade()
        {
            Sample::new(1, 10, 5000).put(&layer, 2);
        }
    });
    sample.put(&layer, 1);
    let flushed = cache.flush();
    assert!(flushed.is_err() || cache.stats().failed_syncs > 0);
    cache.flush().unwrap();
    drop((layer, cache));
    let cache = open(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert_eq!(sample.ready(&layer), [6]);
}

#[test]
fn bits_that_could_not_be_written_are_written_later() {
    for failing in [Call::Open, Call::Write, Call::SyncData] {
        let dir = temporary();
        let (disk, cache, sample, layer) = cached(dir.path());
        sample.put(&layer, 0);
        disk.fail(move |call, path| (call == failing && path.ends_with("ready")).then(broken));
        let flushed = cache.flush();
        assert!(flushed.is_err() || cache.stats().failed_syncs > 0);
        disk.work();
        assert_eq!(sample.ready(&layer), [0, 6]);
        sample.put(&layer, 2);
        cache.flush().unwrap();
        drop((layer, cache));
        let cache = open(dir.path());
        let layer = cache.layer(&sample.key).unwrap().unwrap();
        assert_eq!(sample.ready(&layer), [0, 2, 6], "{failing:?}");
    }
}

#[test]
fn a_chunk_that_the_disk_fails_to_read_is_fetched_again() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    sample.put_all(&layer);
    cache.flush().unwrap();
    disk.fail(|call, _| (call == Call::Read).then(broken));
    assert_eq!(sample.read(&layer, 3), None);
    disk.work();
    assert!(!layer.is_ready(3));
    cache.flush().unwrap();
    // Nor is it believed after a crash.
    let copy = temporary();
    super::image::Image::load(dir.path(), &mut |_, _| {}).store(copy.path());
    let copied = open(copy.path());
    assert!(!copied.layer(&sample.key).unwrap().unwrap().is_ready(3));
    assert_eq!(sample.put(&layer, 3), Put::Stored);
    assert!(layer.is_complete());
}

#[test]
fn data_that_somebody_cut_off_is_fetched_again() {
    let dir = temporary();
    let (_, _cache, sample, layer) = cached(dir.path());
    sample.put_all(&layer);
    let path = layer_file(dir.path(), &sample.key, "data");
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(6000)
        .unwrap();
    assert!(sample.read(&layer, 0).is_some());
    assert_eq!(sample.read(&layer, 9), None);
    sample.put(&layer, 9);
    assert!(sample.read(&layer, 9).is_some());
}

#[test]
fn a_write_that_fails_does_not_fail_the_read() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    disk.set_now(1_000_000);
    assert!(cache.admits_background());
    disk.fail(|call, _| (call == Call::Write).then(broken));
    assert_eq!(sample.put(&layer, 0), Put::NotStored(NotStored::Failed));
    // What is fetched for nobody would be thrown away; some time later it is tried again.
    assert!(!cache.admits_background());
    disk.set_now(1_009_999);
    assert!(!cache.admits_background());
    disk.set_now(1_010_000);
    assert!(cache.admits_background());
    disk.fail(|call, _| (call == Call::Write).then(full));
    assert_eq!(sample.put(&layer, 0), Put::NotStored(NotStored::Full));
    assert!(!layer.is_ready(0));
    assert_eq!(cache.stats().not_stored_chunks, 2);
    disk.work();
    assert_eq!(sample.put(&layer, 0), Put::Stored);
}

/// Orders that no crash would show, because opening a layer would make up for them.
#[test]
fn a_bit_comes_after_its_data_and_goes_before_it() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    let early = Arc::downgrade(&layer);
    let looked = Arc::new(AtomicUsize::new(0));
    let looks = looked.clone();
    disk.fail(move |call, path| {
        if call == Call::Write && path.ends_with("data") {
            assert!(!early.upgrade().unwrap().is_ready(3));
            looks.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    sample.put(&layer, 3);
    cache.flush().unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    disk.fail(move |call, path| {
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        seen.lock().unwrap().push((call, file));
        None
    });
    cache.shared.evict_layer(&layer.slot).unwrap();
    disk.work();
    assert_eq!(looked.load(Ordering::Relaxed), 1);
    let ready = |call| (call, "ready".to_owned());
    let expected = [
        ready(Call::Open),
        ready(Call::SetLen),
        ready(Call::SyncData),
        (Call::RemoveFile, "data".to_owned()),
    ];
    assert_eq!(*calls.lock().unwrap(), expected);
}

/// A layer that cannot be made leaves nothing behind, wherever it failed.
#[test]
fn a_layer_that_cannot_be_made_leaves_nothing() {
    let dir = temporary();
    let disk = TestDisk::forgetful(dir.path());
    let cache = Cache::open_on(disk.clone(), dir.path(), Config::default()).unwrap();
    let sample = Sample::new(1, 10, 100);
    let mut failures = 0;
    for fatal in 0..50 {
        let mut calls = 0;
        disk.fail(move |call, _| {
            // Cleaning up is not what is tested.
            let counts = !matches!(call, Call::RemoveFile | Call::RemoveDir);
            calls += usize::from(counts);
            (counts && calls == fatal + 1).then(full)
        });
        let made = cache.create(&sample.key, &sample.table, sample.meta());
        disk.work();
        assert_eq!(
            names(&dir.path().join("discard")),
            [""; 0],
            "failed at {fatal}"
        );
        match made {
            Ok(layer) => {
                // Else it is evicted, for the disk was full a moment ago.
                let _pin = layer.pin().unwrap();
                sample.put_all(&layer);
                cache.flush().unwrap();
                drop(layer);
                let copy = temporary();
                super::image::Image::load(dir.path(), &mut |_, _| {}).store(copy.path());
                let copied = open(copy.path());
                let layer = copied.layer(&sample.key).unwrap().unwrap();
                assert_eq!(sample.ready(&layer).len(), 10);
                break;
            }
            Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
        failures += 1;
    }
    assert!((10..50).contains(&failures), "{failures}");
}

/// Opening says so when the disk fails, and nothing is lost by it.
#[test]
fn opening_on_a_failing_disk_loses_nothing() {
    let dir = temporary();
    let (_, cache, sample, layer) = cached(dir.path());
    sample.put_all(&layer);
    drop((layer, cache));
    for fatal in 0.. {
        let disk = TestDisk::forgetful(dir.path());
        let calls = Arc::new(AtomicUsize::new(0));
        let called = calls.clone();
        disk.fail(move |call, _| {
            // Opening reads nothing. What is in doubt is read later, and what cannot be is fetched again.
            let fails = call != Call::Read && called.fetch_add(1, Ordering::Relaxed) == fatal;
            fails.then(|| std::io::ErrorKind::OutOfMemory.into())
        });
        let opened = Cache::open_on(disk.clone(), dir.path(), Config::default());
        let layer = opened.as_ref().map(|cache| cache.layer(&sample.key));
        disk.work();
        if let Ok(Ok(layer)) = layer {
            assert_eq!(sample.ready(&layer.unwrap()).len(), 10);
            // Without the file that says what can be believed it goes on.
            if calls.load(Ordering::Relaxed) <= fatal {
                assert!(fatal > 8);
                break;
            }
        }
    }
}
