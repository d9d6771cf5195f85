//! What a crash leaves: at every operation, with what was not synced lost in several ways.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, LazyLock};

use super::disk::{Call, TestDisk, names};
use super::fixture::{Random, Sample, open, temporary, wait_until};
use super::image::{Event, Image, Loss, cuts, image_after, layer_file, promised};
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

fn samples() -> &'static [Sample; 2] {
    static SAMPLES: LazyLock<[Sample; 2]> =
        LazyLock::new(|| [Sample::new(1, 12, 3000), Sample::new(2, 9, 9000)]);
    &SAMPLES
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
    // Everything is checked, for the machine was started anew.
    let disk = TestDisk::forgetful(dir.path());
    disk.set_boot(Some("the next one"));
    let cache = cache_on(&disk, dir.path());
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
    assert_eq!(
        cache.stats().damaged_chunks,
        0,
        "{at}: a bit without its data"
    );
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
fn a_crash_after_data_was_cut_off_leaves_no_bit_without_its_data_either() {
    let [sample, _] = samples();
    let dir = temporary();
    sample.put_all(&sample.create(&open(dir.path())));
    let data = layer_file(dir.path(), &sample.key, "data");
    let data = fs::OpenOptions::new().write(true).open(data).unwrap();
    data.set_len(20_000).unwrap();
    let disk = TestDisk::new(dir.path());
    let cache = cache_on(&disk, dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert!(layer.is_ready(1) && !layer.is_ready(8));
    drop((layer, cache));
    let (start, events) = disk.recording();
    for events in cuts(&events) {
        for loss in LOSSES {
            let at = format!("cut after {} events, {loss:?}", events.len());
            checked(&image_after(&start, events, loss), &Promise::new(), &at);
        }
    }
}

/// A chunk that is put between a sync and its bits is not among them.
#[test]
fn what_is_put_during_a_flush_waits_for_the_next_one() {
    let dir = temporary();
    let disk = TestDisk::new(dir.path());
    let cache = cache_on(&disk, dir.path());
    let layer = samples()[0].create(&cache);
    let weak = Arc::downgrade(&layer);
    let mut next = [2, 3, 4].into_iter();
    disk.after(move |call, _| {
        if matches!(call, Call::SyncData | Call::Open | Call::Write)
            && let (Some(layer), Some(index)) = (weak.upgrade(), next.next())
        {
            samples()[0].put(&layer, index);
        }
    });
    samples()[0].put(&layer, 0);
    cache.flush().unwrap();
    let (start, events) = disk.recording();
    for events in cuts(&events) {
        for loss in LOSSES {
            let at = format!("cut after {} events, {loss:?}", events.len());
            checked(&image_after(&start, events, loss), &Promise::new(), &at);
        }
    }
    cache.flush().unwrap();
    let (start, events) = disk.recording();
    let promise = Promise::from([(layer.key().clone(), vec![0, 2, 3, 4])]);
    checked(
        &image_after(&start, &events, Loss::Everything),
        &promise,
        "flushed",
    );
}

/// What is put while others are flushed.
#[test]
fn a_crash_while_many_threads_work_leaves_no_bit_without_its_data() {
    let dir = temporary();
    let disk = TestDisk::new(dir.path());
    let cache = cache_on(&disk, dir.path());
    let layers = samples().each_ref().map(|sample| sample.create(&cache));
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (cache, layers, samples) = (&cache, &layers, samples());
            scope.spawn(move || {
                let mut random = Random::new(seed);
                for _ in 0..60 {
                    let which = random.below(samples.len());
                    match random.below(12) {
                        0 => drop(cache.shared.evict_layer(&layers[which].slot)),
                        1..4 => drop(cache.flush()),
                        _ => {
                            let index = random.below(samples[which].len());
                            samples[which].put(&layers[which], index);
                        }
                    }
                }
            });
        }
    });
    drop((layers, cache));
    let (start, events) = disk.recording();
    for (number, events) in cuts(&events).enumerate() {
        let loss = [Loss::Everything, Loss::Some(7), Loss::Contents][number % 3];
        let at = format!("cut after {} events, {loss:?}", events.len());
        checked(&image_after(&start, events, loss), &Promise::new(), &at);
    }
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
            wait_until("all of it is checked", || layer.is_complete());
            assert_eq!(sample.ready(&layer).len(), sample.len());
        }
        wait_until("what was half made is gone", || {
            names(&dir.path().join("discard")).is_empty()
        });
    }
}
