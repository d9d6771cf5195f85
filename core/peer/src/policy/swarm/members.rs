//! The nodes that have the layer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Name, Standing, Swarm};
use crate::policy::origin::{self, Rank};
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
    joined: Instant,
    /// What it told last.
    told: Option<Told>,
    told_at: Option<Instant>,
    /// When it was last seen to get something, or said that it does.
    grew: Option<Instant>,
    is_watched: bool,
}

#[derive(Debug)]
pub(super) struct Members<P> {
    known: BTreeMap<P, Known<P>>,
}

impl<P: Name> Members<P> {
    pub(super) fn new() -> Members<P> {
        Members {
            known: BTreeMap::new(),
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
            let is_new = known.told_at.is_none() && within(known.joined, SILENT);
            is_new || known.grew.is_some_and(|grew| within(grew, growing))
        })
    }
}

impl<P: Name> Swarm<P> {
    /// `member` has the layer. One more than there is room for takes the place of one that has told nothing.
    pub fn join(&mut self, standing: &Standing<P>, now: Instant, member: Member<P>) {
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
            joined: now,
            told: None,
            told_at: None,
            grew: None,
            is_watched: false,
        };
        known.insert(member.peer, joined);
    }

    /// `peer` has it no more, or is gone.
    pub fn leave(&mut self, peer: P) {
        self.members.known.remove(&peer);
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
            known.is_watched = false;
            known.told = None;
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
        let mut rest: Vec<(bool, u64, P)> = Vec::new();
        for (peer, known) in &self.members.known {
            if !watched.contains(peer) && standing.is_usable(now, *peer) {
                rest.push((!known.is_watched, standing.dice.roll(), *peer));
            }
        }
        rest.sort_unstable();
        watched.extend(rest.into_iter().map(|(_, _, peer)| peer));
        watched.truncate(most);
        for (peer, known) in &mut self.members.known {
            known.is_watched = watched.contains(peer);
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
        let others = self.members.known.iter();
        let others = others.filter(|(peer, _)| !standing.bans().is_banned(now, **peer));
        let others = others.map(|(peer, known)| (Some(*peer), known.member.print));
        let me = self.id.me.map(|me| (None, me));
        origin::called(self.id.layer, extent, others.chain(me))
    }

    /// How long after it was first wanted something of `extent` is left to other nodes to fetch. `None` if it is for this one.
    pub(super) fn left_to_others(
        &self,
        standing: &Standing<P>,
        now: Instant,
        extent: u64,
        class: Class,
    ) -> Option<Duration> {
        let settings = &standing.settings;
        let called = self.called(standing, now, extent);
        let rank = match called.iter().position(|node| node.is_none()) {
            Some(0) => return None,
            Some(_) => Rank::Second,
            None => Rank::None,
        };
        let mut others = called.into_iter().flatten();
        // It may be here for long, and fetch nothing that nobody reads there.
        if !others.any(|peer| self.members.is_growing(peer, now, settings.growing)) {
            return None;
        }
        Some(match (rank, class) {
            (Rank::Second, _) => settings.second_patience,
            (_, Class::Demand) => settings.demand_patience,
            (_, Class::Prefetch) => settings.prefetch_patience,
        })
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
        let waits = (first..=last).map(|extent| {
            let wait = self.left_to_others(standing, now, extent, class);
            wait.unwrap_or_default()
        });
        // What is for this node to fetch is fetched, whatever else is asked for with it.
        let wait = waits.min().unwrap_or_default();
        let since = self.wanted.range(chunks).map(|(_, wanted)| wanted.since);
        let since = since.min().unwrap_or(now);
        wait.saturating_sub(now.saturating_duration_since(since))
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
