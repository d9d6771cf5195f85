//! What to do next.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Ask, AskId, Step, Swarm, Underway};
use crate::policy::{Class, Name, Standing, Tier};

/// When everybody who has something is busy, it is looked again after so long.
pub(super) const BUSY: Duration = Duration::from_millis(10);

/// Others may be done meanwhile that had all the room.
pub(super) const NO_ROOM: Duration = Duration::from_millis(50);

/// What can be done for a chunk.
pub(super) enum Way<P> {
    /// Ask one of these.
    Ask(Vec<(P, Tier)>),
    /// Wait until then: somebody is about to have it, or to have time.
    Wait(Instant),
    Registry,
}

impl<P: Name> Swarm<P> {
    /// What is to be done now.
    pub fn plan(&mut self, standing: &mut Standing<P>, now: Instant) -> Vec<Step<P>> {
        self.wake = None;
        if standing.off_until(now).is_some() {
            self.give_all_over(standing, now);
            return std::mem::take(&mut self.steps);
        }
        self.look_after(standing, now);
        self.plan_demand(standing, now);
        self.plan_prefetch(standing, now);
        std::mem::take(&mut self.steps)
    }

    pub(super) fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Nobody is asked any more.
    fn give_all_over(&mut self, standing: &mut Standing<P>, now: Instant) {
        let asks: Vec<AskId> = self.underway.keys().copied().collect();
        asks.into_iter()
            .for_each(|id| self.cancel(standing, now, id));
        let fresh: BTreeSet<usize> = std::mem::take(&mut self.fresh_demand);
        let prefetch = std::mem::take(&mut self.fresh_prefetch);
        for run in runs(
            fresh
                .into_iter()
                .chain(prefetch)
                .collect::<BTreeSet<usize>>(),
        ) {
            self.give_over(run);
        }
    }

    /// Has the registry asked for `chunks`.
    pub(super) fn give_over(&mut self, chunks: Range<usize>) {
        for chunk in chunks.clone() {
            self.fresh_demand.remove(&chunk);
            self.fresh_prefetch.remove(&chunk);
            if let Some(wanted) = self.wanted.get_mut(&chunk) {
                wanted.is_given_over = true;
                // Nothing brings it any more that is to be told of.
                if wanted.asks.is_empty() {
                    self.wanted.remove(&chunk);
                }
            }
        }
        match self.steps.last_mut() {
            Some(Step::Registry(last)) if last.end == chunks.start => last.end = chunks.end,
            _ => self.steps.push(Step::Registry(chunks)),
        }
    }

    /// Who has `chunk`, was not tried for it, and may be asked now.
    pub(super) fn free_holders(
        &self,
        standing: &Standing<P>,
        now: Instant,
        chunk: usize,
        class: Class,
    ) -> Vec<(P, Tier)> {
        let tried = self.wanted.get(&chunk).map(|wanted| &wanted.tried);
        let holders = self.members.holders(chunk).filter(|(peer, _)| {
            let is_tried = tried.is_some_and(|tried| tried.contains(peer));
            !is_tried && standing.is_free(now, *peer, class)
        });
        holders.collect()
    }

    fn way(&self, standing: &Standing<P>, now: Instant, chunk: usize, class: Class) -> Way<P> {
        let free = self.free_holders(standing, now, chunk, class);
        match free.is_empty() {
            true => self.way_without_holder(standing, now, chunk, class),
            false => Way::Ask(free),
        }
    }

    /// What can be done for a chunk that nobody has who can be asked.
    pub(super) fn way_without_holder(
        &self,
        standing: &Standing<P>,
        now: Instant,
        chunk: usize,
        class: Class,
    ) -> Way<P> {
        let Some(wanted) = self.wanted.get(&chunk) else {
            return Way::Registry;
        };
        let settings = &standing.settings;
        let busy = wanted.since
            + match class {
                Class::Demand => settings.demand_patience,
                Class::Prefetch => settings.prefetch_patience,
            };
        let is_busy = busy > now
            && self.members.holders(chunk).any(|(peer, _)| {
                let until = standing.paused_until(now, peer);
                let is_soon = until.is_none_or(|until| until < busy);
                let is_banned = standing.bans().is_banned(now, peer);
                is_soon && !is_banned && !wanted.tried.contains(&peer)
            });
        if is_busy {
            // Somebody has it: that is worth as long as anybody is waited for.
            return Way::Wait(now + BUSY);
        }
        let extent = self.extent(standing, chunk);
        let until = self.left_to_others(standing, now, extent, class, wanted.since);
        until.map_or(Way::Registry, Way::Wait)
    }

