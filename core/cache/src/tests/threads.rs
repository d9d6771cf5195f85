//! Many threads at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::fixture::{Random, Sample, open, temporary};
use crate::{NotStored, Put};

const THREADS: u64 = 8;

fn rounds() -> usize {
    if std::env::var_os("PONTOON_FULL").is_some() {
        20_000
    } else {
        1500
    }
}

#[test]
fn many_threads_put_and_read_the_same_chunks() {
    let dir = temporary();
    let cache = open(dir.path());
    let sample = Sample::new(1, 150, 3000);
    let layer = sample.create(&cache);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (sample, layer, cache) = (&sample, &layer, &cache);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                for round in 0..rounds() {
                    let index = random.below(sample.len());
                    if sample.read(layer, index).is_none() {
                        assert!(matches!(sample.put(layer, index), Put::Stored | Put::Known));
                        assert!(sample.read(layer, index).is_some());
                    }
                    if round % 500 == 0 {
                        cache.flush().unwrap();
                    }
                }
            });
        }
    });
    sample.put_all(&layer);
    assert_eq!(sample.ready(&layer).len(), sample.len());
    assert_eq!(
        layer.ready_bytes(),
        sample
            .table
            .chunks()
            .iter()
            .map(|chunk| u64::from(chunk.length))
            .sum::<u64>()
    );
    assert_eq!(cache.stats().stored_chunks, sample.real().len() as u64);
    assert_eq!(cache.stats().bytes, layer.usage().bytes);
    drop((layer, cache));
    let cache = open(dir.path());
    assert!(cache.layer(&sample.key).unwrap().unwrap().is_complete());
}

/// Readers and writers, while the layers are evicted, removed, made again, pinned, distrusted and flushed.
#[test]
fn whatever_happens_meanwhile_nobody_reads_anything_wrong() {
    let dir = temporary();
    let cache = open(dir.path());
    let samples: Vec<Sample> = (0..3).map(|seed| Sample::new(seed, 40, 3000)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let users: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (samples, cache) = (&samples, &cache);
                scope.spawn(move || {
                    let mut random = Random::new(thread);
                    for _ in 0..rounds() {
                        let sample = &samples[random.below(samples.len())];
                        let layer = match sample_layer(cache, sample) {
                            Some(layer) => layer,
                            None => continue,
                        };
                        let pin = if random.below(4) == 0 {
                            layer.pin().ok()
                        } else {
                            None
                        };
                        let index = random.below(sample.len());
                        let put = sample.put(&layer, index);
                        let read = sample.read(&layer, index);
                        if pin.is_some() {
                            assert!(matches!(put, Put::Stored | Put::Known), "{put:?}");
                            assert!(read.is_some());
                        }
                        assert!(!matches!(
                            put,
                            Put::NotStored(NotStored::Failed | NotStored::Unfit)
                        ));
                    }
                })
            })
            .collect();
        let (samples, cache, done) = (&samples, &cache, &done);
        scope.spawn(move || {
            let mut random = Random::new(99);
            while !done.load(Ordering::Relaxed) {
                let key = &samples[random.below(samples.len())].key;
                match random.below(4) {
                    0 => drop(cache.remove(key)),
                    1 => cache.flush().unwrap(),
                    2 => {
                        if let Some(slot) = cache.shared.slot(key) {
                            cache.shared.evict_layer(&slot).unwrap();
                        }
                    }
                    _ => drop(cache.sweep(|kept| kept != key)),
                }
                thread::yield_now();
            }
        });
        let ended: Vec<_> = users.into_iter().map(|user| user.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    let bytes: u64 = cache.layers().iter().map(|layer| layer.usage.bytes).sum();
    assert_eq!(cache.stats().bytes, bytes);
    drop(cache);
    let cache = open(dir.path());
    for sample in &samples {
        if let Some(layer) = cache.layer(&sample.key).unwrap() {
            sample.ready(&layer);
        }
    }
    assert_eq!(cache.stats().damaged_layers, 0);
    assert_eq!(super::disk::names(&dir.path().join("discard")), [""; 0]);
}

/// None if it is removed in the same moment.
fn sample_layer(
    cache: &crate::Cache,
    sample: &Sample,
) -> Option<std::sync::Arc<crate::CachedLayer>> {
    match cache.create(&sample.key, &sample.table, sample.meta()) {
        Ok(layer) => Some(layer),
        Err(crate::Error::Removed { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}
