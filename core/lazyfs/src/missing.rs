//! What becomes of bytes that are not here: which requests are made for them, and how readers get them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_cache::Read as CacheRead;

use crate::course::Course;
use crate::fetch::Fetch;
use crate::flight::{Gate, Landed, Piece, Rush, Ticket};
use crate::peers::Swarm;
use crate::plan::{Bounds, Member, Members, coalesce, widen};
use crate::{Error, LazyLayer, Result};

/// How often a read looks again for bytes that were here and are gone: the disk lost them.
const ROUNDS: usize = 4;

/// What lies so far behind what somebody waits for is near, in bytes of the blob and in chunks.
const NEAR_BYTES: u64 = 4 << 20;
const NEAR_CHUNKS: usize = 4096;

/// No more than so many times the bytes that are fetched ahead at once come out of them: of what compresses well the
/// next comes when that is stored.
const INFLATION_MAX: u64 = 16;

/// Where much is taken from other layers, what lies between two members that are not is large as a rule, and is what was
/// to be saved: no more is fetched along than what another request takes.
pub(crate) const TAKEN_GAP_MAX: u64 = 4 << 10;

/// What a read waits for.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    tickets: Vec<Ticket>,
    /// Chunks that are not in the cache, by their indexes.
    memory: HashMap<usize, Bytes>,
}

impl LazyLayer {
    /// Starts fetching what is missing of `data`, and more at the same time if that costs nothing.
    pub(crate) fn demand(self: &Arc<Self>, data: Range<u64>) -> Wait {
        self.engine.line.is_waited_for();
        let mut wait = Wait::default();
        let mut fetches = Vec::new();
        let near;
        {
            let table = self.cached().chunks();
            let mut gate = self.flights.gate();
            let (mut wanted, mut seen) = (Vec::new(), Members::default());
            for index in self.cached().missing(table.find(data)).flatten() {
                if let Some(bytes) = self.engine.leftovers.get(self.number, index) {
                    wait.memory.insert(index, bytes);
                    continue;
                }
                if seen.has(index) {
                    continue;
                }
                let Some(member) = Member::of(&table, index) else {
                    continue;
                };
                seen.add(&member);
                match gate.board(&member) {
                    Some(ticket) => wait.tickets.push(ticket),
                    None => wanted.push(member),
                }
            }
            let config = &self.engine.config;
            let bounds = self.bounds(config.request_bytes_max);
            let free = |member: &Member| self.is_free(&gate, member);
            let along = self.along(&wanted);
            widen(&table, &mut wanted, along, bounds, free);
            near = wanted.iter().max_by_key(|member| member.blob.end).cloned();
            for request in coalesce(wanted, bounds) {
                let rush = Rush::new(true);
                let mut claims = Vec::new();
                for member in request {
                    let claim = gate.claim(member, &rush);
                    if seen.has(claim.member.key()) {
                        wait.tickets.push(claim.ticket());
                    }
                    claims.push(claim);
                }
                fetches.push(Fetch::new(self, claims, &rush));
            }
        }
        fetches.into_iter().for_each(Fetch::start);
        if let Some(last) = near {
            self.sequence.ended(last.chunks.end);
            self.expect_behind(&last);
        }
        wait
    }

    /// How many bytes a miss of `wanted` has fetched in all, if that many small members lie behind it.
    fn along(&self, wanted: &[Member]) -> u64 {
        let Some(first) = wanted.iter().map(|member| member.chunks.start).min() else {
            return 0;
        };
        // What comes next is known, and better than that it lies behind.
        if self.engine.background.is_learned_on_its_way() {
            return 0;
        }
        let bytes = self.window().unwrap_or(self.engine.config.along_bytes);
        self.sequence.widened(first, bytes)
    }

    /// Somebody waits for what ends with `last`: what lies behind it comes before the rest, which he likely reads on.
    fn expect_behind(self: &Arc<Self>, last: &Member) {
        if !self.is_wanted_whole() || self.engine.background.is_learned_on_its_way() {
            return;
        }
        let from = last.chunks.end;
        let to = self.cached().chunks().len().min(from + NEAR_CHUNKS);
        if from < to {
            let below = last.blob.end.saturating_add(NEAR_BYTES);
            self.engine
                .background
                .add_near(self, Course::near(from..to, below));
        }
    }

    /// The next requests of about `bytes` in all, made for nobody yet, with at most `gap_max` bytes between two members of
    /// one. None if everything is here or on its way, or left to other nodes: then `is_left` is set.
    pub(crate) fn fetch_ahead(
        self: &Arc<Self>,
        course: &mut Course,
        bytes: u64,
        gap_max: u64,
        is_left: &mut bool,
    ) -> Vec<Fetch> {
        let table = self.cached().chunks();
        let swarm = self.swarm();
        let mut leave = |member: &Member| {
            let is_peers = |swarm: &Arc<dyn Swarm>| self.is_left_to_peers(&**swarm, member);
            let is_peers = swarm.as_ref().is_some_and(is_peers);
            *is_left |= is_peers;
            is_peers
        };
        let mut seen = Members::default();
        loop {
            let mut wanted = Vec::new();
            let (mut sum, mut data_bytes) = (0, 0u64);
            let mut ended = false;
            while sum < bytes && data_bytes / INFLATION_MAX < bytes {
                let Some((index, within)) = course.next() else {
                    ended = true;
                    break;
                };
                if self.cached().is_ready(index) || seen.has(index) {
                    continue;
                }
                let Some(member) = Member::of(&table, index) else {
                    continue;
                };
                seen.add(&member);
                if within.has(&member.blob) && !leave(&member) {
                    sum += member.bytes();
                    data_bytes = data_bytes.saturating_add(member.data_bytes(&table));
                    wanted.push(member);
                }
            }
            let mut gate = self.flights.gate();
            let mut bounds = self.bounds(bytes);
            bounds.gap_max = bounds.gap_max.min(gap_max);
            wanted.retain(|member| self.is_free(&gate, member));
            // What lies between them comes anyway.
            let free = |member: &Member| self.is_free(&gate, member);
            widen(&table, &mut wanted, 0, bounds, free);
            let mut fetches = Vec::new();
            for request in coalesce(wanted, bounds) {
                let rush = Rush::new(false);
                let claims = request.into_iter().map(|member| gate.claim(member, &rush));
                let claims = claims.collect();
                fetches.push(Fetch::new(self, claims, &rush));
            }
            if let (Some(swarm), false) = (&swarm, fetches.is_empty()) {
                swarm.fetches();
            }
            if ended || !fetches.is_empty() {
                return fetches;
            }
        }
    }

    pub(crate) fn bounds(&self, request_max: u64) -> Bounds<'_> {
        let gap_max = self.engine.config.gap_bytes_max;
        Bounds {
            gap_max: match self.is_like_another() {
                true => gap_max.min(TAKEN_GAP_MAX),
                false => gap_max,
            },
            request_max,
            ends: self.link.ends(),
        }
    }

    /// Whether some of `member` is missing and nobody fetches it.
    pub(crate) fn is_free(&self, gate: &Gate<'_>, member: &Member) -> bool {
        let mut chunks = member.chunks.clone();
        !gate.is_in_flight(member) && chunks.any(|index| !self.cached().is_ready(index))
    }

    pub(crate) async fn arrive(self: Arc<Self>, data: Range<u64>, wait: Wait) -> Result<Bytes> {
        let arrived = self.wait_for(data, wait).await;
        if let Err(error) = &arrived {
            self.count(|counters| &counters.failed_reads, 1);
            self.engine.failed(error);
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
}
