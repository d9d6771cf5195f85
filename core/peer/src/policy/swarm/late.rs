//! What to do about requests that take long.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::plan::runs;
use super::{AskId, Swarm};
use crate::policy::{Class, Name, Standing, Tier};

/// So often the patience with a request that somebody waits for, however steadily little of it comes.
const WHOLE_PATIENCE: u32 = 2;

/// So often the patience with a request that nobody waits for.
const PREFETCH_PATIENCE: u32 = 10;

impl<P: Name> Swarm<P> {
    /// Looks whether requests under way take too long.
    pub(super) fn look_after(&mut self, standing: &mut Standing<P>, now: Instant) {
        let asks: Vec<AskId> = self.underway.keys().copied().collect();
        for id in asks {
            let Some(underway) = self.underway.get(&id) else {
                continue;
            };
            if underway.rest.is_empty() {
                continue;
            }
            let since = underway.silent_since();
            let silent = now.saturating_duration_since(since);
            let patience = standing.settings.patience;
            let Some(urgent_since) = underway.urgent_since else {
                let patience = patience * PREFETCH_PATIENCE;
                self.at_last(id, since, silent, patience);
                continue;
            };
            let (bytes, is_hedged, is_late) =
                (underway.bytes, underway.is_hedged, underway.is_late);
            let begun = underway.began.max(urgent_since);
            let peer_after = standing.hedge.peer_after(bytes);
            let registry_after = standing.hedge.registry_after(bytes);
            if !is_hedged && silent >= peer_after {
                self.hedge(standing, now, id);
            } else if !is_hedged {
                self.wake_at(since + peer_after);
            }
            if !is_late && silent >= registry_after {
                self.late(standing, now, id);
            } else if !is_late {
                self.wake_at(since + registry_after);
            }
            self.at_last(id, since, silent, patience);
            // A chunk now and then is no reason to wait for all of them.
            let whole = now.saturating_duration_since(begun);
            self.at_last(id, begun, whole, patience * WHOLE_PATIENCE);
        }
    }

    /// When nothing at all comes, the registry is asked whatever it costs.
    fn at_last(&mut self, id: AskId, since: Instant, silent: Duration, patience: Duration) {
        let Some(underway) = self.underway.get_mut(&id) else {
            return;
        };
        if underway.is_given_over {
            return;
        }
        if silent < patience {
            self.wake_at(since + patience);
            return;
        }
        underway.is_given_over = true;
        let rest = underway.rest.clone();
        self.give_over_rest(rest);
    }

    fn give_over_rest(&mut self, rest: BTreeSet<usize>) {
        let is_open = |chunk: &usize| {
            let wanted = self.wanted.get(chunk);
            wanted.is_some_and(|wanted| !wanted.is_given_over)
        };
        let open: BTreeSet<usize> = rest.into_iter().filter(is_open).collect();
        for run in runs(open) {
            self.give_over(run);
        }
    }

    /// Asks another node for what a request has not brought, if there is one and the budget allows it.
    fn hedge(&mut self, standing: &mut Standing<P>, now: Instant, id: AskId) {
        let Some(underway) = self.underway.get_mut(&id) else {
            return;
        };
        underway.is_hedged = true;
        let (asked, is_hedge) = (underway.ask.peer, underway.ask.is_hedge);
        let Some(chunks) = runs(underway.rest.clone()).into_iter().next() else {
            return;
        };
        // Twice is enough.
        if is_hedge {
            return;
        }
        let free = self.free_holders(standing, now, chunks.start, Class::Demand);
        let others: Vec<(P, Tier)> = free
            .into_iter()
            .filter(|(peer, _)| *peer != asked)
            .collect();
        let bytes = self.bytes(chunks.clone());
        let Some(peer) = standing.choose(now, &others, bytes) else {
            return;
        };
        let chunks = self.stretch(chunks, peer, u64::MAX);
        let bytes = self.bytes(chunks.clone());
        if standing.hedge.allow(now, bytes) {
            self.ask(standing, now, peer, chunks, Class::Demand, true);
        }
    }

    /// Asks the registry for what a request has not brought, if the budget allows it.
    fn late(&mut self, standing: &mut Standing<P>, now: Instant, id: AskId) {
        let Some(underway) = self.underway.get_mut(&id) else {
            return;
        };
        underway.is_late = true;
        let rest = underway.rest.clone();
        let bytes = self.bytes(rest.iter().copied());
        if standing.hedge.allow(now, bytes) {
            if let Some(underway) = self.underway.get_mut(&id) {
                underway.is_given_over = true;
            }
            self.give_over_rest(rest);
        }
    }
}
