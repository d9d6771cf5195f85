//! Bits that the disk has flipped.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::disk::{Call, TestDisk, broken, full};
use super::fixture::{Random, Sample, key, open, temporary, wait_until};
use super::image::{Image, Loss, cuts, image_after, layer_file};
use crate::trust::{self, TRUST};
use crate::{Cache, CachedLayer, Config, NotStored, Put};
use pontoon_layer::Algorithm;

const PATIENCE: Duration = Duration::from_secs(20);

fn sample(seed: u64) -> Sample {
    Sample::new(seed, 24, 5000)
}

/// A closed cache with these layers, complete.
pub(super) fn complete(dir: &Path, samples: &[&Sample]) {
    let cache = open(dir);
    for sample in samples {
        sample.put_all(&sample.create(&cache));
    }
}

/// Flips a bit of a chunk on the disk.
pub(super) fn flip(dir: &Path, sample: &Sample, index: usize, random: &mut Random) {
    let chunk = sample.table.chunks()[index];
    let path = layer_file(dir, &sample.key, "data");
    let data = OpenOptions::new().read(true).write(true).open(path);
    let data: File = data.unwrap();
    let at = chunk.data_offset + random.below(chunk.length as usize) as u64;
    let mut byte = [0];
    data.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << random.below(8);
    data.write_all_at(&byte, at).unwrap();
}

/// The power is cut while the cache is closed, but nobody can know that it was.
fn forget_the_end(dir: &Path) {
    fs::remove_file(dir.join(TRUST)).unwrap();
}

fn on(disk: &Arc<TestDisk>, dir: &Path) -> Cache {
    Cache::open_on(disk.clone(), dir, Config::default()).unwrap()
}

/// A cache after a cut of the power, and its disk.
pub(super) fn after_a_cut(dir: &Path) -> (Arc<TestDisk>, Cache) {
    forget_the_end(dir);
    let disk = TestDisk::forgetful(dir);
    let cache = on(&disk, dir);
    (disk, cache)
}

/// How many layers the file says are in doubt.
fn noted(dir: &Path) -> usize {
    let text = fs::read_to_string(dir.join(TRUST)).unwrap();
    text.lines()
        .filter(|line| line.starts_with("doubt "))
        .count()
}

#[test]
fn after_a_power_cut_a_flipped_bit_is_found_before_it_is_read() {
    let mut random = Random::new(1);
    for round in 0..8 {
        let dir = temporary();
        let sample = sample(round);
        complete(dir.path(), &[&sample]);
        let real = sample.real();
        let flipped: BTreeSet<usize> = (0..3).map(|_| real[random.below(real.len())]).collect();
        for index in &flipped {
            flip(dir.path(), &sample, *index, &mut random);
        }
        let (_, cache) = after_a_cut(dir.path());
        let layer = cache.layer(&sample.key).unwrap().unwrap();
        for index in 0..sample.len() {
            let read = sample.read(&layer, index);
            assert_eq!(read.is_none(), flipped.contains(&index), "chunk {index}");
        }
        assert!(!layer.is_complete());
        let stats = cache.stats();
        assert_eq!(stats.damaged_chunks, flipped.len() as u64);
        assert_eq!(stats.distrusted_chunks, flipped.len() as u64);
        // Fetched again, it stays.
        for index in &flipped {
            assert_eq!(sample.put(&layer, *index), Put::Stored);
        }
        assert!(layer.is_complete());
        wait_until("it is believed", || noted(dir.path()) == 0);
        drop((layer, cache));
        let cache = open(dir.path());
        let layer = cache.layer(&sample.key).unwrap().unwrap();
        assert!(layer.is_complete());
        assert_eq!(sample.ready(&layer).len(), sample.len());
    }
}

