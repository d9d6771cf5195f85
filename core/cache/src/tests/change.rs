//! Generations, and reads that wait for no disk.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tempfile::TempDir;

use super::fixture::Sample;
use crate::{Cache, Config, Put};

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn whoever_waits_for_a_change_is_woken_by_it() {
    let directory = TempDir::new().unwrap();
    let cache = Cache::open(directory.path(), Config::default()).unwrap();
    let sample = Sample::new(1, 20, 5000);
    let layer = sample.create(&cache);
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut context = Context::from_waker(&waker);
    let first = layer.generation();
    let mut changed = pin!(layer.changed(first));
    assert_eq!(changed.as_mut().poll(&mut context), Poll::Pending);
    assert_eq!(changed.as_mut().poll(&mut context), Poll::Pending);
    assert_eq!(sample.put(&layer, 0), Put::Stored);
    assert_eq!(bell.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(second) = changed.as_mut().poll(&mut context) else {
        panic!("it has changed");
    };
    assert!(second > first);
    // What is known changes nothing.
    assert_eq!(sample.put(&layer, 0), Put::Known);
    assert_eq!(layer.generation(), second);
    // Who comes late does not wait.
    assert_eq!(
        pin!(layer.changed(first)).poll(&mut context),
        Poll::Ready(second)
    );
    // What goes is a change too.
    let mut gone = pin!(layer.changed(second));
    assert_eq!(gone.as_mut().poll(&mut context), Poll::Pending);
    cache.remove(&sample.key).unwrap();
    assert!(gone.as_mut().poll(&mut context).is_ready());
    assert_eq!(bell.0.load(Ordering::SeqCst), 2);
}

#[test]
fn a_generation_does_not_come_back_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let sample = Sample::new(2, 20, 5000);
    let cache = Cache::open(directory.path(), Config::default()).unwrap();
    let layer = sample.create(&cache);
    sample.put_all(&layer);
    let before = layer.generation();
    drop((layer, cache));
    std::thread::sleep(std::time::Duration::from_millis(2));
    let cache = Cache::open(directory.path(), Config::default()).unwrap();
    let layer = cache.layer(&sample.key).unwrap().unwrap();
    assert!(layer.generation() > before);
}

#[test]
fn what_is_in_memory_is_read_without_waiting_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let cache = Cache::open(directory.path(), Config::default()).unwrap();
    let sample = Sample::new(3, 12, 10_000);
    let layer = sample.create(&cache);
    let mut buffer = vec![0; 10_000];
    let place = |index: usize| sample.table.chunks()[index].data_offset;
    assert!(!layer.read_now(place(1), &mut buffer));
    sample.put(&layer, 1);
    // Just written, so the kernel has it, unless the filesystem cannot tell.
    if layer.read_now(place(1), &mut buffer) {
        assert_eq!(buffer[..], *sample.chunk(1));
        assert!(layer.read_now(place(1) + 5, &mut buffer[..100]));
        assert_eq!(buffer[..100], sample.chunk(1)[5..105]);
    }
    // Chunk 2 is missing, and chunk 6 is zeros, which are nowhere.
    let mut both = vec![0; 20_000];
    assert!(!layer.read_now(place(1), &mut both));
    assert!(!layer.read_now(place(6), &mut buffer));
    assert!(!layer.read_now(u64::MAX, &mut buffer));
    cache.remove(&sample.key).unwrap();
    assert!(!layer.read_now(place(1), &mut buffer));
}
