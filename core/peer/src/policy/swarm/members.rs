//! The nodes that have the layer.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::{Name, Standing, Swarm};
use crate::policy::origin;
use crate::policy::{Bitmap, Class, Failure, Tier, Told};

/// Another node that has the layer, maybe without any chunk of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<P> {
    /// Which one.
    pub peer: P,
    /// Its print: see [`print`](crate::policy::print).
    pub print: u64,
    /// How near it is.
    pub tier: Tier,
}

/// A node that has not told anything is believed to be about to have something for so long.
const SILENT: Duration = Duration::from_millis(300);

#[derive(Debug)]
struct Known<P> {
    member: Member<P>,
    /// What it told last.
    told: Option<Told>,
    told_at: Option<Instant>,
    /// When it was last seen to get something, or said that it does.
    grew: Option<Instant>,
    /// Since when it is asked again and again.
    watched: Option<Instant>,
}

/// Who is called to fetch an extent is found out again after so long, for bans end.
const CALLED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Members<P> {
    known: BTreeMap<P, Known<P>>,
    /// When the first one joined.
    begun: Option<Instant>,
    /// Who is called to fetch which extent: that takes a look at everybody.
    called: RefCell<Called<P>>,
}

/// What was found out, as long as it holds.
#[derive(Debug)]
struct Called<P> {
    since: Option<Instant>,
    bans: u64,
    extents: HashMap<u64, Vec<Option<P>>>,
}