/// Chunks of nydus images have another hash function.
#[test]
fn what_has_blake3_digests_is_checked_by_them() {
    let dir = temporary();
    let sample = Sample::of(Algorithm::Blake3, 1, 24, 5000);
    complete(dir.path(), &[&sample]);
    let cache = open(dir.path());
    let scrubbed = cache.scrub().unwrap();
    assert_eq!(scrubbed.chunks, sample.real().len() as u64);
    assert_eq!((scrubbed.dropped_chunks, scrubbed.removed_layers), (0, 0));
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    // A SHA-256 is none of them, though it is of the same bytes.
    let other = Sample::new(1, 24, 5000);
    assert_eq!(
        layer.put(0, other.chunk(0)),
        Put::NotStored(NotStored::Unfit)
    );
    drop((layer, cache));
    flip(dir.path(), &sample, 3, &mut Random::new(1));
    let (_, cache) = after_a_cut(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    let wrong: Vec<usize> = (0..sample.len())
        .filter(|index| sample.read(&layer, *index).is_none())
        .collect();
    assert_eq!(wrong, [3]);
    assert_eq!(cache.stats().damaged_chunks, 1);
}

#[test]
fn a_layer_is_whole_for_the_kernel_only_when_all_of_it_is_checked() {
    let dir = temporary();
    let sample = sample(1);
    complete(dir.path(), &[&sample]);
    forget_the_end(dir.path());
    let disk = TestDisk::forgetful(dir.path());
    let cache = on(&disk, dir.path());
    // The thread that checks waits in its first read.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut wait = Some(wait);
    disk.after(move |call, _| {
        if call == Call::Read
            && let Some(wait) = wait.take()
        {
            let _ = wait.recv();
        }
    });
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert_eq!(layer.ready_chunks(), sample.len());
    assert!(!layer.is_complete());
    drop(go);
    wait_until("all of it is checked", || layer.is_complete());
    assert_eq!(cache.stats().damaged_chunks, 0);
    assert_eq!(sample.ready(&layer).len(), sample.len());
}

#[test]
fn opening_reads_no_data_and_the_background_finds_what_nobody_reads() {
    let dir = temporary();
    let sample = sample(1);
    complete(dir.path(), &[&sample]);
    flip(dir.path(), &sample, 3, &mut Random::new(1));
    let (_, cache) = after_a_cut(dir.path());
    assert_eq!(noted(dir.path()), 1);
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    wait_until("it is found", || cache.stats().damaged_chunks == 1);
    wait_until("the rest is believed", || noted(dir.path()) == 0);
    assert!(!layer.is_ready(3));
    // Durably: another cut does not bring it back.
    drop((layer, cache));
    let (_, cache) = after_a_cut(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert!(!layer.is_ready(3));
    wait_until("it is checked", || noted(dir.path()) == 0);
    assert_eq!(cache.stats().damaged_chunks, 0);
}

#[test]
fn what_was_not_opened_stays_in_doubt_over_clean_stops() {
    let dir = temporary();
    let (first, second) = (sample(1), sample(2));
    complete(dir.path(), &[&first, &second]);
    flip(dir.path(), &second, 0, &mut Random::new(1));
    let (_, cache) = after_a_cut(dir.path());
    let layer = cache.layer(&first.key).unwrap().unwrap();
    wait_until("one is checked", || noted(dir.path()) == 1);
    drop((layer, cache));
    for _ in 0..2 {
        drop(open(dir.path()));
        assert_eq!(noted(dir.path()), 1);
    }
    let cache = open(dir.path());
    assert!(cache.layer(&first.key).unwrap().unwrap().is_complete());
    let layer = cache.layer(&second.key).unwrap().unwrap();
    assert_eq!(second.read(&layer, 0), None);
    assert_eq!(cache.stats().damaged_chunks, 1);
}

#[test]
fn only_the_same_boot_or_a_clean_stop_is_believed() {
    let dir = temporary();
    let sample = sample(1);
    let disk = TestDisk::new(dir.path());
    disk.set_boot(Some("a"));
    let cache = on(&disk, dir.path());
    sample.put_all(&sample.create(&cache));
    cache.flush().unwrap();
    let running = Image::load(dir.path(), &mut |_, _| {});
    drop(cache);
    let stopped = Image::load(dir.path(), &mut |_, _| {});
    let known = BTreeSet::from([sample.key.clone()]);
    for (image, boot, believed) in [
        (&running, Some("a"), true),
        (&running, Some("b"), false),
        (&running, None, false),
        (&stopped, Some("b"), true),
        (&stopped, None, true),
    ] {
        let copy = temporary();
        image.store(copy.path());
        let disk = TestDisk::forgetful(copy.path());
        disk.set_boot(boot);
        let doubted = trust::doubted(&*disk, copy.path(), known.clone());
        assert_eq!(doubted.is_empty(), believed, "{boot:?}");
        let cache = on(&disk, copy.path());
        let layer = cache.layer(&sample.key).unwrap().unwrap();
        assert_eq!(sample.ready(&layer).len(), sample.len());
    }
}

#[test]
fn a_cache_that_somebody_keeps_is_closed_too() {
    let dir = temporary();
    let sample = sample(1);
    let cache = open(dir.path());
    let layer = sample.create(&cache);
    sample.put(&layer, 0);
    cache.close();
    cache.close();
    let text = fs::read_to_string(dir.path().join(TRUST)).unwrap();
    assert!(text.contains("state closed"), "{text}");
    // It is read from, but takes nothing that the next one would have to doubt, and nobody else may come yet.
    assert_eq!(sample.read(&layer, 0), Some(()));
    assert_eq!(sample.put(&layer, 1), Put::NotStored(NotStored::Gone));
    Cache::open(dir.path(), Config::default()).unwrap_err();
    drop((layer, cache));
    let cache = open(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert!(layer.is_ready(0) && !layer.is_ready(1));
}

/// Wherever the power is cut while a cache is in use, nothing of it is believed afterwards.
#[test]
fn no_cut_while_it_is_in_use_leaves_a_clean_stop() {
    let dir = temporary();
    let (first, second) = (sample(1), sample(2));
    complete(dir.path(), &[&first]);
    let disk = TestDisk::new(dir.path());
    disk.set_boot(Some("a"));
    let cache = on(&disk, dir.path());
    let (_, opened) = disk.recording();
    second.put_all(&second.create(&cache));
    cache.flush().unwrap();
    let (start, events) = disk.recording();
    drop(cache);
    assert!(events.len() > opened.len());
    let known = BTreeSet::from([first.key.clone(), second.key.clone()]);
    let check = TestDisk::forgetful(dir.path());
    check.set_boot(Some("b"));
    for events in cuts(&events).filter(|events| events.len() >= opened.len()) {
        for loss in [Loss::Nothing, Loss::Everything, Loss::Names, Loss::Some(1)] {
            let copy = temporary();
            image_after(&start, events, loss).store(copy.path());
            let doubted = trust::doubted(&*check, copy.path(), known.clone());
            let at = format!("cut after {} events, {loss:?}", events.len());
            assert_eq!(doubted, known, "{at}");
        }
    }
}

#[test]
fn a_full_disk_that_takes_no_note_puts_everything_in_doubt() {
    let dir = temporary();
    let sample = sample(1);
    complete(dir.path(), &[&sample]);
    let disk = TestDisk::forgetful(dir.path());
    disk.fail(|call, path| (call == Call::Write && path.ends_with("trust.new")).then(full));
    let cache = on(&disk, dir.path());
    assert!(cache.layer(&sample.key).unwrap().unwrap().is_complete());
    assert!(!dir.path().join(TRUST).exists());
    drop(cache);
    disk.work();
    assert!(!dir.path().join(TRUST).exists());
    let doubted = trust::doubted(&*disk, dir.path(), BTreeSet::from([sample.key.clone()]));
    assert_eq!(doubted.len(), 1);
    // A disk that cannot even do that is no place for a cache.
    complete(dir.path(), &[&sample]);
    disk.fail(|call, _| matches!(call, Call::Write | Call::RemoveFile).then(broken));
    let opened = Cache::open_on(disk.clone(), dir.path(), Config::default());
    assert!(opened.unwrap_err().to_string().contains("trust"));
}

#[test]
fn what_cannot_be_read_is_dropped_and_is_no_flipped_bit() {
    let dir = temporary();
    let sample = sample(1);
    complete(dir.path(), &[&sample]);
    forget_the_end(dir.path());
    let disk = TestDisk::forgetful(dir.path());
    let cache = on(&disk, dir.path());
    disk.fail(|call, _| (call == Call::Read).then(broken));
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    for index in sample.real() {
        assert_eq!(sample.read(&layer, index), None);
    }
    let stats = cache.stats();
    let real = sample.real().len() as u64;
    assert_eq!((stats.distrusted_chunks, stats.damaged_chunks), (real, 0));
}

#[test]
fn what_was_evicted_meanwhile_and_put_again_is_right() {
    let dir = temporary();
    let sample = sample(1);
    complete(dir.path(), &[&sample]);
    let (_, cache) = after_a_cut(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    cache.shared.evict_layer(&layer.slot).unwrap();
    sample.put_all(&layer);
    assert!(layer.is_complete());
    assert_eq!(sample.ready(&layer).len(), sample.len());
    assert_eq!(cache.stats().damaged_chunks, 0);
    wait_until("it is believed", || noted(dir.path()) == 0);
    assert!(cache.remove(&sample.key).unwrap());
}

/// Many readers and the thread in the background check the same chunks.
#[test]
fn readers_who_come_together_read_what_is_right_and_count_once() {
    let dir = temporary();
    let sample = Sample::new(5, 200, 3000);
    complete(dir.path(), &[&sample]);
    let mut random = Random::new(3);
    let flipped: BTreeSet<usize> = sample.real().into_iter().step_by(9).collect();
    for index in &flipped {
        flip(dir.path(), &sample, *index, &mut random);
    }
    let (_, cache) = after_a_cut(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for index in 0..sample.len() {
                    if sample.read(&layer, index).is_none() {
                        assert!(flipped.contains(&index), "chunk {index} was dropped");
                        sample.put(&layer, index);
                        assert_eq!(sample.read(&layer, index), Some(()));
                    }
                }
            });
        }
    });
    assert!(layer.is_complete());
    assert_eq!(cache.stats().damaged_chunks, flipped.len() as u64);
}

