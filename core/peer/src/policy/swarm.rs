//! The nodes that have one layer, and what of it is wanted.

mod ahead;
mod asks;
mod late;
mod members;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::{Ban, Class, Failure, Layout, Name, Standing};

use asks::Underway;
pub use members::Member;
use members::Members;

/// What a swarm is about, in numbers that all nodes agree on: see [`print`](super::print).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmId {
    /// The print of the layer's key.
    pub layer: u64,
    /// The print of this node; `None` if it gives nothing to others, so that nobody waits for it.
    pub me: Option<u64>,
}

/// Names a request, within its swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(u64);

/// A request to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<P> {
    /// To tell what came of it.
    pub id: AskId,
    /// Whom to ask.
    pub peer: P,
    /// For what.
    pub chunks: Range<usize>,
    /// How urgently.
    pub class: Class,
    /// Whether somebody else was asked for it too.
    pub is_hedge: bool,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<P> {
    /// Make this request.
    Ask(Ask<P>),
    /// Give this one up: all that it was for is here. It is not to be heard of any more.
    Cancel(AskId),
    /// Have these chunks fetched from the registry: no other node has them, this is the node to fetch them for others, or it
    /// took too long. What is under way for them goes on, and may be first.
    Registry(Range<usize>),
}

/// A chunk that is wanted.
#[derive(Debug)]
struct Wanted<P> {
    class: Class,
    since: Instant,
    /// Requests under way that are to bring it.
    asks: Vec<AskId>,
    /// Who failed to.
    tried: Vec<P>,
    /// The registry is to bring it.
    is_given_over: bool,
}

/// What is known of the other nodes that have one layer, and what of it is wanted.
///
/// Whoever drives it tells what happens, and after that, and at [`Swarm::next`], does what [`Swarm::plan`] says.
pub struct Swarm<P> {
    layout: Arc<dyn Layout>,
    id: SwarmId,
    members: Members<P>,
    wanted: BTreeMap<usize, Wanted<P>>,
    /// Of what is wanted, what nobody was asked for yet.
    fresh_demand: BTreeSet<usize>,
    fresh_prefetch: BTreeSet<usize>,
    underway: BTreeMap<AskId, Underway<P>>,
    next_id: u64,
    /// What to say at the next occasion.
    steps: Vec<Step<P>>,
    wake: Option<Instant>,
    /// Where the search for something to fetch ahead goes on.
    cursor: usize,
    /// Something has changed since it was looked last what to fetch ahead.
    is_stale: bool,
    /// When that was, and when to do so even if nothing changes.
    looked: Option<Instant>,
    look_at: Option<Instant>,
}

impl<P: Name> fmt::Debug for Swarm<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Swarm");
        debug.field("members", &self.members.len());
        debug.field("wanted", &self.wanted.len());
        debug.field("underway", &self.underway.len());
        debug.finish_non_exhaustive()
    }
}

impl<P: Name> Swarm<P> {
    /// Nobody is known, and nothing is wanted.
    pub fn new(layout: Arc<dyn Layout>, id: SwarmId) -> Swarm<P> {
        Swarm {
            layout,
            id,
            members: Members::new(),
            wanted: BTreeMap::new(),
            fresh_demand: BTreeSet::new(),
            fresh_prefetch: BTreeSet::new(),
            underway: BTreeMap::new(),
            next_id: 0,
            steps: Vec::new(),
            wake: None,
            cursor: 0,
            is_stale: false,
            looked: None,
            look_at: None,
        }
    }

    /// When to plan again if nothing happens before. After anything that happens, plan at once.
    pub fn next(&self) -> Option<Instant> {
        self.wake
    }

    /// How many chunks are wanted and not here.
    pub fn wanted(&self) -> usize {
        self.wanted.len()
    }

    /// Requests under way.
    pub fn underway(&self) -> usize {
        self.underway.len()
    }

    #[cfg(test)]
    pub(super) fn layout_len(&self) -> usize {
        self.layout.len()
    }

    /// The bytes of a chunk; 0 if there is no such.
    fn length(&self, chunk: usize) -> u64 {
        self.layout
            .place(chunk)
            .map_or(0, |(_, length)| u64::from(length))
    }

    fn bytes(&self, chunks: impl IntoIterator<Item = usize>) -> u64 {
        chunks.into_iter().map(|chunk| self.length(chunk)).sum()
    }

    fn fresh(&mut self, class: Class) -> &mut BTreeSet<usize> {
        match class {
            Class::Demand => &mut self.fresh_demand,
            Class::Prefetch => &mut self.fresh_prefetch,
        }
    }

    /// `chunks` are wanted. What was wanted already is wanted more urgently, if it is, and what was given over to the registry
    /// is looked for again.
    pub fn want(&mut self, now: Instant, chunks: Range<usize>, class: Class) {
        self.is_stale = true;
        for chunk in chunks.start..chunks.end.min(self.layout.len()) {
            let wanted = self.wanted.entry(chunk).or_insert_with(|| Wanted {
                class,
                since: now,
                asks: Vec::new(),
                tried: Vec::new(),
                is_given_over: false,
            });
            if std::mem::take(&mut wanted.is_given_over) {
                (wanted.class, wanted.since) = (class, now);
                wanted.tried.clear();
                // What is under way for it is waited for anew.
                for id in &wanted.asks {
                    if let Some(underway) = self.underway.get_mut(id) {
                        (underway.is_given_over, underway.is_late) = (false, false);
                        underway.progress = now;
                        underway.urgent_since = underway.urgent_since.map(|_| now);
                    }
                }
            }
            if class == Class::Demand && wanted.class != class {
                (wanted.class, wanted.since) = (class, now);
                for id in &wanted.asks {
                    if let Some(underway) = self.underway.get_mut(id) {
                        underway.urgent_since.get_or_insert(now);
                    }
                }
            }
            let (class, is_fresh) = (wanted.class, wanted.asks.is_empty());
            self.fresh_prefetch.remove(&chunk);
            if is_fresh {
                self.fresh(class).insert(chunk);
            }
        }
    }

