//! Chunks that are found by their digests, for other layers.

use std::fs;

use pontoon_layer::{Algorithm, Digest};

use super::disk::{Call, TestDisk, broken, full};
use super::fixture::{Sample, open, temporary};
use super::image::layer_file;
use super::scrub::{after_a_cut, complete, flip};
use crate::{Cache, CachedLayer, Config};

fn digest(sample: &Sample, index: usize) -> Digest {
    sample.table.chunks()[index].digest()
}

fn find(layer: &CachedLayer, sample: &Sample, index: usize) -> Option<usize> {
    let length = sample.table.chunks()[index].length;
    layer.find(&digest(sample, index), length)
}

#[test]
fn what_is_ready_is_found_by_its_digest() {
    for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
        let dir = temporary();
        let sample = Sample::of(algorithm, 1, 300, 500);
        let cache = open(dir.path());
        let layer = sample.create(&cache);
        let real = sample.real();
        for index in real.iter().step_by(2) {
            sample.put(&layer, *index);
        }
        assert!(!layer.is_prepared_to_find());
        for (number, index) in real.iter().enumerate() {
            let found = find(&layer, &sample, *index);
            assert_eq!(found, (number % 2 == 0).then_some(*index), "{index}");
            let bytes = layer.verified(*index);
            assert_eq!(bytes.is_some(), number % 2 == 0);
            if let Some(bytes) = bytes {
                assert_eq!(*bytes, *sample.chunk(*index));
            }
        }
        sample.put_all(&layer);
        assert_eq!(find(&layer, &sample, real[1]), Some(real[1]));
        // Nothing else: another length, another algorithm, another layer's, zeros, no such chunk.
        let known = digest(&sample, real[0]);
        let length = sample.table.chunks()[real[0]].length;
        assert_eq!(layer.find(&known, length + 1), None);
        let other = Sample::of(algorithm, 2, 300, 500);
        let bytes: [u8; 32] = known.bytes().try_into().unwrap();
        let same_bytes = match algorithm {
            Algorithm::Blake3 => Digest::sha256(bytes),
            _ => Digest::blake3(bytes),
        };
        assert_eq!(layer.find(&same_bytes, length), None);
        assert_eq!(find(&layer, &other, 0), None);
        let zeros = (0..300).find(|index| sample.is_zeros(*index)).unwrap();
        assert_eq!(find(&layer, &sample, zeros), None);
        assert!(layer.verified(zeros).is_none() && layer.verified(300).is_none());
        cache.shared.evict_layer(&layer.slot).unwrap();
        assert_eq!(find(&layer, &sample, real[0]), None);
        assert!(layer.verified(real[0]).is_none());
    }
}

