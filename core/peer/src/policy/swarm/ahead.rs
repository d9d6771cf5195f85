//! What to fetch that nobody waits for.

use std::time::{Duration, Instant};

use super::Swarm;
use super::plan::{BUSY, NO_ROOM, Way};
use crate::policy::{Class, Name, Standing};

/// What others tell changes so often at a start that it is not looked every time what can be fetched ahead.
const LOOK: Duration = Duration::from_millis(10);

/// So many runs of chunks are looked at to find what to fetch ahead next.
const RUNS: usize = 64;

/// See `look_ahead`.
type Ahead = (Vec<(usize, u64, usize)>, Option<Instant>, Vec<usize>);

impl<P: Name> Swarm<P> {
    pub(super) fn plan_prefetch(&mut self, standing: &mut Standing<P>, now: Instant) {
        if self.fresh_prefetch.is_empty() {
            return;
        }
        if standing.room(Class::Prefetch) == 0 {
            self.wake_at(now + NO_ROOM);
            return;
        }
        let is_due = self.look_at.is_some_and(|at| at <= now);
        let soon = self
            .looked
            .map(|looked| looked + LOOK)
            .filter(|soon| *soon > now);
        match (self.is_stale || is_due, soon) {
            (true, None) => {}
            (true, Some(soon)) => return self.wake_at(soon),
            (false, _) => return self.look_at.into_iter().for_each(|at| self.wake_at(at)),
        }
        (self.is_stale, self.looked, self.look_at) = (false, Some(now), None);
        // There may be more behind what is looked at.
        let is_more = self.fresh_prefetch.len() > RUNS;
        let (mut ready, wait, over) = self.look_ahead(standing, now);
        over.into_iter()
            .for_each(|chunk| self.give_over(chunk..chunk + 1));
        // What few have first: then more have it, and all have something to give.
        ready.sort_unstable();
        for (_, _, chunk) in ready {
            if standing.room(Class::Prefetch) == 0 {
                break;
            }
            let free = self.free_holders(standing, now, chunk, Class::Prefetch);
            if self.fresh_prefetch.contains(&chunk) && !free.is_empty() {
                let most = standing.settings.prefetch_bytes_max;
                self.ask_one_of(standing, now, &free, chunk, Class::Prefetch, most);
            }
        }
        let more = is_more.then_some(now + BUSY);
        self.look_at = [wait, more].into_iter().flatten().min();
        self.look_at.into_iter().for_each(|at| self.wake_at(at));
    }

    /// What of the next chunks to fetch ahead somebody can be asked for (how many have it, a lot, which), when to look again, and
    /// what the registry is to be asked for.
    fn look_ahead(&mut self, standing: &mut Standing<P>, now: Instant) -> Ahead {
        let starts = self.prefetch_starts();
        let free = self.members.free(standing, now, Class::Prefetch);
        let (mut ready, mut wait, mut over) = (Vec::new(), None::<Instant>, Vec::new());
        for chunk in starts {
            let tried = self
                .wanted
                .get(&chunk)
                .map_or(&[][..], |wanted| &wanted.tried);
            let holders = free.iter().filter(|(_, _, chunks)| chunks.get(chunk));
            match holders.filter(|(peer, _, _)| !tried.contains(peer)).count() {
                0 => match self.way_without_holder(standing, now, chunk, Class::Prefetch) {
                    Way::Ask(_) => {}
                    Way::Wait(until) => wait = Some(wait.map_or(until, |wait| wait.min(until))),
                    Way::Registry => over.push(chunk),
                },
                holders => ready.push((holders, standing.dice.roll(), chunk)),
            }
        }
        (ready, wait, over)
    }

    /// Where to look for what to fetch ahead: not always at the same.
    fn prefetch_starts(&mut self) -> Vec<usize> {
        let behind = self.fresh_prefetch.range(self.cursor..);
        let before = self.fresh_prefetch.range(..self.cursor);
        let starts: Vec<usize> = behind.chain(before).take(RUNS).copied().collect();
        if self.fresh_prefetch.len() > RUNS {
            self.cursor = starts.last().map_or(0, |last| last + 1);
        }
        starts
    }
}