    /// Nobody wants `chunks` any more.
    pub fn unwant(&mut self, standing: &mut Standing<P>, now: Instant, chunks: Range<usize>) {
        self.settle(standing, now, chunks);
    }

    /// `chunks` are here, from elsewhere.
    pub fn landed(&mut self, standing: &mut Standing<P>, now: Instant, chunks: Range<usize>) {
        self.settle(standing, now, chunks);
    }

    /// A request brought `chunk`, whose digest was right.
    pub fn on_chunk(&mut self, standing: &mut Standing<P>, now: Instant, id: AskId, chunk: usize) {
        let length = self.length(chunk);
        if let Some(underway) = self.underway.get_mut(&id)
            && underway.rest.remove(&chunk)
        {
            underway.progress = now;
            underway.came += length;
            standing.came(underway.ask.peer, length);
        }
        if let Some(wanted) = self.wanted.get_mut(&chunk) {
            // Whoever brought it is not given up for it, only when all of it has come.
            wanted.asks.retain(|other| *other != id);
        }
        self.settle(standing, now, chunk..chunk + 1);
    }

    /// A request is over. Answers whom to ban, if that was earned.
    pub fn on_end(
        &mut self,
        standing: &mut Standing<P>,
        now: Instant,
        id: AskId,
        result: Result<(), Failure>,
    ) -> Option<Ban<P>> {
        let underway = self.underway.remove(&id)?;
        (self.is_stale, self.looked) = (true, None);
        let peer = underway.ask.peer;
        let rest = self.bytes(underway.rest.iter().copied());
        standing.ended(peer, underway.ask.class, rest + underway.forgone);
        let failure = match result {
            // It says that it has given everything, and has not.
            Ok(()) if rest > 0 => Some(Failure::Cut),
            Ok(()) => None,
            Err(failure) => Some(failure),
        };
        let mut ban = None;
        match failure {
            None => {
                let time = now.saturating_duration_since(underway.began);
                standing.took(now, peer, underway.bytes, time);
            }
            // It told so before it was asked, or something was evicted: what it told is not true any more.
            Some(Failure::Missing) if !self.members.knows_better(peer, underway.began) => {
                self.members.forget_have(peer, now);
                ban = standing.failed(now, peer, Failure::Missing);
            }
            Some(Failure::Missing) => {}
            Some(failure) => ban = standing.failed(now, peer, failure),
        }
        for chunk in underway.rest {
            // Who is busy will have time for it.
            let failed = failure.filter(|failure| !matches!(failure, Failure::Busy(_)));
            self.release(chunk, id, failed.map(|_| peer));
        }
        ban
    }

    /// Nothing under way brings `chunk` any more, if `id` was the last.
    fn release(&mut self, chunk: usize, id: AskId, failed: Option<P>) {
        let Some(wanted) = self.wanted.get_mut(&chunk) else {
            return;
        };
        wanted.asks.retain(|other| *other != id);
        wanted.tried.extend(failed);
        if !wanted.asks.is_empty() {
            return;
        }
        match (wanted.is_given_over, wanted.class) {
            // Nothing brings it any more that is to be told of.
            (true, _) => drop(self.wanted.remove(&chunk)),
            (false, class) => drop(self.fresh(class).insert(chunk)),
        }
    }

    /// `chunks` are not wanted any more, and nothing that is only for them goes on.
    fn settle(&mut self, standing: &mut Standing<P>, now: Instant, chunks: Range<usize>) {
        let settled: Vec<usize> = self.wanted.range(chunks).map(|(chunk, _)| *chunk).collect();
        for chunk in settled {
            let asks = self.wanted.remove(&chunk).map(|wanted| wanted.asks);
            self.fresh_demand.remove(&chunk);
            self.fresh_prefetch.remove(&chunk);
            for id in asks.unwrap_or_default() {
                let length = self.length(chunk);
                let Some(underway) = self.underway.get_mut(&id) else {
                    continue;
                };
                if underway.rest.remove(&chunk) {
                    underway.forgone += length;
                }
                if underway.rest.is_empty() {
                    self.cancel(standing, now, id);
                }
            }
        }
    }

    fn cancel(&mut self, standing: &mut Standing<P>, now: Instant, id: AskId) {
        let Some(underway) = self.underway.remove(&id) else {
            return;
        };
        (self.is_stale, self.looked) = (true, None);
        let rest = self.bytes(underway.rest.iter().copied());
        let peer = underway.ask.peer;
        standing.ended(peer, underway.ask.class, rest + underway.forgone);
        standing.wasted(rest + underway.forgone);
        // It is at least so slow.
        let time = now.saturating_duration_since(underway.began);
        let slow = standing.hedge.peer_after(underway.bytes);
        if time >= slow {
            standing.speeds.took(now, peer, underway.bytes, time);
        }
        for chunk in &underway.rest {
            self.release(*chunk, id, None);
        }
        self.steps.push(Step::Cancel(id));
    }
}
