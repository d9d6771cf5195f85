//! What is fetched before anybody asks for it: a few requests at a time, of all layers in turn, and none while
//! somebody waits for another.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pontoon_cache::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::BackgroundConfig;
use crate::engine::quiet;
use crate::fetch::Fetch;
use crate::status::BackgroundState;
use crate::{LazyLayer, Prefetch};

/// How soon a full cache is asked again.
const SPACE_PAUSE: Duration = Duration::from_secs(5);

/// How soon a registry that failed is asked again, at first and at most.
const FAILURE_PAUSE_MIN: Duration = Duration::from_secs(1);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How soon a job is looked at again that only waits for its last requests.
const LAST_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Background {
    cache: Arc<Cache>,
    demand: watch::Sender<usize>,
    runtime: Handle,
    request_bytes: u64,
    limit: Option<Limit>,
    queue: Mutex<Queue>,
    wake: Notify,
    stopped: watch::Sender<bool>,
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// What a start is known to need.
    first: VecDeque<Job>,
    rest: VecDeque<Job>,
}

/// A layer of which chunks are to be fetched.
#[derive(Debug)]
struct Job {
    layer: Weak<LazyLayer>,
    first: bool,
    course: Course,
    requests: Arc<Requests>,
    /// Something has failed on this pass, so another one is needed.
    incomplete: bool,
    pause: Duration,
}

/// The requests of a job.
#[derive(Debug, Default)]
struct Requests {
    under_way: AtomicUsize,
    /// One has failed since this was looked at last.
    failed: AtomicBool,
}

/// Which chunks, in which order, and how far it is.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    chunks: Chunks,
    next: usize,
}

#[derive(Debug, Clone)]
enum Chunks {
    /// Of the chunks in this range, those whose bytes begin below an offset of the blob.
    Below(Range<usize>, u64),
    List(Arc<[u32]>),
}

impl Course {
    pub(crate) fn new(prefetch: Prefetch, chunks: usize) -> Self {
        let chunks = match prefetch {
            Prefetch::Everything => Chunks::Below(0..chunks, u64::MAX),
            Prefetch::BlobUpTo(offset) => Chunks::Below(0..chunks, offset),
            Prefetch::Chunks(list) => Chunks::List(list.into()),
        };
        Course { chunks, next: 0 }
    }

    /// The next chunk, if there is one. It is wanted if its bytes begin below the offset of the blob that comes with
    /// it.
    pub(crate) fn next(&mut self) -> Option<(usize, u64)> {
        let next = match &self.chunks {
            Chunks::Below(range, below) => {
                let index = range.start.checked_add(self.next)?;
                (index < range.end).then_some((index, *below))
            }
            Chunks::List(list) => list.get(self.next).map(|index| (*index as usize, u64::MAX)),
        };
        self.next += usize::from(next.is_some());
        next
    }

    fn restart(&mut self) {
        self.next = 0;
    }
}

impl Background {
    pub(crate) fn start(
        config: &BackgroundConfig,
        cache: Arc<Cache>,
        demand: &watch::Sender<usize>,
        runtime: &Handle,
    ) -> Arc<Self> {
        let background = Arc::new(Background {
            cache,
            demand: demand.clone(),
            runtime: runtime.clone(),
            request_bytes: config.request_bytes.max(1),
            limit: Limit::new(config.bytes_per_second),
            queue: Mutex::default(),
            wake: Notify::new(),
            stopped: watch::Sender::new(false),
        });
        for _ in 0..config.requests.max(1) {
            runtime.spawn(background.clone().work());
        }
        background
    }

