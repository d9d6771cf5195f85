//! Quota, watermark, pins, and what is evicted first.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::disk::{TestDisk, broken};
use super::fixture::{Sample, temporary, wait_until};
use super::image::{Image, layer_file};
use crate::disk::Disk as _;
use crate::{Cache, CachedLayer, Config, Put};

const KIB: u64 = 1024;

/// About 80 KiB each.
fn samples(count: u64) -> Vec<Sample> {
    (0..count)
        .map(|seed| Sample::new(seed, 6, 16_384))
        .collect()
}

/// Complete layers, used one after another, a minute apart.
fn fill(cache: &Cache, disk: &TestDisk, samples: &[Sample]) -> Vec<Arc<CachedLayer>> {
    let start = disk.now();
    let layers = samples.iter().enumerate().map(|(index, sample)| {
        disk.set_now(start + 60_000 * index as u64);
        let layer = sample.create(cache);
        sample.put_all(&layer);
        layer
    });
    layers.collect()
}

/// Which layers have data.
fn full(layers: &[Arc<CachedLayer>]) -> Vec<usize> {
    let full = layers
        .iter()
        .enumerate()
        .filter(|(_, layer)| layer.ready_bytes() > 0);
    full.map(|(index, _)| index).collect()
}

#[test]
fn the_layers_that_were_not_used_for_longest_are_evicted_first() {
    let dir = temporary();
    let disk = TestDisk::forgetful(dir.path());
    let config = Config {
        max_bytes: 500 * KIB,
        free_bytes_min: 0,
    };
    let cache = Cache::open_on(disk.clone(), dir.path(), config).unwrap();
    let samples = samples(5);
    let layers = fill(&cache, &disk, &samples[..4]);
    assert_eq!(cache.evict(), 0);
    assert_eq!(full(&layers), [0, 1, 2, 3]);
    // The first one is used again, so the second one goes.
    disk.set_now(disk.now() + 3_600_000);
    assert!(samples[0].read(&layers[0], 0).is_some());
    let last = samples[4].create(&cache);
    samples[4].put_all(&last);
    wait_until("one is evicted", || full(&layers) == [0, 2, 3]);
    assert!(cache.admits_background());
    let path = layer_file(dir.path(), &samples[1].key, "data");
    assert!(!path.exists());
    // It is still a layer, and can be filled again.
    assert_eq!(samples[1].put(&layers[1], 3), Put::Stored);
    assert_eq!(samples[1].ready(&layers[1]), [3]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let stats = cache.stats();
    assert_eq!((stats.evicted_layers, stats.over_quota), (1, false));
    assert!(stats.evicted_bytes >= 80 * KIB && stats.bytes <= 500 * KIB);
}

#[test]
fn layers_that_nobody_has_open_are_evicted_too() {
    let dir = temporary();
    let samples = samples(4);
    {
        let disk = TestDisk::forgetful(dir.path());
        let cache = Cache::open_on(disk.clone(), dir.path(), Config::default()).unwrap();
        fill(&cache, &disk, &samples);
    }
    let config = Config {
        max_bytes: 280 * KIB,
        free_bytes_min: 0,
    };
    let disk = TestDisk::forgetful(dir.path());
    disk.set_now(disk.now() + 3_600_000);
    let cache = Cache::open_on(disk, dir.path(), config).unwrap();
    cache.evict();
    assert!(cache.stats().bytes <= 280 * KIB);
    let ready = |sample: &Sample| {
        sample
            .ready(&cache.layer(&sample.key).unwrap().unwrap())
            .len()
    };
    assert_eq!(samples.iter().map(ready).collect::<Vec<_>>(), [0, 0, 6, 6]);
}

#[test]
fn pinned_layers_stay_and_the_cache_goes_over_its_quota() {
    let dir = temporary();
    let disk = TestDisk::forgetful(dir.path());
    let config = Config {
        max_bytes: 300 * KIB,
        free_bytes_min: 0,
    };
    let cache = Cache::open_on(disk.clone(), dir.path(), config).unwrap();
    let samples = samples(5);
    let mut pins = Vec::new();
    for sample in &samples {
        let layer = sample.create(&cache);
        pins.push(layer.pin().unwrap());
        // Whoever reads is served, whatever the quota says.
        for index in sample.real() {
            assert_eq!(sample.put(&layer, index), Put::Stored);
        }
    }
    cache.evict();
    let stats = cache.stats();
    assert!(stats.bytes > 300 * KIB && stats.over_quota, "{stats:?}");
    assert_eq!((stats.over_quota_times, stats.evicted_layers), (1, 0));
    assert_eq!((stats.pinned_layers, stats.pinned_bytes), (5, stats.bytes));
    assert!(!cache.admits_background());
    // A pin keeps the file that it gave.
    let file = pins[4].file().unwrap();
    let path = layer_file(dir.path(), &samples[4].key, "data");
    assert_eq!(
        file.metadata().unwrap().ino(),
        fs::metadata(path).unwrap().ino()
    );

    // Unmounting is enough: nobody has to ask.
    drop(pins.drain(..3));
    wait_until("there is room again", || cache.admits_background());
    wait_until("it is noted", || !cache.stats().over_quota);
    let layers: Vec<_> = pins.iter().map(|pin| pin.layer().clone()).collect();
    assert_eq!(full(&layers), [0, 1]);
    assert_eq!(cache.stats().over_quota_times, 1);
}

#[test]
fn little_free_space_evicts_and_stops_what_nobody_waits_for() {
    let dir = temporary();
    let disk = TestDisk::forgetful(dir.path());
    disk.set_space(1 << 30, 1 << 29);
    let config = Config {
        max_bytes: 0,
        free_bytes_min: 1 << 20,
    };
    let cache = Cache::open_on(disk.clone(), dir.path(), config).unwrap();
    let samples = samples(4);
    let layers = fill(&cache, &disk, &samples);
    assert!(cache.admits_background());
    // 120 KiB too little, and an eighth of a MiB is to be left beyond.
    disk.set_space(1 << 30, (1 << 20) - 30 * KIB);
    assert!(cache.evict() >= 158 * KIB);
    assert_eq!(full(&layers), [2, 3]);
    assert!(cache.stats().low_space && !cache.admits_background());
    disk.set_space(1 << 30, (1 << 20) + 130 * KIB);
    assert_eq!(cache.evict(), 0);
    assert!(!cache.stats().low_space && cache.admits_background());
    // With everything pinned there is nothing to evict.
    let _pins: Vec<_> = layers.iter().map(|layer| layer.pin().unwrap()).collect();
    disk.set_space(1 << 30, 0);
    assert_eq!(cache.evict(), 0);
    assert!(!cache.admits_background());
    assert_eq!(samples[0].put(&layers[0], 0), Put::Stored);
}

/// An eviction that the disk stops at any operation leaves a layer that reads right and can be put into.
#[test]
fn an_eviction_that_fails_anywhere_leaves_a_layer_that_works() {
    let dir = temporary();
    let disk = TestDisk::forgetful(dir.path());
    let cache = Cache::open_on(disk.clone(), dir.path(), Config::default()).unwrap();
    let sample = &samples(1)[0];
    let layer = sample.create(&cache);
    for open in [true, false] {
        for fatal in 0.. {
            sample.put_all(&layer);
            cache.flush().unwrap();
            let mut calls = 0;
            disk.fail(move |_, _| {
                calls += 1;
                (calls > fatal).then(broken)
            });
            let evicted = cache.shared.evict_layer(&layer.slot);
            disk.work();
            if open {
                let put = sample.put(&layer, 1);
                assert!(matches!(put, Put::Stored | Put::Known), "{fatal}: {put:?}");
                let ready = sample.ready(&layer);
                assert!(ready == [1] || (ready == sample.real() && evicted.is_err()));
                // And what can be read is durable again.
                cache.flush().unwrap();
                let copy = temporary();
                Image::load(dir.path(), &mut |_, _| {}).store(copy.path());
                let copied = Cache::open(copy.path(), Config::default()).unwrap();
                let copied = copied.layer(&sample.key).unwrap().unwrap();
                assert_eq!(sample.ready(&copied), ready, "failed at {fatal}");
            }
            if evicted.is_ok() {
                assert!(fatal > 1);
                break;
            }
        }
    }
}
