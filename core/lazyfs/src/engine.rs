//! What all layers of a daemon share: places for work, and who goes first.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_cache::Cache;
use pontoon_source::Urgency;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Config;
use crate::background::Background;
use crate::flight::Rush;
use crate::leftovers::Leftovers;
use crate::line::Line;
use crate::status::Counters;

/// What all layers of a daemon share. There is one, and it outlives no layer: each holds it.
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) runtime: Handle,
    pub(crate) counters: Counters,
    failures: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) background: Arc<Background>,
    pub(crate) leftovers: Leftovers,
    memory: Places,
    inflaters: Places,
    /// Places for what is fetched ahead from other nodes.
    pub(crate) lanes: Arc<Semaphore>,
    pub(crate) line: Arc<Line>,
    layers: AtomicU64,
    /// First uses of chunks, of all layers: their order.
    uses: AtomicU64,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The unit of memory that is budgeted.
const KIB: u64 = 1024;

/// How much is fetched ahead from other nodes at the same time, in batches, of all layers.
const LANES: usize = 8;

impl Engine {
    /// An engine that works on `runtime`, which must have a timer, and fetches ahead as long as `cache` admits it.
    pub fn new(config: Config, cache: Arc<Cache>, runtime: Handle) -> Arc<Self> {
        let kib = usize::try_from(config.memory_bytes_max / KIB).unwrap_or(usize::MAX);
        let inflaters = config.inflaters();
        let line = Line::new();
        let background = Background::start(&config.background, cache, &line, &runtime);
        Arc::new(Engine {
            memory: Places::new(kib - kib / 3, kib / 3),
            // One more than there are processors at worst; so none waits behind what nobody wants.
            inflaters: Places::new(inflaters, (inflaters / 2).max(1)),
            lanes: Arc::new(Semaphore::new(LANES)),
            config,
            runtime,
            counters: Counters::default(),
            failures: Mutex::default(),
            background,
            leftovers: Leftovers::default(),
            line,
            layers: AtomicU64::new(0),
            uses: AtomicU64::new(0),
        })
    }

    /// Everything that was counted, of all layers, those that are gone included.
    pub fn counted(&self) -> crate::Counted {
        self.counters.counted()
    }

    /// A number that no other layer has.
    pub(crate) fn number(&self) -> u64 {
        self.layers.fetch_add(1, Ordering::Relaxed)
    }

    /// Memory for compressed bytes, until it is dropped.
    pub(crate) async fn memory(&self, bytes: u64, rush: &Rush) -> Place {
        self.memory.rushed(rush, bytes.div_ceil(KIB)).await
    }

    /// A place among those who inflate.
    pub(crate) async fn inflater(&self, rush: &Rush) -> Place {
        self.inflaters.rushed(rush, 1).await
    }

    /// How many reads failed, of all layers, by [`Error::kind`](crate::Error::kind).
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        let failures = self.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A read failed.
    pub(crate) fn failed(&self, error: &crate::Error) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(error.kind()).or_default() += 1;
    }

    /// How many first uses of chunks there were so far, of all layers. What is used first from now on has this number
    /// or a higher one in [`LazyLayer::uses_since`](crate::LazyLayer::uses_since).
    pub fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    /// The number of the next use.
    pub(crate) fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.background.stop();
    }
}

/// Places of two kinds, so that what somebody waits for never waits behind what nobody does.
#[derive(Debug)]
struct Places {
    demand: Kind,
    background: Kind,
}

#[derive(Debug)]
struct Kind {
    free: Arc<Semaphore>,
    all: u32,
}

/// A place that was taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    fn new(demand: usize, background: usize) -> Self {
        Places {
            demand: Kind::new(demand),
            background: Kind::new(background),
        }
    }

    /// Places among those for whom somebody waits, or among the others as long as nobody does.
    async fn rushed(&self, rush: &Rush, count: u64) -> Place {
        if !rush.is_on() {
            tokio::select! {
                place = self.take(Urgency::Background, count) => return place,
                () = rush.on() => {}
            }
        }
        self.take(Urgency::Demand, count).await
    }

    /// Takes `count` places, all that there are if there are not so many.
    async fn take(&self, urgency: Urgency, count: u64) -> Place {
        let kind = match urgency {
            Urgency::Demand => &self.demand,
            Urgency::Background => &self.background,
        };
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(kind.all);
        // The semaphore is never closed.
        let permit = kind.free.clone().acquire_many_owned(count).await.ok();
        Place { _permit: permit }
    }
}

impl Kind {
    fn new(places: usize) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Kind {
            free: Arc::new(Semaphore::new(places)),
            all: places as u32,
        }
    }
}