/// The thread in the background checks a chunk after the other, for as long as a layer is large.
#[test]
fn a_reader_does_not_wait_for_the_check_of_another_chunk() {
    let dir = temporary();
    let sample = Arc::new(sample(1));
    complete(dir.path(), &[&sample]);
    let (disk, cache) = after_a_cut(dir.path());
    let (give, given) = mpsc::channel::<Arc<CachedLayer>>();
    let (tell, told) = mpsc::channel();
    let reader = Arc::clone(&sample);
    disk.after(move |call, path| {
        // The background has read a chunk and is not done with it.
        let is_first = call == Call::Read && path.ends_with("data");
        let Some(layer) = is_first
            .then(|| given.recv_timeout(PATIENCE).ok())
            .flatten()
        else {
            return;
        };
        let [first, other, ..] = reader.real()[..] else {
            panic!("chunks are missing");
        };
        assert!(first < other && other < first + 16);
        let (done, ends) = mpsc::channel();
        let reader = Arc::clone(&reader);
        thread::spawn(move || done.send(TestDisk::unwatched(|| reader.read(&layer, other))));
        tell.send(ends.recv_timeout(PATIENCE)).unwrap();
    });
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    give.send(layer.clone()).unwrap();
    assert_eq!(told.recv_timeout(2 * PATIENCE).unwrap(), Ok(Some(())));
    drop(give);
    wait_until("all is checked", || layer.is_complete());
}

