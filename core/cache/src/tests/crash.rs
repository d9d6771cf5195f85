//! What a crash leaves: at every operation, with what was not synced lost in several ways.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::disk::TestDisk;
use super::fixture::{Sample, open, temporary};
use super::image::{Event, Image, Loss, cuts, image_after, promised};
use crate::{Cache, Config, Key};

const LOSSES: [Loss; 7] = [
    Loss::Nothing,
    Loss::Everything,
    Loss::Contents,
    Loss::Names,
    Loss::Some(1),
    Loss::Some(2),
    Loss::Some(3),
];

type Promise = BTreeMap<Key, Vec<usize>>;

fn samples() -> [Sample; 2] {
    [Sample::new(1, 12, 3000), Sample::new(2, 9, 9000)]
}

/// Everything that writes, and what it promises.
fn script(cache: &Cache, disk: &TestDisk, promise: &mut Promise) {
    let [first, second] = samples();
    let mut tell = |key: &Key, chunks: &[usize]| {
        promise.insert(key.clone(), chunks.to_vec());
        disk.promise(promise.clone());
    };
    let layer = first.create(cache);
    tell(&first.key, &[]);
    (0..4).for_each(|index| _ = first.put(&layer, index));
    cache.flush().unwrap();
    tell(&first.key, &[0, 1, 2, 3]);
    first.put(&layer, 4);
    first.put(&layer, 5);
    let other = second.create(cache);
    tell(&second.key, &[]);
    second.put_all(&other);
    cache.flush().unwrap();
    tell(&first.key, &[0, 1, 2, 3, 4, 5]);
    tell(&second.key, &second.real());

    // The disk failed to read a chunk.
    tell(&first.key, &[0, 2, 3, 4, 5]);
    layer.distrust(1..2);
    first.put(&layer, 7);
    cache.flush().unwrap();
    first.put(&layer, 1);
    cache.flush().unwrap();
    tell(&first.key, &[0, 1, 2, 3, 4, 5, 7]);

    // Evicted while it is open and while it is not.
    tell(&first.key, &[]);
    tell(&second.key, &[]);
    first.put(&layer, 8);
    cache.shared.evict_layer(&layer.slot).unwrap();
    for index in [2, 3, 5] {
        first.put(&layer, index);
    }
    cache.flush().unwrap();
    tell(&first.key, &[2, 3, 5]);
    let slot = other.slot.clone();
    drop(other);
    cache.shared.evict_layer(&slot).unwrap();
    let other = second.create(cache);
    second.put(&other, 0);
    cache.flush().unwrap();
    tell(&second.key, &[0]);

    // Removed, and made again.
    promise.remove(&first.key);
    disk.promise(promise.clone());
    assert!(cache.remove(&first.key).unwrap());
    let layer = first.create(cache);
    promise.insert(first.key.clone(), Vec::new());
    disk.promise(promise.clone());
    first.put(&layer, 11);
    cache.flush().unwrap();
    promise.insert(first.key.clone(), vec![11]);
    disk.promise(promise.clone());
    first.put(&layer, 0);
}

fn cache_on(disk: &Arc<TestDisk>, root: &std::path::Path) -> Cache {
    Cache::open_on(disk.clone(), root, Config::default()).unwrap()
}

fn record() -> (Image, Vec<Event>) {
    let dir = temporary();
    let root = dir.path().join("blobs");
    fs::create_dir(&root).unwrap();
    let disk = TestDisk::new(&root);
    let mut promise = Promise::new();
    let cache = cache_on(&disk, &root);
    script(&cache, &disk, &mut promise);
    drop(cache);
    let [first, second] = samples();
    promise.insert(first.key.clone(), vec![0, 11]);
    disk.promise(promise.clone());
    // The next run of the daemon.
    let cache = cache_on(&disk, &root);
    second.put_all(&cache.layer(&second.key).unwrap().unwrap());
    cache.flush().unwrap();
    promise.insert(second.key.clone(), second.real());
    disk.promise(promise.clone());
    drop(cache);
    disk.recording()
}

/// Opens what is left and checks that all of it is right, and that what was promised is there.
fn check(image: &Image, promise: &Promise, at: &str) {
    let dir = temporary();
    image.store(dir.path());
    let cache = open(dir.path());
    for sample in samples() {
        let promised = promise.get(&sample.key);
        let Some(layer) = cache.layer(&sample.key).unwrap() else {
            assert!(promised.is_none(), "{at}: a layer is gone");
            continue;
        };
        let ready = sample.ready(&layer);
        for index in promised.into_iter().flatten() {
            assert!(
                ready.contains(index),
                "{at}: chunk {index} is gone from {ready:?}"
            );
        }
    }
}

fn checked(image: &Image, promise: &Promise, at: &str) {
    let checked = std::panic::catch_unwind(|| check(image, promise, at));
    assert!(checked.is_ok(), "{at}");
}

#[test]
fn a_crash_at_any_operation_leaves_no_bit_without_its_data_and_keeps_what_was_flushed() {
    let (start, events) = record();
    let mut count = 0;
    for events in cuts(&events) {
        for loss in LOSSES {
            let at = format!("cut after {} events, {loss:?}", events.len());
            let image = image_after(&start, events, loss);
            checked(&image, &promised(events), &at);
            count += 1;
        }
    }
    assert!(count > 600, "only {count}: the script is too short");
}

#[test]
fn a_crash_while_recovering_from_a_crash_leaves_no_bit_without_its_data_either() {
    let (start, events) = record();
    let step = if std::env::var_os("PONTOON_FULL").is_some() {
        1
    } else {
        7
    };
    let mut count = 0;
    for events in cuts(&events).step_by(step) {
        for first in [Loss::Everything, Loss::Contents, Loss::Some(4)] {
            let dir = temporary();
            image_after(&start, events, first).store(dir.path());
            let disk = TestDisk::new(dir.path());
            let cache = cache_on(&disk, dir.path());
            for sample in samples() {
                if let Some(layer) = cache.layer(&sample.key).unwrap() {
                    sample.put(&layer, 3);
                }
            }
            drop(cache);
            let (start, recovery) = disk.recording();
            for recovery in cuts(&recovery) {
                let (done, more) = (events.len(), recovery.len());
                let at = format!("cut after {done} events, {first:?}, and {more} of recovery");
                let image = image_after(&start, recovery, Loss::Some(5));
                checked(&image, &promised(events), &at);
                count += 1;
            }
        }
    }
    assert!(count > 100, "only {count}: recovery writes too little");
}

#[test]
fn a_cache_goes_on_after_a_crash() {
    let (start, events) = record();
    for events in cuts(&events).step_by(5) {
        let dir = temporary();
        image_after(&start, events, Loss::Some(6)).store(dir.path());
        let cache = open(dir.path());
        for sample in samples() {
            sample.put_all(&sample.create(&cache));
        }
        drop(cache);
        let cache = open(dir.path());
        for sample in samples() {
            let layer = cache.layer(&sample.key).unwrap().unwrap();
            assert!(layer.is_complete());
            assert_eq!(sample.ready(&layer).len(), sample.len());
        }
        let left = super::disk::names(&dir.path().join("discard"));
        assert!(left.is_empty(), "{left:?}");
    }
}