    fn plan_demand(&mut self, standing: &mut Standing<P>, now: Instant) {
        let mut next = 0;
        while let Some(chunk) = self.fresh_demand.range(next..).next().copied() {
            next = chunk + 1;
            let way = match standing.room(Class::Demand) {
                // As long as there is none, others are waited for who are about to be done.
                0 => self.way_without_room(standing, now, chunk),
                _ => self.way(standing, now, chunk, Class::Demand),
            };
            match way {
                Way::Ask(free) => {
                    let most = standing.settings.demand_bytes_max;
                    next = self.ask_one_of(standing, now, &free, chunk, Class::Demand, most);
                }
                Way::Wait(until) => self.wake_at(until),
                Way::Registry => {
                    let run = self.alike(standing, now, chunk);
                    next = run.end;
                    self.give_over(run);
                }
            }
        }
    }

    fn way_without_room(&self, standing: &Standing<P>, now: Instant, chunk: usize) -> Way<P> {
        let since = self.wanted.get(&chunk).map_or(now, |wanted| wanted.since);
        let until = since + standing.settings.hedge_registry.1;
        match until > now {
            true => Way::Wait(until.min(now + NO_ROOM)),
            false => Way::Registry,
        }
    }

    /// `chunk`, for which the registry is asked, and those behind it for which it is too.
    fn alike(&self, standing: &Standing<P>, now: Instant, chunk: usize) -> Range<usize> {
        let mut end = chunk + 1;
        while self.fresh_demand.contains(&end)
            && matches!(self.way(standing, now, end, Class::Demand), Way::Registry)
        {
            end += 1;
        }
        chunk..end
    }

    /// Asks one of `free` for `chunk` and what follows it, up to `most` bytes. Answers where that ends.
    pub(super) fn ask_one_of(
        &mut self,
        standing: &mut Standing<P>,
        now: Instant,
        free: &[(P, Tier)],
        chunk: usize,
        class: Class,
        most: u64,
    ) -> usize {
        let bytes = self.length(chunk);
        let Some(peer) = standing.choose(now, free, bytes) else {
            return chunk + 1;
        };
        let fresh = self.fresh(class);
        let mut end = chunk + 1;
        while fresh.contains(&end) {
            end += 1;
        }
        let chunks = self.stretch(chunk..end, peer, most);
        let end = chunks.end;
        self.ask(standing, now, peer, chunks, class, false);
        end
    }

    /// As much of `chunks` as `peer` has from their beginning on, up to `most` bytes, but the first one in any case.
    pub(super) fn stretch(&self, chunks: Range<usize>, peer: P, most: u64) -> Range<usize> {
        let mut bytes = self.length(chunks.start);
        let mut end = chunks.start + 1;
        while end < chunks.end && self.members.holds(peer, end) {
            bytes += self.length(end);
            let is_tried = self.wanted.get(&end);
            if bytes > most || is_tried.is_some_and(|wanted| wanted.tried.contains(&peer)) {
                break;
            }
            end += 1;
        }
        chunks.start..end
    }

    pub(super) fn ask(
        &mut self,
        standing: &mut Standing<P>,
        now: Instant,
        peer: P,
        chunks: Range<usize>,
        class: Class,
        is_hedge: bool,
    ) {
        let bytes = self.bytes(chunks.clone());
        standing.asked(peer, class, bytes, is_hedge);
        let id = AskId(self.next_id);
        self.next_id += 1;
        let mut rest = BTreeSet::new();
        for chunk in chunks.clone() {
            self.fresh_demand.remove(&chunk);
            self.fresh_prefetch.remove(&chunk);
            if let Some(wanted) = self.wanted.get_mut(&chunk) {
                wanted.asks.push(id);
                rest.insert(chunk);
            }
        }
        let ask = Ask {
            id,
            peer,
            chunks,
            class,
            is_hedge,
        };
        if class == Class::Demand {
            self.wake_at(now + standing.hedge.peer_after(bytes));
        }
        self.steps.push(Step::Ask(ask.clone()));
        let underway = Underway {
            ask,
            began: now,
            progress: now,
            bytes,
            came: 0,
            forgone: 0,
            rest,
            urgent_since: (class == Class::Demand).then_some(now),
            is_hedged: false,
            is_late: false,
            is_given_over: false,
        };
        self.underway.insert(id, underway);
    }
}

/// The runs of numbers in `set`.
pub(super) fn runs(set: BTreeSet<usize>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for number in set {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end = number + 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}
