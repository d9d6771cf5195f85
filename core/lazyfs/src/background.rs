//! What is fetched before anybody asks for it: of all layers in one order (`queue.rs`), and never so much at a time that
//! somebody who comes to wait would wait for it (`line.rs`).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pontoon_cache::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::LazyLayer;
use crate::config::BackgroundConfig;
use crate::course::Course;
use crate::fetch::Fetch;
use crate::kin::Sourced;
use crate::line::{Line, Room, Trip};
use crate::queue::{Class, Queue, Rank};
use crate::status::BackgroundState;

/// How soon a full cache is asked again.
const SPACE_PAUSE: Duration = Duration::from_secs(5);

/// How soon a registry that failed is asked again, at first and at most.
const FAILURE_PAUSE_MIN: Duration = Duration::from_secs(1);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How soon a job is looked at again that only waits for its last requests.
const LAST_PAUSE: Duration = Duration::from_millis(100);

/// How soon what was left to other nodes is looked at again.
const LEFT_PAUSE: Duration = Duration::from_millis(150);

/// The window as long as nobody knows how fast the way to a registry is, in bytes.
pub(crate) const WINDOW_UNKNOWN: u64 = 512 << 10;

/// Places of which it is remembered that somebody waited there. What lies behind the older ones is no longer near.
const NEAR_MAX: usize = 32;

pub(crate) struct Background {
    cache: Arc<Cache>,
    line: Arc<Line>,
    runtime: Handle,
    request_bytes: u64,
    requests_max: usize,
    limit: Option<Limit>,
    queue: Mutex<Queue<Job>>,
    /// Jobs of what earlier starts read, as long as they are not done.
    learned: AtomicUsize,
    /// Counts what is told or near, for its place in the order.
    count: AtomicU64,
    /// The window of the layer that was fetched from last.
    window: AtomicU64,
    wake: Notify,
    stopped: watch::Sender<bool>,
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

/// A layer of which chunks are to be fetched.
#[derive(Debug)]
struct Job {
    layer: Weak<LazyLayer>,
    rank: Rank,
    course: Course,
    requests: Arc<Requests>,
    /// Something has failed on this pass, so another one is needed.
    incomplete: bool,
    /// Something was left to other nodes on this pass, which may not bring it.
    is_left: bool,
    pause: Duration,
}

/// The requests of a job.
#[derive(Debug, Default)]
struct Requests {
    under_way: AtomicUsize,
    /// One has failed since this was looked at last.
    failed: AtomicBool,
    /// One has not.
    came: AtomicBool,
}

impl Background {
    pub(crate) fn start(
        config: &BackgroundConfig,
        cache: Arc<Cache>,
        line: &Arc<Line>,
        runtime: &Handle,
    ) -> Arc<Self> {
        let background = Arc::new(Background {
            cache,
            line: Arc::clone(line),
            runtime: runtime.clone(),
            request_bytes: config.request_bytes.max(1),
            requests_max: config.requests.max(1),
            limit: Limit::new(config.bytes_per_second),
            queue: Mutex::default(),
            learned: AtomicUsize::new(0),
            count: AtomicU64::new(0),
            window: AtomicU64::new(WINDOW_UNKNOWN),
            wake: Notify::new(),
            stopped: watch::Sender::new(false),
        });
        runtime.spawn(background.clone().work());
        background
    }

    /// Ends the work. Requests under way go on.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether the cache has space for what nobody waits for.
    pub(crate) fn admits(&self) -> bool {
        self.cache.admits_background()
    }

    /// Has `course` fetched when it is its turn.
    pub(crate) fn add(&self, layer: &Arc<LazyLayer>, course: Course, rank: Rank) {
        layer.begin_job();
        if rank.class != Class::Near {
            layer.lane.add(rank, &course);
        }
        if rank.class == Class::Learned {
            self.learned.fetch_add(1, Ordering::Relaxed);
        }
        self.put(Job {
            layer: Arc::downgrade(layer),
            rank,
            course,
            requests: Arc::default(),
            incomplete: false,
            is_left: false,
            pause: FAILURE_PAUSE_MIN,
        });
    }

