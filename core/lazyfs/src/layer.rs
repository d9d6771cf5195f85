//! A layer that is read while it arrives.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use pontoon_cache::{CachedLayer, Pin as CachePin, Read as CacheRead};
use pontoon_erofs::{FileType, Image, Nid};
use pontoon_layer::Digest;
use pontoon_linux::Map;
use tokio::sync::watch;

use crate::complaints::Complaints;
use crate::course::Course;
use crate::engine::Engine;
use crate::flight::Flights;
use crate::kin::Donors;
use crate::lane::Lane;
use crate::link::{Connect, Link};
use crate::peers::{Peers, Swarm};
use crate::queue::{Class, Rank};
use crate::sequence::Sequence;
use crate::status::{BackgroundState, Counters, LastError, Status, percent};
use crate::trace::Trace;
use crate::trust::Trust;
use crate::{Error, Result};

/// A layer of which any byte can be read, whether it is here yet or not.
///
/// While it lives its data stay in the cache.
pub struct LazyLayer {
    pub(crate) engine: Arc<Engine>,
    pub(crate) link: Link,
    pub(crate) number: u64,
    tree: Image<Map>,
    pin: CachePin,
    pub(crate) flights: Arc<Flights>,
    pub(crate) donors: Donors,
    /// The other nodes that have the layer, until it is closed.
    swarm: Mutex<Option<Arc<dyn Swarm>>>,
    pub(crate) lane: Lane,
    /// Whether it is worth while to wait for what other nodes are about to fetch.
    pub(crate) trust: Trust,
    trace: Trace,
    pub(crate) sequence: Sequence,
    counters: Counters,
    /// Of all files. Summed up when it is asked for.
    bytes: OnceLock<u64>,
    state: Mutex<State>,
    /// What is to be fetched ahead and is not done.
    jobs: AtomicUsize,
    /// All of it is to be.
    is_wanted_whole: AtomicBool,
    failures: Complaints,
    pub(crate) wrong_chunks: Complaints,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    background: BackgroundState,
    last_error: Option<LastError>,
}

impl fmt::Debug for LazyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyLayer")
            .field("key", self.cached().key())
            .finish_non_exhaustive()
    }
}

/// What became of a read.
pub enum Read {
    /// So many bytes are in the buffer: all that were asked for, or fewer at the end of the file.
    Ready(usize),
    /// They are being fetched. The fetch goes on even if this is dropped.
    Pending(PendingRead),
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Read::Ready(bytes) => f.debug_tuple("Ready").field(bytes).finish(),
            Read::Pending(_) => f.write_str("Pending"),
        }
    }
}

/// The bytes of a read that had to wait.
pub type PendingRead = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// What to fetch before anybody asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefetch {
    /// All of the layer. Does nothing if the configuration switches it off.
    Everything,
    /// What begins below this offset of the blob: a landmark.
    BlobUpTo(u64),
    /// These chunks, by their indexes and in this order. Indexes that do not exist are skipped.
    Chunks(Vec<u32>),
    /// The same, as the image's own maker wants it: as a landmark does.
    Named(Vec<u32>),
}

impl LazyLayer {
    /// A layer with the file tree `tree`, an image that [`pontoon_erofs::write`] made for it, and the data `cached`.
    /// `connect` is not called before bytes are missing.
    pub fn open(
        engine: &Arc<Engine>,
        tree: Map,
        cached: &Arc<CachedLayer>,
        connect: Arc<dyn Connect>,
    ) -> Result<Arc<Self>> {
        let layer = || cached.key().blob.clone();
        let tree = Image::open(tree).map_err(|source| Error::Tree {
            layer: layer(),
            source,
        })?;
        let pin = cached.pin().map_err(|source| Error::Cache {
            layer: layer(),
            source: Arc::new(source),
        })?;
        Ok(Arc::new(LazyLayer {
            engine: engine.clone(),
            link: Link::new(connect),
            number: engine.number(),
            tree,
            pin,
            flights: Arc::default(),
            donors: Donors::default(),
            swarm: Mutex::default(),
            lane: Lane::default(),
            trust: Trust::default(),
            trace: Trace::new(cached.chunks().len()),
            sequence: Sequence::default(),
            counters: Counters::default(),
            bytes: OnceLock::new(),
            state: Mutex::new(State {
                background: BackgroundState::Idle,
                last_error: None,
            }),
            jobs: AtomicUsize::new(0),
            is_wanted_whole: AtomicBool::new(false),
            failures: Complaints::default(),
            wrong_chunks: Complaints::default(),
            closed: watch::Sender::new(false),
        }))
    }

