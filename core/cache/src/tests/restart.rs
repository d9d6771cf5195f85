//! What a cache is after it was closed, and what others may see of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pontoon_layer::Digest;

use super::disk::TestDisk;
use super::fixture::{Sample, key, open, temporary, wait_until};
use crate::disk::Disk as _;
use crate::{Cache, Config, Error, Key, Meta, NotStored, Put, Read, Usage};

/// What is really allocated below `path`, and how many files and directories there are.
fn measured(path: &Path) -> Usage {
    let metadata = path.symlink_metadata().unwrap();
    let mut usage = Usage {
        bytes: metadata.blocks() * 512,
        inodes: 1,
    };
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let below = measured(&entry.unwrap().path());
            usage.bytes += below.bytes;
            usage.inodes += below.inodes;
        }
    }
    usage
}

#[test]
fn everything_is_used_again_after_a_restart() {
    let dir = temporary();
    let sample = Sample::new(1, 9000, 64);
    let cache = open(dir.path());
    let layer = sample.create(&cache);
    for index in (0..sample.len()).step_by(3) {
        sample.put(&layer, index);
    }
    let (ready, bytes) = (sample.ready(&layer), layer.ready_bytes());
    drop((layer, cache));

    let cache = open(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert_eq!(sample.ready(&layer), ready);
    assert_eq!(layer.ready_bytes(), bytes);
    assert_eq!(layer.meta(), &sample.meta());
    assert_eq!(layer.chunks().len(), sample.len());
    assert!(ready.iter().all(|index| matches!(
        sample.put(&layer, *index),
        Put::Known | Put::NotStored(NotStored::Unfit)
    ) || sample.is_zeros(*index)));
    assert_eq!(cache.stats().stored_chunks, 0);
}

#[test]
fn usage_is_what_is_really_allocated() {
    let dir = temporary();
    let sample = Sample::new(1, 20, 50_000);
    let cache = open(dir.path());
    let layer = sample.create(&cache);
    let place = crate::dir::place(dir.path(), &sample.key);
    (0..10).for_each(|index| _ = sample.put(&layer, index));
    assert_eq!(layer.usage(), measured(&place));
    cache.flush().unwrap();
    let usage = measured(&place);
    // The bitmap has grown by a block.
    assert!(usage.bytes - layer.usage().bytes <= 4096);
    assert_eq!(cache.usage(&sample.key), Some(layer.usage()));
    assert_eq!(cache.stats().bytes, layer.usage().bytes);
    drop((layer, cache));
    let cache = open(dir.path());
    assert_eq!(cache.usage(&sample.key), Some(usage));
    assert_eq!(cache.stats().bytes, usage.bytes);
    assert_eq!(cache.usage(&key(99)), None);
}

#[test]
fn nobody_else_may_look() {
    let dir = temporary();
    let root = dir.path().join("blobs");
    fs::create_dir(&root).unwrap();
    let sample = Sample::new(1, 5, 100);
    sample.create(&open(&root));
    let mut paths = vec![root];
    while let Some(path) = paths.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.mode() & 0o7777, expected, "{}", path.display());
        if metadata.is_dir() {
            paths.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
}

#[test]
fn another_table_of_contents_is_another_layer() {
    let dir = temporary();
    let cache = open(dir.path());
    let honest = Sample::new(1, 5, 100);
    let mut liar = Sample::new(2, 5, 100);
    liar.key = Key::new(honest.key.blob.clone(), Digest::of(b"the liar's"));
    liar.put_all(&liar.create(&cache));
    assert!(cache.layer(&honest.key).unwrap().is_none());
    let layer = honest.create(&cache);
    honest.put_all(&layer);
    assert_eq!(honest.ready(&layer).len(), 5);
    drop((layer, cache));
    let cache = open(dir.path());
    assert_eq!(cache.stats().layers, 2);
    assert_eq!(
        honest
            .ready(&cache.layer(&honest.key).unwrap().unwrap())
            .len(),
        5
    );
    assert_eq!(
        liar.ready(&cache.layer(&liar.key).unwrap().unwrap()).len(),
        5
    );
}

#[test]
fn a_layer_that_is_there_is_answered_and_another_table_is_refused() {
    let dir = temporary();
    let cache = open(dir.path());
    let sample = Sample::new(1, 5, 100);
    let layer = sample.create(&cache);
    assert!(std::sync::Arc::ptr_eq(&layer, &sample.create(&cache)));
    let other = Sample::new(2, 5, 100);
    let error = cache
        .create(&sample.key, &other.table, Meta::default())
        .unwrap_err();
    assert!(matches!(error, Error::OtherTable { .. }), "{error}");
    let notes = BTreeMap::from([("a note".to_owned(), String::new())]);
    let meta = Meta {
        blob_bytes: 1,
        notes,
    };
    let error = cache.create(&other.key, &other.table, meta).unwrap_err();
    assert!(matches!(error, Error::Unfit { .. }), "{error}");
    assert_eq!(super::disk::names(&dir.path().join("discard")), [""; 0]);
}

#[test]
fn reads_are_whole_or_missing() {
    let dir = temporary();
    let cache = open(dir.path());
    let sample = Sample::new(1, 7, 5000);
    let layer = sample.create(&cache);
    let chunks = sample.table.chunks();
    // Chunk 6 is zeros, and what is between files is too.
    let mut buffer = vec![1; chunks[6].length as usize];
    assert_eq!(
        layer.read_at(chunks[6].data_offset, &mut buffer).unwrap(),
        Read::Done
    );
    assert!(buffer.iter().all(|byte| *byte == 0));
    let mut gap = vec![1; 100];
    assert_eq!(
        layer.read_at(chunks[0].data_end() + 1, &mut gap).unwrap(),
        Read::Done
    );
    assert_eq!(gap, [0; 100]);
    sample.put(&layer, 0);
    sample.put(&layer, 2);
    let mut all = vec![1; chunks[2].data_end() as usize];
    assert_eq!(layer.read_at(0, &mut all).unwrap(), Read::Missing(1));
    assert_eq!(layer.first_missing(0..chunks[2].data_end()), Some(1));
    assert_eq!(layer.first_missing(0..chunks[0].data_end()), None);
    sample.put(&layer, 1);
    assert_eq!(layer.read_at(0, &mut all).unwrap(), Read::Done);
    assert_eq!(all[..5000], *sample.chunk(0).into_inner());
    assert_eq!(all[5000..8192], [0; 3192]);
    assert_eq!(all[8192..13_192], *sample.chunk(1).into_inner());
    assert_eq!(layer.missing(0..7).collect::<Vec<_>>(), vec![3..6; 1]);
    assert_eq!(layer.ready_ranges(0..7).collect::<Vec<_>>(), [0..3, 6..7]);
    for (offset, length) in [(sample.table.data_size(), 1), (u64::MAX, 2), (0, 1 << 20)] {
        let error = layer.read_at(offset, &mut vec![0; length]).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
    }
    layer.read_at(sample.table.data_size(), &mut []).unwrap();
}

#[test]
fn bytes_of_another_chunk_are_not_stored() {
    let dir = temporary();
    let cache = open(dir.path());
    let sample = Sample::new(1, 5, 100);
    let layer = sample.create(&cache);
    let unfit = Put::NotStored(NotStored::Unfit);
    assert_eq!(layer.put(0, sample.chunk(1)), unfit);
    assert_eq!(layer.put(0, sample.chunk(4)), unfit);
    assert_eq!(layer.put(5, sample.chunk(0)), unfit);
    assert_eq!(layer.put(usize::MAX, sample.chunk(0)), unfit);
    assert_eq!(layer.ready_chunks(), 0);
}

#[test]
fn a_layer_without_data_is_complete() {
    let dir = temporary();
    let cache = open(dir.path());
    let sample = Sample::new(1, 0, 0);
    let layer = sample.create(&cache);
    assert!(layer.is_complete());
    assert_eq!(layer.read_at(0, &mut []).unwrap(), Read::Done);
    assert_eq!(
        layer
            .pin()
            .unwrap()
            .file()
            .unwrap()
            .metadata()
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn removed_layers_are_gone_and_mounted_ones_are_not() {
    let dir = temporary();
    let cache = open(dir.path());
    let [a, b, c, d] = [1, 2, 3, 4].map(|seed| Sample::new(seed, 5, 5000));
    let [layer_a, layer_b] = [&a, &b].map(|sample| sample.create(&cache));
    for sample in [&c, &d] {
        sample.create(&cache);
    }
    a.put_all(&layer_a);
    let pin = layer_a.pin().unwrap();
    let error = cache.remove(&a.key).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    let swept = cache.sweep(|key| *key == c.key);
    assert_eq!((swept.removed, swept.in_use, swept.failed), (1, 2, 0));
    drop(pin);
    assert!(cache.remove(&a.key).unwrap());
    assert!(!cache.remove(&a.key).unwrap());
    assert_eq!(a.ready(&layer_a), [0; 0]);
    assert_eq!(a.put(&layer_a, 0), Put::NotStored(NotStored::Gone));
    assert!(matches!(layer_a.pin().unwrap_err(), Error::Removed { .. }));
    b.put_all(&layer_b);
    drop(layer_b);
    assert_eq!(cache.sweep(|key| *key == c.key).removed, 1);
    let again = a.create(&cache);
    a.put_all(&again);
    assert_eq!(a.ready(&layer_a), [0; 0]);
    assert_eq!(cache.layers().len(), 2);
    let bytes: u64 = cache.layers().iter().map(|layer| layer.usage.bytes).sum();
    assert_eq!(cache.stats().bytes, bytes);
    drop((again, layer_a, cache));
    let cache = open(dir.path());
    assert_eq!(cache.sweep(|_| false).removed, 2);
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn the_last_access_survives_a_restart() {
    let dir = temporary();
    let disk = TestDisk::forgetful(dir.path());
    let start = disk.now();
    let cache = Cache::open_on(disk.clone(), dir.path(), Config::default()).unwrap();
    let [a, b] = [1, 2].map(|seed| Sample::new(seed, 5, 100));
    let [layer, _] = [&a, &b].map(|sample| sample.create(&cache));
    let later = start + 3_600_000;
    disk.set_now(later);
    a.put_all(&layer);
    assert_eq!(a.ready(&layer).len(), 5);
    drop((layer, cache));
    let cache = Cache::open_on(disk, dir.path(), Config::default()).unwrap();
    let accessed: BTreeMap<Key, u64> = cache
        .layers()
        .into_iter()
        .map(|layer| (layer.key, layer.accessed))
        .collect();
    assert_eq!(accessed[&a.key], later);
    assert!(accessed[&b.key] < later);
    // After the clock was set back, an access in the future counts as one now.
    drop(cache);
    let disk = TestDisk::forgetful(dir.path());
    disk.set_now(start);
    let cache = Cache::open_on(disk, dir.path(), Config::default()).unwrap();
    assert!(cache.layers().iter().all(|layer| layer.accessed <= start));
}

#[test]
fn what_is_put_becomes_durable_by_itself_and_without_a_storm_of_syncs() {
    let dir = temporary();
    let cache = open(dir.path());
    let sample = Sample::new(1, 2000, 64);
    let layer = sample.create(&cache);
    sample.put_all(&layer);
    wait_until("everything is durable", || {
        let pending = crate::slot::lock(&layer.pending);
        pending.set.is_empty() && !pending.listed
    });
    cache.flush().unwrap();
    let syncs = cache.stats().syncs;
    assert!(syncs < 100, "{syncs} syncs");
    let copy = temporary();
    super::image::Image::load(dir.path(), &mut |_, _| {}).store(copy.path());
    let copied = open(copy.path());
    assert!(copied.layer(&sample.key).unwrap().unwrap().is_complete());
}

#[test]
fn a_thousand_layers_are_opened_without_opening_one() {
    let dir = temporary();
    let cache = open(dir.path());
    let sample = Sample::new(0, 100, 64);
    for seed in 0..1000 {
        cache
            .create(&key(seed), &sample.table, Meta::default())
            .unwrap();
    }
    drop(cache);
    let disk = TestDisk::forgetful(dir.path());
    disk.fail(|call, _| match call {
        super::disk::Call::Open => panic!("a layer is opened"),
        _ => None,
    });
    let cache = Cache::open_on(disk, dir.path(), Config::default()).unwrap();
    assert_eq!(cache.stats().layers, 1000);
}
