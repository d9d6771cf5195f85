//! A layer that is read while it arrives.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use pontoon_cache::{CachedLayer, Pin as CachePin, Read as CacheRead};
use pontoon_erofs::{FileType, Image, Nid};
use pontoon_layer::Digest;
use pontoon_linux::Map;
use tokio::sync::watch;

use crate::background::Course;
use crate::engine::Engine;
use crate::fetch::Fetch;
use crate::flight::{Flights, Gate, Landed, Piece, Rush, Ticket};
use crate::link::{Connect, Link};
use crate::plan::{Bounds, Member, coalesce, widen};
use crate::status::{BackgroundState, Counters, LastError, Status, percent};
use crate::trace::Trace;
use crate::{Error, Result};

/// A layer of which any byte can be read, whether it is here yet or not.
///
/// While it lives its data stay in the cache.
pub struct LazyLayer {
    pub(crate) engine: Arc<Engine>,
    pub(crate) link: Link,
    number: u64,
    tree: Image<Map>,
    pin: CachePin,
    flights: Arc<Flights>,
    trace: Trace,
    counters: Counters,
    /// Of all files. Summed up when it is asked for.
    bytes: OnceLock<u64>,
    state: Mutex<State>,
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
}

/// How often a read looks again for bytes that were here and are gone: the disk lost them.
const ROUNDS: usize = 4;

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
            trace: Trace::new(cached.chunks().len()),
            counters: Counters::default(),
            bytes: OnceLock::new(),
            state: Mutex::new(State {
                background: BackgroundState::Idle,
                last_error: None,
            }),
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
            .map_err(|source| self.damaged(source))?;
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
        self.cached()
            .chunks()
            .find(range.clone())
            .for_each(|index| self.trace.note(index));
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
            Err(source) => Err(self.cache_failed(source)),
        }
    }

    /// Fetches in the background, when nobody waits for anything else. Errors end up in [`LazyLayer::status`] and are
    /// tried again.
    pub fn prefetch(self: &Arc<Self>, prefetch: Prefetch) {
        let first = prefetch != Prefetch::Everything;
        if !first && !self.engine.config.background.enabled {
            return;
        }
        let course = Course::new(prefetch, self.cached().chunks().len());
        self.engine.background.add(self, course, first);
    }

    /// The chunks that were read so far, in the order of their first reads, by their indexes. The record ends with
    /// the 65,536th.
    pub fn accesses(&self) -> Vec<u32> {
        self.trace.order()
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
    }

    /// Starts fetching what is missing of `data`, and more at the same time if that costs nothing.
    fn demand(self: &Arc<Self>, data: Range<u64>) -> Wait {
        let mut wait = Wait::default();
        let mut fetches = Vec::new();
        {
            let table = self.cached().chunks();
            let mut gate = self.flights.gate();
            let (mut wanted, mut seen) = (Vec::new(), HashSet::new());
            for index in self.cached().missing(table.find(data)).flatten() {
                if let Some(bytes) = self.engine.leftovers.get(self.number, index) {
                    wait.memory.insert(index, bytes);
                    continue;
                }
                let Some(member) = Member::of(&table, index) else {
                    continue;
                };
                if !seen.insert(member.key()) {
                    continue;
                }
                match gate.board(&member) {
                    Some(ticket) => wait.tickets.push(ticket),
                    None => wanted.push(member),
                }
            }
            let config = &self.engine.config;
            let bounds = self.bounds(config.request_bytes_max);
            let free = |member: &Member| self.is_free(&gate, member);
            widen(&table, &mut wanted, config.demand_bytes_min, bounds, free);
            for request in coalesce(wanted, bounds) {
                let rush = Rush::new(true);
                let mut claims = Vec::new();
                for member in request {
                    let claim = gate.claim(member, &rush);
                    if seen.contains(&claim.member.key()) {
                        wait.tickets.push(claim.ticket());
                    }
                    claims.push(claim);
                }
                fetches.push(Fetch::new(self, claims, &rush));
            }
        }
        fetches.into_iter().for_each(Fetch::spawn);
        wait
    }

    /// The next requests of about `bytes` in all, made for nobody yet. None if everything is here or on its way.
    pub(crate) fn fetch_ahead(self: &Arc<Self>, course: &mut Course, bytes: u64) -> Vec<Fetch> {
        let table = self.cached().chunks();
        loop {
            let (mut wanted, mut seen, mut sum) = (Vec::new(), HashSet::new(), 0);
            let mut ended = false;
            while sum < bytes {
                let Some((index, below)) = course.next() else {
                    ended = true;
                    break;
                };
                if self.cached().is_ready(index) {
                    continue;
                }
                if let Some(member) = Member::of(&table, index)
                    && member.blob.start < below
                    && seen.insert(member.key())
                {
                    sum += member.bytes();
                    wanted.push(member);
                }
            }
            let mut gate = self.flights.gate();
            wanted.retain(|member| self.is_free(&gate, member));
            let mut fetches = Vec::new();
            for request in coalesce(wanted, self.bounds(bytes)) {
                let rush = Rush::new(false);
                let claims = request.into_iter().map(|member| gate.claim(member, &rush));
                let claims = claims.collect();
                fetches.push(Fetch::new(self, claims, &rush));
            }
            if ended || !fetches.is_empty() {
                return fetches;
            }
        }
    }

    fn bounds(&self, request_max: u64) -> Bounds {
        Bounds {
            gap_max: self.engine.config.gap_bytes_max,
            request_max,
        }
    }

    /// Whether some of `member` is missing and nobody fetches it.
    fn is_free(&self, gate: &Gate<'_>, member: &Member) -> bool {
        let mut chunks = member.chunks.clone();
        !gate.is_in_flight(member) && chunks.any(|index| !self.cached().is_ready(index))
    }

    async fn arrive(self: Arc<Self>, data: Range<u64>, wait: Wait) -> Result<Bytes> {
        let arrived = self.wait_for(data, wait).await;
        if arrived.is_err() {
            self.count(|counters| &counters.failed_reads, 1);
        }
        arrived
    }

    async fn wait_for(self: &Arc<Self>, data: Range<u64>, mut wait: Wait) -> Result<Bytes> {
        let length = (data.end - data.start) as usize;
        for _ in 0..ROUNDS {
            self.land(&data, &mut wait).await?;
            let mut buffer = vec![0; length];
            if self.assemble(data.start, &mut buffer, &wait.memory)? {
                return Ok(buffer.into());
            }
            let memory = std::mem::take(&mut wait.memory);
            wait = self.demand(data.clone());
            wait.memory.extend(memory);
        }
        Err(Error::Lost {
            layer: self.digest().clone(),
        })
    }

    /// Waits for everything that was asked for, and collects what is not in the cache.
    async fn land(&self, data: &Range<u64>, wait: &mut Wait) -> Result<()> {
        let wanted = self.cached().chunks().find(data.clone());
        for mut ticket in std::mem::take(&mut wait.tickets) {
            match ticket.landed().await {
                Some(Landed::Stored) => {}
                Some(Landed::Mixed(pieces)) => {
                    for (index, piece) in pieces.iter().filter(|(index, _)| wanted.contains(index))
                    {
                        match piece {
                            Piece::Memory(bytes) => wait.memory.insert(*index, bytes.clone()),
                            Piece::Failed(error) => return Err(error.clone()),
                        };
                    }
                }
                // What nobody waited for when it began did not try for long.
                Some(Landed::Failed(_)) | None if !ticket.is_demanded() && !self.is_closed() => {}
                Some(Landed::Failed(error)) => return Err(error),
                None => {
                    return Err(Error::Abandoned {
                        layer: self.digest().clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Fills `buffer` from the cache and from `memory`. False if something is in neither.
    fn assemble(
        &self,
        offset: u64,
        buffer: &mut [u8],
        memory: &HashMap<usize, Bytes>,
    ) -> Result<bool> {
        let read = |offset, buffer: &mut [u8]| {
            let read = self.cached().read_at(offset, buffer);
            let read = read.map_err(|source| self.cache_failed(source))?;
            Ok(read == CacheRead::Done)
        };
        if memory.is_empty() {
            return read(offset, buffer);
        }
        let table = self.cached().chunks();
        let end = offset + buffer.len() as u64;
        for index in table.find(offset..end) {
            let Some(chunk) = table.get(index) else {
                continue;
            };
            let (from, to) = (chunk.data_offset.max(offset), chunk.data_end().min(end));
            let Some(part) = buffer.get_mut((from - offset) as usize..(to - offset) as usize)
            else {
                continue;
            };
            let inside = (from - chunk.data_offset) as usize..(to - chunk.data_offset) as usize;
            match memory.get(&index).and_then(|bytes| bytes.get(inside)) {
                Some(bytes) => part.copy_from_slice(bytes),
                None if !read(from, part)? => return Ok(false),
                None => {}
            }
        }
        Ok(true)
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
        tracing::warn!(layer = %self.digest(), error = error.whole(), "bytes of a layer cannot be had");
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

    fn cache_failed(&self, source: pontoon_cache::Error) -> Error {
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

/// What a read waits for.
#[derive(Debug, Default)]
struct Wait {
    tickets: Vec<Ticket>,
    /// Chunks that are not in the cache, by their indexes.
    memory: HashMap<usize, Bytes>,
}