    /// The digest of the layer's blob.
    pub fn digest(&self) -> &Digest {
        &self.cached().key().blob
    }

    /// Names and attributes.
    pub fn tree(&self) -> &Image<Map> {
        &self.tree
    }

    /// The layer in the cache.
    pub fn cached(&self) -> &Arc<CachedLayer> {
        self.pin.layer()
    }

    /// Fills `buffer` with the bytes of the file `nid` from `offset` on. Never waits for the network.
    pub fn read(self: &Arc<Self>, nid: Nid, offset: u64, buffer: &mut [u8]) -> Result<Read> {
        let inode = self
            .tree
            .inode(nid)
            .map_err(|source| self.failed_at_once(self.damaged(source)))?;
        if inode.file_type != FileType::File {
            return Err(Error::NotAFile {
                layer: self.digest().clone(),
                nid: nid.get(),
            });
        }
        let left = inode.size.saturating_sub(offset);
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match buffer.get_mut(..length) {
            Some(buffer) if length > 0 => self.read_data(inode.data_offset + offset, buffer),
            _ => Ok(Read::Ready(0)),
        }
    }

    /// Fills `buffer` with the bytes of the layer's data file from `offset` on, which must all be inside it. Never
    /// waits for the network.
    pub fn read_data(self: &Arc<Self>, offset: u64, buffer: &mut [u8]) -> Result<Read> {
        let range = offset..offset.saturating_add(buffer.len() as u64);
        let chunks = self.cached().chunks().find(range);
        chunks.for_each(|index| self.trace.note(index, || self.engine.next_use()));
        self.look(offset, buffer)
    }

    /// As [`LazyLayer::read_data`], but it is no use of the layer that is recorded: for whoever looks at a program before
    /// it is started.
    pub fn look(self: &Arc<Self>, offset: u64, buffer: &mut [u8]) -> Result<Read> {
        let range = offset..offset.saturating_add(buffer.len() as u64);
        match self.cached().read_at(offset, buffer) {
            Ok(CacheRead::Done) => {
                self.count(|counters| &counters.ready_reads, 1);
                Ok(Read::Ready(buffer.len()))
            }
            Ok(CacheRead::Missing(_)) => {
                self.count(|counters| &counters.waited_reads, 1);
                let wait = self.demand(range.clone());
                Ok(Read::Pending(Box::pin(self.clone().arrive(range, wait))))
            }
            Err(source) => Err(self.failed_at_once(self.cache_failed(source))),
        }
    }

    /// Notes a read that failed without having waited.
    fn failed_at_once(&self, error: Error) -> Error {
        self.count(|counters| &counters.failed_reads, 1);
        self.engine.failed(&error);
        self.note_failure(&error);
        error
    }

    /// Fetches in the background, when the line would be idle otherwise. Errors end up in [`LazyLayer::status`] and are
    /// tried again.
    pub fn prefetch(self: &Arc<Self>, prefetch: Prefetch) {
        let is_named = matches!(prefetch, Prefetch::BlobUpTo(_) | Prefetch::Named(_));
        if !is_named && !self.engine.config.background.enabled {
            return;
        }
        let background = &self.engine.background;
        let chunks = self.cached().chunks().len();
        if prefetch == Prefetch::Everything {
            if !self.is_wanted_whole.swap(true, Ordering::Relaxed) {
                // Whoever has an image pulled likely starts it now.
                self.engine.line.is_waited_for();
                background.add(self, Course::small(chunks), Rank::new(Class::Rest, 0));
                background.add(
                    self,
                    Course::new(prefetch, chunks),
                    Rank::new(Class::Rest, 1),
                );
            }
            return;
        }
        background.add_told(self, Course::new(prefetch, chunks));
    }

    /// Fetches these chunks in the background, before whatever else is: an earlier start read them. `place` is where they
    /// come in the order of that start, which may go through several layers: the lowest comes first.
    pub fn follow(self: &Arc<Self>, place: u64, chunks: Vec<u32>) {
        if self.engine.config.background.enabled {
            let rank = Rank::new(Class::Learned, place);
            self.engine.background.add(self, Course::list(chunks), rank);
        }
    }

    /// The chunks that were read so far, in the order of their first reads, by their indexes. The record ends with
    /// the 65,536th.
    pub fn accesses(&self) -> Vec<u32> {
        let uses = self.uses_since(0);
        uses.into_iter().map(|(_, chunk)| chunk).collect()
    }

    /// Those of them that were read since [`Engine::uses`] was `since`, each with its place among the first reads of all
    /// layers.
    pub fn uses_since(&self, since: u64) -> Vec<(u64, u32)> {
        self.trace.since(since)
    }