#[test]
fn the_index_is_kept_and_counted() {
    let dir = temporary();
    let sample = Sample::new(1, 500, 100);
    complete(dir.path(), &[&sample]);
    let cache = open(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    let (usage, bytes) = (layer.usage(), cache.stats().bytes);
    assert!(find(&layer, &sample, 0).is_some());
    let path = layer_file(dir.path(), &sample.key, "digests");
    let written = fs::read(&path).unwrap();
    assert_eq!(written.len(), 64 + 12 * sample.real().len());
    let more = layer.usage().bytes - usage.bytes;
    assert!(more >= written.len() as u64);
    assert_eq!(layer.usage().inodes, usage.inodes + 1);
    assert_eq!(cache.stats().bytes, bytes + more);
    let usage = layer.usage();
    drop((layer, cache));
    let cache = open(dir.path());
    assert_eq!(cache.usage(&sample.key), Some(usage));
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    // It is read, not made again.
    let disk_says = fs::metadata(&path).unwrap().modified().unwrap();
    assert!(find(&layer, &sample, 0).is_some());
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.modified().unwrap(), disk_says);
    drop(layer);
    assert!(cache.remove(&sample.key).unwrap());
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn an_index_that_is_damaged_or_anothers_is_made_again() {
    let dir = temporary();
    let (sample, other) = (Sample::new(1, 12, 100), Sample::new(2, 12, 100));
    let path = layer_file(dir.path(), &sample.key, "digests");
    let all_is_found = || {
        let cache = open(dir.path());
        let layer = cache.layer(&sample.key).unwrap().unwrap();
        for index in sample.real() {
            assert_eq!(find(&layer, &sample, index), Some(index));
        }
    };
    complete(dir.path(), &[&sample, &other]);
    all_is_found();
    let sound = fs::read(&path).unwrap();
    let mut others = vec![Vec::new(), [&sound[..], &[0; 12]].concat()];
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        others.extend([damaged, sound[..at].to_vec()]);
    }
    let cache = open(dir.path());
    let layer = cache.layer(&other.key).unwrap().unwrap();
    assert!(find(&layer, &other, 0).is_some());
    drop((layer, cache));
    others.push(fs::read(layer_file(dir.path(), &other.key, "digests")).unwrap());
    for other in others {
        fs::write(&path, &other).unwrap();
        all_is_found();
        assert!(fs::read(&path).unwrap() == sound, "{other:?}");
    }
    // What is no file, and what a crash has left.
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    fs::write(path.with_extension("new"), "some").unwrap();
    all_is_found();
    assert!(fs::read(&path).unwrap() == sound);
}

#[test]
fn on_a_disk_that_takes_no_index_it_is_in_memory() {
    for rule in [full, broken] {
        let dir = temporary();
        let sample = Sample::new(1, 12, 100);
        complete(dir.path(), &[&sample]);
        let disk = TestDisk::forgetful(dir.path());
        let cache = Cache::open_on(disk.clone(), dir.path(), Config::default()).unwrap();
        disk.fail(move |call, path| {
            (call == Call::Write && path.ends_with("digests.new")).then(rule)
        });
        let layer = cache.layer(&sample.key).unwrap().unwrap();
        for index in sample.real() {
            assert_eq!(find(&layer, &sample, index), Some(index));
        }
        assert!(!layer_file(dir.path(), &sample.key, "digests").exists());
    }
}

#[test]
fn a_closed_cache_writes_none() {
    let dir = temporary();
    let sample = Sample::new(1, 12, 100);
    let cache = open(dir.path());
    let layer = sample.create(&cache);
    sample.put_all(&layer);
    cache.close();
    assert_eq!(find(&layer, &sample, 0), Some(0));
    assert!(layer.verified(0).is_some());
    assert!(!layer_file(dir.path(), &sample.key, "digests").exists());
}

#[test]
fn what_the_disk_has_changed_is_not_given_and_not_believed_any_more() {
    let dir = temporary();
    let sample = Sample::new(1, 12, 5000);
    complete(dir.path(), &[&sample]);
    flip(dir.path(), &sample, 3, &mut super::fixture::Random::new(1));
    let cache = open(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert_eq!(find(&layer, &sample, 3), Some(3));
    assert!(layer.verified(3).is_none());
    assert!(!layer.is_ready(3));
    assert_eq!(find(&layer, &sample, 3), None);
    assert_eq!(cache.stats().damaged_chunks, 1);
    assert!(layer.verified(2).is_some());
    assert_eq!(cache.stats().damaged_chunks, 1);
}

#[test]
fn what_is_in_doubt_is_checked_before_it_is_given() {
    let dir = temporary();
    let sample = Sample::new(1, 12, 5000);
    complete(dir.path(), &[&sample]);
    flip(dir.path(), &sample, 3, &mut super::fixture::Random::new(1));
    let (_, cache) = after_a_cut(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    for index in sample.real() {
        assert_eq!(layer.verified(index).is_some(), index != 3, "{index}");
    }
    assert_eq!(cache.stats().damaged_chunks, 1);
    assert_eq!(find(&layer, &sample, 3), None);
}