    /// Has `course` fetched behind what the image told of before.
    pub(crate) fn add_told(&self, layer: &Arc<LazyLayer>, course: Course) {
        let place = self.count.fetch_add(1, Ordering::Relaxed);
        self.add(layer, course, Rank::new(Class::Told, place));
    }

    /// Has `course` fetched before whatever else is near: somebody was there just now.
    pub(crate) fn add_near(&self, layer: &Arc<LazyLayer>, course: Course) {
        let place = u64::MAX - self.count.fetch_add(1, Ordering::Relaxed);
        self.add(layer, course, Rank::new(Class::Near, place));
        let surplus = self.lock().surplus(Class::Near, NEAR_MAX);
        if let Some(job) = surplus {
            self.drop_job(&job, job.layer.upgrade().as_deref());
        }
    }

    /// Whether what earlier starts read is still being fetched: then who waits needs nothing along.
    pub(crate) fn is_learned_on_its_way(&self) -> bool {
        self.learned.load(Ordering::Relaxed) > 0
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
            let Some(class) = self.lock().class() else {
                self.wake.notified().await;
                continue;
            };
            let window = self.window.load(Ordering::Relaxed);
            tokio::select! {
                () = self.line.room(self.room(class, window)) => {}
                // Perhaps it is the turn of another one.
                () = self.wake.notified() => continue,
            }
            let turn = match &self.limit {
                Some(limit) => Some(limit.turn().await),
                None => None,
            };
            let next = self.lock().take();
            if let Some((_, job)) = next {
                self.advance(job, turn).await;
            }
        }
    }

    fn room(&self, class: Class, window: u64) -> Room {
        Room {
            is_needed: class.is_needed(),
            window,
            requests_max: self.requests_max,
        }
    }

    /// Makes the next requests of a job. `turn` is that of a limit.
    async fn advance(self: &Arc<Self>, mut job: Job, turn: Option<Turn<'_>>) {
        let Some(layer) = job.layer.upgrade().filter(|layer| !layer.is_closed()) else {
            return self.drop_job(&job, None);
        };
        if job.requests.came.swap(false, Ordering::Relaxed) {
            job.pause = FAILURE_PAUSE_MIN;
        }
        if job.requests.failed.swap(false, Ordering::Relaxed) {
            layer.set_background(BackgroundState::Failing);
            job.incomplete = true;
            let pause = job.pause;
            job.pause = (job.pause * 2).min(FAILURE_PAUSE_MAX);
            return self.set_aside(job, &layer, pause);
        }
        if !self.admits() {
            layer.set_background(BackgroundState::NoSpace);
            return self.set_aside(job, &layer, SPACE_PAUSE);
        }
        layer.set_background(BackgroundState::Running);
        let window = layer.window().unwrap_or(WINDOW_UNKNOWN);
        self.window.store(window, Ordering::Relaxed);
        let class = job.rank.class;
        let part = match class.is_needed() || self.line.is_calm() {
            true => window / 2,
            false => window / 4,
        };
        let bytes = self.request_bytes.min(part).max(1);
        let fetches = layer.fetch_ahead(&mut job.course, bytes, class.gap_max(), &mut job.is_left);
        if fetches.is_empty() {
            return self.finish(job, &layer);
        }
        drop(layer);
        if let Some(turn) = turn {
            turn.spend(fetches.iter().map(Fetch::bytes).sum());
        }
        let requests = Arc::clone(&job.requests);
        // Other layers go on meanwhile, and this one in its turn.
        self.put(job);
        let room = self.room(class, window);
        self.begin(fetches, &requests, room).await;
    }

    /// Begins requests, one after the other as there is room; but one that somebody has come to wait for does not wait
    /// for its turn. Returns when all have begun.
    async fn begin(self: &Arc<Self>, fetches: Vec<Fetch>, requests: &Arc<Requests>, room: Room) {
        let mut begun = Vec::new();
        let mut last: Option<oneshot::Receiver<()>> = None;
        for fetch in fetches {
            let (begins, beginning) = oneshot::channel::<()>();
            let (passed_on, next) = oneshot::channel::<()>();
            begun.push(beginning);
            let (before, requests) = (last.replace(next), Arc::clone(requests));
            requests.under_way.fetch_add(1, Ordering::Relaxed);
            let background = Arc::clone(self);
            self.runtime.spawn(async move {
                let begun = (begins, passed_on);
                let outcome = match background.carry_out(fetch, before, begun, room).await {
                    true => &requests.came,
                    false => &requests.failed,
                };
                outcome.store(true, Ordering::Relaxed);
                requests.under_way.fetch_sub(1, Ordering::Release);
            });
        }
        for beginning in begun {
            // It is told by being dropped.
            let _ = beginning.await;
        }
    }