impl<P: Name> Members<P> {
    pub(super) fn new() -> Members<P> {
        Members {
            known: BTreeMap::new(),
            begun: None,
            called: RefCell::new(Called {
                since: None,
                bans: 0,
                extents: HashMap::new(),
            }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn holds(&self, peer: P, chunk: usize) -> bool {
        let told = self.known.get(&peer).and_then(|known| known.told.as_ref());
        told.is_some_and(|told| told.chunks.get(chunk))
    }

    /// Who has `chunk`, or says so.
    pub(super) fn holders(&self, chunk: usize) -> impl Iterator<Item = (P, Tier)> + '_ {
        self.known.values().filter_map(move |known| {
            let told = known.told.as_ref()?;
            let member = &known.member;
            told.chunks.get(chunk).then_some((member.peer, member.tier))
        })
    }

    /// Those who may be asked for something of `class` now, and what they have.
    pub(super) fn free(
        &self,
        standing: &Standing<P>,
        now: Instant,
        class: Class,
    ) -> Vec<(P, Tier, &Bitmap)> {
        let free = self.known.values().filter_map(|known| {
            let told = known.told.as_ref()?;
            let Member { peer, tier, .. } = known.member;
            let is_free = standing.is_free(now, peer, class);
            is_free.then_some((peer, tier, &told.chunks))
        });
        free.collect()
    }

    /// Until when nothing is asked of the registry, because those who were found just now have not told yet what they have.
    fn looked(&self, now: Instant, class: Class, standing: &Standing<P>) -> Option<Instant> {
        let (demand, prefetch) = standing.settings.look;
        let until = self.begun?
            + match class {
                Class::Demand => demand,
                Class::Prefetch => prefetch,
            };
        if until <= now || self.known.is_empty() {
            return None;
        }
        let mut known = self.known.values();
        let is_looking = class == Class::Prefetch || known.any(|known| known.told_at.is_none());
        is_looking.then_some(until)
    }

    /// Whether `peer` has told what it has since `then`.
    pub(super) fn knows_better(&self, peer: P, then: Instant) -> bool {
        let known = self.known.get(&peer);
        known.is_none_or(|known| known.told.is_none() || known.told_at.is_none_or(|at| at > then))
    }

    /// What `peer` told is not true.
    pub(super) fn forget_have(&mut self, peer: P, now: Instant) {
        if let Some(known) = self.known.get_mut(&peer) {
            (known.told, known.told_at) = (None, Some(now));
        }
    }

    /// Whether `peer` may have something soon that it has not now.
    fn is_growing(&self, peer: P, now: Instant, growing: Duration) -> bool {
        let within = |at: Instant, time| now.saturating_duration_since(at) < time;
        self.known.get(&peer).is_some_and(|known| {
            // Who was not asked yet, or has not answered yet, may have anything.
            let is_new = known.watched.is_none_or(|since| within(since, SILENT));
            (known.told_at.is_none() && is_new)
                || known.grew.is_some_and(|grew| within(grew, growing))
        })
    }
}

impl<P: Name> Swarm<P> {
    /// `member` has the layer. One more than there is room for takes the place of one that has told nothing.
    pub fn join(&mut self, standing: &Standing<P>, now: Instant, member: Member<P>) {
        self.members.begun.get_or_insert(now);
        self.members.called.get_mut().since = None;
        self.is_stale = true;
        let known = &mut self.members.known;
        if let Some(known) = known.get_mut(&member.peer) {
            known.member = member;
            return;
        }
        if known.len() >= standing.settings.members_max {
            let silent = known.iter().find(|(_, known)| known.told.is_none());
            let Some(silent) = silent.map(|(peer, _)| *peer) else {
                return;
            };
            known.remove(&silent);
        }
        let joined = Known {
            member,
            told: None,
            told_at: None,
            grew: None,
            watched: None,
        };
        known.insert(member.peer, joined);
    }

    /// `peer` has it no more, or is gone.
    pub fn leave(&mut self, peer: P) {
        self.members.known.remove(&peer);
        self.members.called.get_mut().since = None;
        self.is_stale = true;
    }

    /// Who has the layer.
    pub fn members(&self) -> impl Iterator<Item = Member<P>> + '_ {
        self.members.known.values().map(|known| known.member)
    }

    /// `peer` tells which chunks it has.
    pub fn on_have(&mut self, now: Instant, peer: P, told: Told) {
        let Some(known) = self.members.known.get_mut(&peer) else {
            return;
        };
        let before = known.told.as_ref();
        let has_grown = before.is_some_and(|before| told.chunks.has_more_than(&before.chunks));
        if told.active || has_grown {
            known.grew = Some(now);
        }
        self.is_stale |= has_grown || before.is_none();
        known.told = Some(told);
        known.told_at = Some(now);
    }

    /// `peer` was asked what it has, and failed. Answers whom to ban, if that was earned.
    pub fn on_have_failed(
        &mut self,
        standing: &mut Standing<P>,
        now: Instant,
        peer: P,
        failure: Failure,
    ) -> Option<crate::policy::Ban<P>> {
        if let Some(known) = self.members.known.get_mut(&peer) {
            // It was asked, so it is not as if it might have anything.
            (known.watched, known.told, known.told_at) = (None, None, Some(now));
        }
        match failure {
            // It has the layer no more.
            Failure::Missing => {
                self.leave(peer);
                None
            }
            failure => standing.failed(now, peer, failure),
        }
    }

    /// What `peer` told last: its generation, for the next question.
    pub fn generation(&self, peer: P) -> Option<u64> {
        let known = self.members.known.get(&peer)?;
        known.told.as_ref().map(|told| told.generation)
    }

    /// Who has everything, as far as it told, so that there is no need to ask it again soon.
    pub fn is_complete(&self, peer: P) -> bool {
        let known = self.members.known.get(&peer);
        let told = known.and_then(|known| known.told.as_ref());
        told.is_some_and(|told| told.complete)
    }

    /// The at most `most` nodes whose chunks are worth knowing at every moment: those that are to fetch what is waited for, those
    /// that were watched before, and some more.
    pub fn watch(&mut self, standing: &mut Standing<P>, now: Instant, most: usize) -> Vec<P> {
        let called = self.fresh_demand.iter().chain(&self.fresh_prefetch);
        let extents = called.take(64).map(|chunk| self.extent(standing, *chunk));
        let extents: std::collections::BTreeSet<u64> = extents.collect();
        let mut watched: Vec<P> = Vec::new();
        let usable = |peer: &P| standing.is_usable(now, *peer);
        for extent in extents {
            let called = self.called(standing, now, extent);
            let new = called.into_iter().flatten();
            let new: Vec<P> = new.filter(|peer| !watched.contains(peer)).collect();
            watched.extend(new.into_iter().filter(usable));
        }
        // Those are watched whatever it costs, within bounds: it is them that are waited for.
        let most = most.max(watched.len().min(2 * most));
        let mut rest: Vec<(bool, u64, P)> = Vec::new();
        for (peer, known) in &self.members.known {
            if !watched.contains(peer) && standing.is_usable(now, *peer) {
                rest.push((known.watched.is_none(), standing.dice.roll(), *peer));
            }
        }
        rest.sort_unstable();
        watched.extend(rest.into_iter().map(|(_, _, peer)| peer));
        watched.truncate(most);
        for (peer, known) in &mut self.members.known {
            match watched.contains(peer) {
                true => drop(known.watched.get_or_insert(now)),
                false => known.watched = None,
            }
        }
        watched
    }

    /// The number of the extent in which `chunk` begins.
    pub(super) fn extent(&self, standing: &Standing<P>, chunk: usize) -> u64 {
        let offset = self.layout.place(chunk).map_or(0, |(offset, _)| offset);
        offset / standing.settings.extent_bytes.max(1)
    }

    /// The nodes, this one (`None`) among them, that are called to fetch an extent.
    fn called(&self, standing: &Standing<P>, now: Instant, extent: u64) -> Vec<Option<P>> {
        let mut known = self.members.called.borrow_mut();
        let is_fresh = |since: Instant| now.saturating_duration_since(since) < CALLED;
        let bans = standing.bans().total();
        if !known.since.is_some_and(is_fresh) || known.bans != bans {
            *known = Called {
                since: Some(now),
                bans,
                extents: HashMap::new(),
            };
        }
        let called = known.extents.entry(extent).or_insert_with(|| {
            let others = self.members.known.iter();
            let others = others.filter(|(peer, _)| !standing.bans().is_banned(now, **peer));
            let others = others.map(|(peer, known)| (Some(*peer), known.member.print));
            let me = self.id.me.map(|me| (None, me));
            origin::called(self.id.layer, extent, others.chain(me))
        });
        called.clone()
    }

    /// Until when something of `extent` is left to other nodes to fetch that was wanted first at `since`. `None` if that is over,
    /// or if it is for this node to fetch.
    pub(super) fn left_to_others(
        &self,
        standing: &Standing<P>,
        now: Instant,
        extent: u64,
        class: Class,
        since: Instant,
    ) -> Option<Instant> {
        let settings = &standing.settings;
        if let Some(until) = self.members.looked(now, class, standing) {
            return Some(until);
        }
        let called = self.called(standing, now, extent);
        let patience = match (called.iter().position(Option::is_none), class) {
            (Some(0), _) => return None,
            (Some(_), _) => settings.second_patience,
            (None, Class::Demand) => settings.demand_patience,
            (None, Class::Prefetch) => settings.prefetch_patience,
        };
        let until = since + patience;
        let mut others = called.into_iter().flatten();
        // It may be here for long, and fetch nothing that nobody reads there.
        let is_growing = others.any(|peer| self.members.is_growing(peer, now, settings.growing));
        (until > now && is_growing).then_some(until)
    }

    /// How long the registry should not be asked for `chunks`, because other nodes are about to have them.
    pub fn may_fetch(
        &self,
        standing: &Standing<P>,
        now: Instant,
        chunks: std::ops::Range<usize>,
        class: Class,
    ) -> Duration {
        if standing.off_until(now).is_some() {
            return Duration::ZERO;
        }
        let first = self.extent(standing, chunks.start);
        let last = self.extent(standing, chunks.end.saturating_sub(1).max(chunks.start));
        let since = self.wanted.range(chunks).map(|(_, wanted)| wanted.since);
        let since = since.min().unwrap_or(now);
        let waits = (first..=last).map(|extent| {
            let until = self.left_to_others(standing, now, extent, class, since);
            until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
        });
        // What is for this node to fetch is fetched, whatever else is asked for with it.
        waits.min().unwrap_or_default()
    }

    /// The chunks that any other node has, as far as is known.
    pub fn had_by_others(&self) -> Bitmap {
        let mut all = Bitmap::new(self.layout.len());
        for known in self.members.known.values() {
            if let Some(told) = &known.told {
                told.chunks.runs(0..usize::MAX).for_each(|run| all.set(run));
            }
        }
        all
    }
}