    /// Ends the workers. Requests under way go on.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    pub(crate) fn add(&self, layer: &Arc<LazyLayer>, course: Course, first: bool) {
        layer.set_background(BackgroundState::Running);
        self.put(Job {
            layer: Arc::downgrade(layer),
            first,
            course,
            requests: Arc::default(),
            incomplete: false,
            pause: FAILURE_PAUSE_MIN,
        });
    }

    async fn work(self: Arc<Self>) {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = self.work_on() => {}
        }
    }

    async fn work_on(self: &Arc<Self>) {
        loop {
            quiet(&self.demand).await;
            let turn = match &self.limit {
                Some(limit) => Some(limit.turn().await),
                None => None,
            };
            match self.take() {
                Some(job) => self.advance(job, turn).await,
                None => {
                    drop(turn);
                    self.wake.notified().await;
                }
            }
        }
    }

    /// Makes the next requests of a job. `turn` is that of a limit.
    async fn advance(self: &Arc<Self>, mut job: Job, turn: Option<Turn<'_>>) {
        let Some(layer) = job.layer.upgrade().filter(|layer| !layer.is_closed()) else {
            return;
        };
        if job.requests.failed.swap(false, Ordering::Relaxed) {
            layer.set_background(BackgroundState::Failing);
            job.incomplete = true;
            let pause = job.pause;
            job.pause = (job.pause * 2).min(FAILURE_PAUSE_MAX);
            return self.put_later(job, pause);
        }
        if !self.cache.admits_background() {
            layer.set_background(BackgroundState::NoSpace);
            return self.put_later(job, SPACE_PAUSE);
        }
        layer.set_background(BackgroundState::Running);
        let fetches = layer.fetch_ahead(&mut job.course, self.request_bytes);
        if fetches.is_empty() {
            return self.finish(job, &layer);
        }
        drop(layer);
        if let Some(turn) = turn {
            turn.spend(fetches.iter().map(Fetch::bytes).sum());
        }
        let requests = job.requests.clone();
        requests.under_way.fetch_add(1, Ordering::Relaxed);
        // The other workers and the other layers go on meanwhile.
        self.put(job);
        if !self.run(fetches).await {
            requests.failed.store(true, Ordering::Relaxed);
        }
        requests.under_way.fetch_sub(1, Ordering::Release);
    }

    /// One after the other; but one that somebody has come to wait for does not wait for its turn. Whether all went
    /// well.
    async fn run(&self, fetches: Vec<Fetch>) -> bool {
        let mut running = JoinSet::new();
        let mut last: Option<oneshot::Receiver<()>> = None;
        for fetch in fetches {
            let (ended, end) = oneshot::channel();
            let (before, rush) = (last.replace(end), fetch.rush().clone());
            let run = async move {
                // Dropped at the end, whichever that is: then it is the next one's turn.
                let _ended = ended;
                if let Some(before) = before {
                    tokio::select! {
                        _ = before => {}
                        () = rush.on() => {}
                    }
                }
                fetch.run().await.is_ok()
            };
            running.spawn_on(run, &self.runtime);
        }
        let mut all = true;
        while let Some(ended) = running.join_next().await {
            all &= ended.unwrap_or(false);
        }
        all
    }

    /// Nothing is left that is missing and not under way.
    fn finish(self: &Arc<Self>, mut job: Job, layer: &LazyLayer) {
        if job.requests.under_way.load(Ordering::Acquire) > 0 || layer.is_fetching() {
            // They may fail.
            return self.put_later(job, LAST_PAUSE);
        }
        if std::mem::take(&mut job.incomplete) {
            job.course.restart();
            return self.put(job);
        }
        layer.set_background(BackgroundState::Done);
    }

    fn put(&self, job: Job) {
        let mut queue = self.lock();
        match job.first {
            true => queue.first.push_back(job),
            false => queue.rest.push_back(job),
        }
        drop(queue);
        self.wake.notify_one();
    }

    fn put_later(self: &Arc<Self>, job: Job, pause: Duration) {
        let background = self.clone();
        let mut stopped = self.stopped.subscribe();
        self.runtime.spawn(async move {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => {}
                () = tokio::time::sleep(pause) => background.put(job),
            }
        });
    }

    fn take(&self) -> Option<Job> {
        let mut queue = self.lock();
        let job = queue.first.pop_front().or_else(|| queue.rest.pop_front());
        if !queue.first.is_empty() || !queue.rest.is_empty() {
            // For the next worker: one wake-up may have stood for two jobs.
            self.wake.notify_one();
        }
        job
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes per second.
#[derive(Debug)]
struct Limit {
    bytes_per_second: u64,
    /// When something may be spent again. Whoever waits for that keeps it until he has spent: others who saw that
    /// nothing is spent yet would all begin.
    free_at: tokio::sync::Mutex<Instant>,
}

/// The right to spend something, once.
#[derive(Debug)]
struct Turn<'a> {
    bytes_per_second: u64,
    free_at: tokio::sync::MutexGuard<'a, Instant>,
}

impl Limit {
    fn new(bytes_per_second: u64) -> Option<Self> {
        (bytes_per_second > 0).then(|| Limit {
            bytes_per_second,
            free_at: tokio::sync::Mutex::new(Instant::now()),
        })
    }

    /// Returns when something may be spent. Nobody else spends until it is dropped.
    async fn turn(&self) -> Turn<'_> {
        let free_at = self.free_at.lock().await;
        tokio::time::sleep_until(*free_at).await;
        Turn {
            bytes_per_second: self.bytes_per_second,
            free_at,
        }
    }
}

impl Turn<'_> {
    fn spend(mut self, bytes: u64) {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let from = (*self.free_at).max(Instant::now());
        // An hour: whoever allows a byte a second gets less.
        *self.free_at = from + time.min(Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn nobody_begins_between_anothers_wait_and_his_spending() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().build().unwrap();
        runtime.block_on(async {
            let limit = Limit::new(1).unwrap();
            let first = limit.turn().await;
            let mut second = pin!(limit.turn());
            let mut context = Context::from_waker(Waker::noop());
            assert!(second.as_mut().poll(&mut context).is_pending());
            // Who finds nothing to do spends nothing.
            drop(first);
            let Poll::Ready(second) = second.as_mut().poll(&mut context) else {
                panic!("nothing is spent");
            };
            second.spend(1000);
            let mut third = pin!(limit.turn());
            assert!(third.as_mut().poll(&mut context).is_pending());
        });
    }
}