    /// Takes what is here elsewhere, then fetches the rest when it may begin; then drops `begun`. Whether all of it came.
    async fn carry_out<T>(
        &self,
        fetch: Fetch,
        mut before: Option<oneshot::Receiver<()>>,
        begun: T,
        room: Room,
    ) -> bool {
        let Sourced {
            mut requests,
            taking,
        } = fetch.sourced().await;
        if let Some(taking) = taking {
            requests.extend(taking.run().await);
        }
        let mut running = JoinSet::new();
        for fetch in requests {
            let trip = self.turn(&fetch, before.take(), room).await;
            running.spawn(fetch.on(trip).run());
        }
        if let Some(before) = before {
            // It is told by being dropped.
            let _ = before.await;
        }
        drop(begun);
        let mut all = true;
        while let Some(ended) = running.join_next().await {
            all &= matches!(ended, Ok(Ok(())));
        }
        all
    }

    /// Waits until `fetch` may begin.
    async fn turn(&self, fetch: &Fetch, before: Option<oneshot::Receiver<()>>, room: Room) -> Trip {
        let room = async {
            if let Some(before) = before {
                // It is told by being dropped.
                let _ = before.await;
            }
            self.line.room(room).await;
        };
        tokio::select! {
            biased;
            () = fetch.rush().on() => self.line.demand(fetch.bytes()),
            () = room => self.line.ahead(fetch.bytes()),
        }
    }

    /// Nothing is left that is missing and not under way.
    fn finish(self: &Arc<Self>, mut job: Job, layer: &LazyLayer) {
        // These are few and told of in the status, which must not say that all is here while some is inflated.
        let is_told_of = matches!(job.rank.class, Class::Told | Class::Rest);
        let is_under_way = job.requests.under_way.load(Ordering::Acquire) > 0;
        if is_under_way || is_told_of && layer.is_fetching() {
            // They may fail.
            return self.put_later(job, LAST_PAUSE);
        }
        let failed = job.requests.failed.swap(false, Ordering::Relaxed);
        if std::mem::take(&mut job.incomplete) || failed {
            job.course.restart();
            return self.put(job);
        }
        if std::mem::take(&mut job.is_left) && job.rank.class != Class::Near {
            job.course.restart();
            return self.put_later(job, LEFT_PAUSE);
        }
        self.drop_job(&job, Some(layer));
    }

    fn drop_job(&self, job: &Job, layer: Option<&LazyLayer>) {
        if job.rank.class == Class::Learned {
            self.learned.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(layer) = layer {
            layer.end_job();
        }
    }

    /// Has a job tried again after `pause` that cannot go on now. What is near is dropped: every miss makes a job of it, and
    /// nothing would end them.
    fn set_aside(self: &Arc<Self>, job: Job, layer: &LazyLayer, pause: Duration) {
        if job.rank.class == Class::Near {
            return self.drop_job(&job, Some(layer));
        }
        // Who waits must not count on what does not come.
        if job.rank.class == Class::Learned {
            self.learned.fetch_sub(1, Ordering::Relaxed);
        }
        self.later(pause, move |background| {
            if job.rank.class == Class::Learned {
                background.learned.fetch_add(1, Ordering::Relaxed);
            }
            background.put(job);
        });
    }

    fn put(&self, job: Job) {
        self.lock().put(job.rank, job);
        self.wake.notify_one();
    }

    fn put_later(self: &Arc<Self>, job: Job, pause: Duration) {
        self.later(pause, move |background| background.put(job));
    }

    fn later(self: &Arc<Self>, pause: Duration, work: impl FnOnce(&Self) + Send + 'static) {
        let background = self.clone();
        let mut stopped = self.stopped.subscribe();
        self.runtime.spawn(async move {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => {}
                () = tokio::time::sleep(pause) => work(&background),
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Job>> {
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