    /// A window of the way to the registry, if that was measured.
    pub(crate) fn window(&self) -> Option<u64> {
        let bounds = &self.engine.config.window_bytes;
        let window = self.link.pace()?.window_bytes(2);
        Some(window.max(*bounds.start()).min(*bounds.end()))
    }

    /// About how long the registry takes for `bytes`, as far as that was measured.
    pub(crate) fn registry_time(&self, bytes: u64) -> std::time::Duration {
        let Some(pace) = self.link.pace() else {
            return std::time::Duration::ZERO;
        };
        let time = u128::from(bytes) * 1_000_000_000 / u128::from(pace.bytes_per_second.max(1));
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        pace.round_trip
            .saturating_add(std::time::Duration::from_nanos(time))
    }

    pub(crate) fn is_wanted_whole(&self) -> bool {
        self.is_wanted_whole.load(Ordering::Relaxed)
    }

    /// Something is to be fetched ahead.
    pub(crate) fn begin_job(&self) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
        self.set_background(BackgroundState::Running);
    }

    /// It was.
    pub(crate) fn end_job(&self) {
        if self.jobs.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.set_background(BackgroundState::Done);
        }
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        let bytes = *self.bytes.get_or_init(|| {
            let chunks = self.cached().chunks();
            chunks.iter().map(|chunk| u64::from(chunk.length)).sum()
        });
        let local_bytes = self.cached().ready_bytes();
        let state = self.lock();
        Status {
            bytes,
            local_bytes,
            percent: percent(local_bytes, bytes),
            blob_bytes: self.cached().meta().blob_bytes,
            background: state.background,
            last_error: state.last_error.clone(),
            counted: self.counters.counted(),
        }
    }

    /// Gives up all that is being fetched, and fetches nothing more: who waits gets an error. For layers that are not
    /// mounted any more.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.donors.clear();
        self.swarm_mut().take();
    }

    /// Has chunks fetched from other nodes that have them, and tells other nodes that this one has the layer, until it is
    /// closed. Once; what is told later is ignored.
    pub fn share(self: &Arc<Self>, peers: &dyn Peers) {
        let mut swarm = self.swarm_mut();
        if swarm.is_none() && !self.is_closed() {
            self.open_lane(swarm.insert(peers.join(self.cached())));
        }
    }

    /// The other nodes that have the layer, if there is any way to them.
    pub(crate) fn swarm(&self) -> Option<Arc<dyn Swarm>> {
        self.swarm_mut().clone()
    }

    fn swarm_mut(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn Swarm>>> {
        self.swarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64, number: u64) {
        counter(&self.counters).fetch_add(number, Ordering::Relaxed);
        counter(&self.engine.counters).fetch_add(number, Ordering::Relaxed);
    }

    /// A chunk that could not be stored.
    pub(crate) fn keep(&self, index: usize, bytes: Bytes) {
        self.count(|counters| &counters.unstored_chunks, 1);
        self.engine.leftovers.keep(self.number, index, bytes);
    }

    pub(crate) fn note_failure(&self, error: &Error) {
        if let Some(failures) = self.failures.add() {
            let failed_reads = self.counters.counted().failed_reads;
            tracing::warn!(layer = %self.digest(), error = error.whole(), failures, failed_reads, "bytes of a layer cannot be had");
        }
        self.lock().last_error = Some(LastError {
            when: SystemTime::now(),
            error: error.clone(),
        });
    }

    pub(crate) fn set_background(&self, background: BackgroundState) {
        self.lock().background = background;
    }

    /// Whether anything is on its way.
    pub(crate) fn is_fetching(&self) -> bool {
        !self.flights.is_empty()
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Returns when the layer is closed.
    pub(crate) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender is `self`, so this does not fail.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    pub(crate) fn wrong_bytes(&self, chunk: usize, reason: String) -> Error {
        Error::WrongBytes {
            layer: self.digest().clone(),
            chunk,
            reason,
        }
    }

    pub(crate) fn stalled(&self, reason: &str) -> pontoon_source::Error {
        pontoon_source::Error::Unavailable {
            host: "the registry".to_owned(),
            object: self.digest().to_string(),
            reason: reason.to_owned(),
            retry_after: None,
            source: None,
        }
    }

    fn damaged(&self, source: pontoon_erofs::ReadError) -> Error {
        Error::Tree {
            layer: self.digest().clone(),
            source,
        }
    }

    pub(crate) fn cache_failed(&self, source: pontoon_cache::Error) -> Error {
        Error::Cache {
            layer: self.digest().clone(),
            source: Arc::new(source),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LazyLayer {
    fn drop(&mut self) {
        self.engine.leftovers.forget(self.number);
    }
}