#[test]
fn a_scrub_finds_what_no_power_cut_has_put_in_doubt() {
    let dir = temporary();
    let (first, second, third) = (sample(1), sample(2), sample(3));
    complete(dir.path(), &[&first, &second, &third]);
    let mut random = Random::new(7);
    flip(dir.path(), &first, 0, &mut random);
    flip(dir.path(), &first, 23, &mut random);
    flip(dir.path(), &second, 12, &mut random);
    fs::write(layer_file(dir.path(), &third.key, "chunks"), "nonsense").unwrap();
    let cache = open(dir.path());
    let scrubbed = cache.scrub().unwrap();
    assert_eq!((scrubbed.layers, scrubbed.removed_layers), (2, 1));
    assert_eq!((scrubbed.dropped_chunks, scrubbed.failed_layers), (3, 0));
    let right = first.real().len() + second.real().len() - 3;
    assert_eq!(scrubbed.chunks, right as u64);
    let lengths = |sample: &Sample, without: &[usize]| -> u64 {
        let right = sample.real().into_iter();
        let right = right.filter(|index| !without.contains(index));
        let lengths = right.map(|index| u64::from(sample.table.chunks()[index].length));
        lengths.sum()
    };
    let bytes = lengths(&first, &[0, 23]) + lengths(&second, &[12]);
    assert_eq!(scrubbed.bytes, bytes);
    // A second one finds nothing: what was wrong is gone for good.
    drop(cache);
    let cache = open(dir.path());
    let again = cache.scrub().unwrap();
    assert_eq!((again.dropped_chunks, again.removed_layers), (0, 0));
    assert_eq!((again.chunks, again.bytes), (right as u64, bytes));
    let layer = cache.layer(&first.key).unwrap().unwrap();
    assert_eq!(first.read(&layer, 0), None);
    first.put_all(&layer);
    assert_eq!(first.ready(&layer).len(), first.len());
    assert!(cache.layer(&key(3)).unwrap().is_none());
}

#[test]
fn a_scrub_says_what_it_could_not_drop() {
    let dir = temporary();
    let sample = sample(1);
    complete(dir.path(), &[&sample]);
    flip(dir.path(), &sample, 0, &mut Random::new(1));
    let (disk, cache) = after_a_cut(dir.path());
    disk.fail(|call, path| (call == Call::Write && path.ends_with("ready")).then(broken));
    let scrubbed = cache.scrub().unwrap();
    assert_eq!((scrubbed.dropped_chunks, scrubbed.failed_layers), (1, 1));
    drop(cache);
    // So it is still in doubt, and found again.
    disk.work();
    assert_eq!(noted(dir.path()), 1);
    let cache = open(dir.path());
    assert_eq!(cache.scrub().unwrap().dropped_chunks, 1);
}
