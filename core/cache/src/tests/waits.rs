//! Who waits for whom, and what a panic of the cache's thread leaves.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::disk::{Call, TestDisk};
use super::fixture::{Sample, open, temporary, wait_until};
use super::image::Image;
use crate::{Cache, CachedLayer, Config, Pin};

const PATIENCE: Duration = Duration::from_secs(20);

fn cached(dir: &Path) -> (Arc<TestDisk>, Cache, Sample, Arc<CachedLayer>) {
    let disk = TestDisk::forgetful(dir);
    let cache = Cache::open_on(disk.clone(), dir, Config::default()).unwrap();
    let sample = Sample::new(1, 10, 5000);
    let layer = sample.create(&cache);
    (disk, cache, sample, layer)
}

fn is_at(call: Call, path: &Path, wanted: Call, file: &str) -> bool {
    call == wanted && path.ends_with(file)
}

/// What a crash would leave of the layer.
fn durable(dir: &Path, sample: &Sample) -> Vec<usize> {
    let copy = temporary();
    Image::load(dir, &mut |_, _| {}).store(copy.path());
    let copied = open(copy.path());
    sample.ready(&copied.layer(&sample.key).unwrap().unwrap())
}

/// What was put before a flush is durable when that returns, although another one has taken it and is still syncing.
#[test]
fn a_flush_waits_for_the_one_before_it() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    let (started, starts) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let synced = Arc::new(AtomicBool::new(false));
    let syncs = synced.clone();
    disk.after(move |call, path| {
        if is_at(call, path, Call::SyncData, "data") {
            started.send(()).unwrap();
            let _ = ends.recv_timeout(PATIENCE);
            syncs.store(true, Ordering::Release);
        }
    });
    sample.put(&layer, 0);
    thread::scope(|scope| {
        scope.spawn(|| cache.flush().unwrap());
        starts.recv_timeout(PATIENCE).unwrap();
        let second = scope.spawn(|| {
            cache.flush().unwrap();
            assert!(synced.load(Ordering::Acquire));
            assert_eq!(durable(dir.path(), &sample), [0, 6]);
        });
        // As long as it takes to return at once.
        thread::sleep(Duration::from_millis(200));
        end.send(()).unwrap();
        second.join().unwrap();
    });
}

/// While the disk syncs the bits of a layer that is evicted, the cache can be looked at, and the layer pinned: then it
/// stays, and what could be read is durable soon.
#[test]
fn nobody_waits_for_the_disk_while_a_layer_is_evicted() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    sample.put_all(&layer);
    cache.flush().unwrap();
    let (sender, pins) = mpsc::channel::<Pin>();
    let weak = Arc::downgrade(&cache.shared);
    let same = layer.clone();
    disk.after(move |call, path| {
        if !is_at(call, path, Call::SyncData, "ready") {
            return;
        }
        let (Some(shared), layer, sender) = (weak.upgrade(), same.clone(), sender.clone()) else {
            return;
        };
        let (done, finished) = mpsc::channel();
        thread::spawn(move || {
            let stats = shared.stats();
            sender.send(layer.pin().unwrap()).unwrap();
            done.send((stats.layers, stats.pinned_layers)).unwrap();
        });
        assert_eq!(finished.recv_timeout(PATIENCE), Ok((1, 0)));
    });
    assert_eq!(cache.shared.evict_layer(&layer.slot).unwrap(), 0);
    disk.after(|_, _| {});
    let pin = pins.try_recv().unwrap();
    assert_eq!(sample.ready(&layer).len(), sample.len());
    assert_eq!(durable(dir.path(), &sample), [6]);
    cache.flush().unwrap();
    assert_eq!(durable(dir.path(), &sample).len(), sample.len());
    assert_eq!(cache.stats().evicted_layers, 0);
    drop(pin);
    assert!(cache.shared.evict_layer(&layer.slot).unwrap() > 0);
    assert_eq!(sample.ready(&layer), [6]);
}

/// The last one who closes a file waits until its blocks are free: that must come after the locks.
#[test]
fn the_data_are_open_when_they_are_unlinked() {
    for is_open in [true, false] {
        let dir = temporary();
        let (disk, cache, sample, layer) = cached(dir.path());
        sample.put_all(&layer);
        cache.flush().unwrap();
        let slot = layer.slot.clone();
        let layer = is_open.then_some(layer);
        let seen = Arc::new(AtomicUsize::new(0));
        let sees = seen.clone();
        let is_kept = move |path: &Path| {
            let gone = format!("{} (deleted)", path.display());
            let fds = fs::read_dir("/proc/self/fd").unwrap();
            fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
                .any(|target| target == Path::new(&gone))
        };
        let kept = is_kept;
        disk.after(move |call, path| {
            if is_at(call, path, Call::RemoveFile, "data") && kept(path) {
                sees.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(cache.shared.evict_layer(&slot).unwrap() > 0);
        assert_eq!(seen.load(Ordering::Relaxed), 1, "open: {is_open}");
        assert!(!is_kept(&slot.path("data")));
        drop(layer);
    }
}

/// A panic of the cache's thread is seen, and costs nothing.
#[test]
fn the_thread_goes_on_after_a_panic() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    let other = Sample::new(2, 10, 5000);
    let other_layer = other.create(&cache);
    disk.after(panics_in_the_thread(1));
    sample.put(&layer, 0);
    other.put(&other_layer, 0);
    wait_until("the thread has panicked", || {
        cache.stats().thread_panics == 1
    });
    sample.put(&layer, 1);
    drop((layer, other_layer, cache));
    let cache = open(dir.path());
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert_eq!(sample.ready(&layer), [0, 1, 6]);
    let layer = cache.layer(&other.key).unwrap().unwrap();
    assert_eq!(other.ready(&layer), [0, 6]);
    assert_eq!(cache.stats().thread_panics, 0);
}

/// One that panics again and again does not keep the cache from being dropped.
#[test]
fn a_cache_whose_thread_always_panics_can_be_dropped() {
    let dir = temporary();
    let (disk, cache, sample, layer) = cached(dir.path());
    disk.after(panics_in_the_thread(usize::MAX));
    sample.put(&layer, 0);
    drop((layer, cache));
    let cache = open(dir.path());
    assert!(cache.layer(&sample.key).unwrap().is_some());
}

/// The thread of the cache panics after it has synced data, so often.
fn panics_in_the_thread(times: usize) -> impl FnMut(Call, &Path) + Send + 'static {
    let mut left = times;
    move |call, path| {
        let is_thread = thread::current().name() == Some("pontoon-cache");
        if left > 0 && is_thread && is_at(call, path, Call::SyncData, "data") {
            left -= 1;
            panic!("as the test wants");
        }
    }
}
