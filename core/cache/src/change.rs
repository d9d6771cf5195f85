//! Tells when a layer gets or loses chunks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use crate::layer::CachedLayer;
use crate::slot::lock;

/// Counts the changes of a layer's chunks, and wakes those who wait for one.
#[derive(Debug)]
pub(crate) struct Changes {
    generation: AtomicU64,
    /// Looked at with every change, so that nothing is locked when nobody waits.
    is_waited_for: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Changes {
    /// Of a layer that is opened so many milliseconds after 1970. A million changes in a millisecond do not happen, so what
    /// is opened later counts on from a higher number.
    pub(crate) fn new(milliseconds: u64) -> Self {
        Changes {
            generation: AtomicU64::new(milliseconds << 20),
            is_waited_for: AtomicBool::new(false),
            wakers: Mutex::default(),
        }
    }

    pub(crate) fn note(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.is_waited_for.swap(false, Ordering::SeqCst) {
            let wakers = std::mem::take(&mut *lock(&self.wakers));
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn wait(&self, waker: &Waker) {
        let mut wakers = lock(&self.wakers);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.is_waited_for.store(true, Ordering::SeqCst);
    }
}

/// Waits until a layer's chunks are others than those of a generation: see [`CachedLayer::changed`].
#[derive(Debug)]
pub struct Changed<'a> {
    layer: &'a CachedLayer,
    seen: u64,
}

impl Future for Changed<'_> {
    type Output = u64;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u64> {
        let changes = &self.layer.changes;
        let generation = changes.generation();
        if generation != self.seen {
            return Poll::Ready(generation);
        }
        changes.wait(context.waker());
        // It may have changed before anybody knew of the waker.
        match changes.generation() {
            generation if generation != self.seen => Poll::Ready(generation),
            _ => Poll::Pending,
        }
    }
}

impl CachedLayer {
    /// Another number whenever it has other chunks than before, larger each time, also after a restart.
    pub fn generation(&self) -> u64 {
        self.changes.generation()
    }

    /// Waits until the generation is another one than `seen`, and answers it.
    pub fn changed(&self, seen: u64) -> Changed<'_> {
        Changed { layer: self, seen }
    }
}
