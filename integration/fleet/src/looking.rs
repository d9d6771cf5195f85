//! How nodes find each other, and what they tell each other: as `core/peer/src/swarm/look.rs` and the server of
//! `core/peer/src/wire` do, with their numbers.

use std::time::Duration;

use pontoon_peer::policy::looking::{self, LOOKS, WATCH};
use pontoon_peer::policy::{Failure, Member, Tier, Told};

use crate::event::{Answer, Event, Name};
use crate::scenario::Peers;
use crate::world::{World, nanoseconds};

/// How long looking takes: a few hops of Kademlia on a network of this kind.
const LOOKING: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// A record of Kademlia names so many nodes at most.
const FOUND: usize = 64;

/// An answer to HAVE names so many others at most; one that tells of changes does so once in so many.
const TOLD: usize = 32;
const TOLD_ONCE_IN: u64 = 16;

/// Questions that wait for changes at one node.
const PARKED: usize = 128;

/// Changes within so long are told at once.
const GATHER: Duration = Duration::from_millis(20);

/// Bytes of the headers of a question for HAVE and of its answer, on HTTP/1.1.
const HEADERS: u64 = 400;

/// Bytes of the answer beside its chunks, and of each node that it names.
const HAVE: u64 = 40;
const OTHER: u64 = 46;

impl World {
    /// It is looked who has the image.
    pub(crate) fn look(&mut self, node: Name) {
        if self.node(node).is_complete() {
            return;
        }
        let others = self.announced.len();
        let mut found: Vec<Name> = Vec::with_capacity(FOUND);
        for _ in 0..FOUND.min(others) {
            let other = self.announced[self.dice.below(others)];
            if other != node && !found.contains(&other) {
                found.push(other);
            }
        }
        let (least, most) = LOOKING;
        let delay = self.within(least, most);
        self.plan(delay, Event::Found(node, found));
        let looks = self.node(node).looks + 1;
        self.node(node).looks = looks;
        let last = LOOKS[LOOKS.len() - 1];
        let again = LOOKS.get(looks).copied().unwrap_or(last);
        self.plan(nanoseconds(again), Event::Look(node));
    }

    /// `others` have the image.
    pub(crate) fn found(&mut self, node: Name, others: &[Name]) {
        let mut is_new = false;
        for other in others {
            is_new |= self.meet(node, *other);
        }
        if is_new {
            self.watch_soon(node);
        }
    }

    /// `node` comes to know that `other` has the image. Whether it did not.
    fn meet(&mut self, node: Name, other: Name) -> bool {
        if node == other || self.scenario.peers == Peers::Off {
            return false;
        }
        let now = self.instant();
        let member = Member {
            peer: other,
            print: self.nodes[other as usize].print,
            tier: Tier::Other,
        };
        let node = self.node(node);
        if node.known.len() >= node.standing.settings().members_max || !node.is_known.insert(other)
        {
            return false;
        }
        node.known.push(other);
        node.swarm.join(&node.standing, now, member);
        true
    }

    fn watch_soon(&mut self, node: Name) {
        let now = self.now;
        if self.node(node).watches_at.is_none_or(|at| at > now) {
            self.node(node).watches_at = Some(now);
            self.plan(0, Event::Watch(node));
        }
    }

    /// It is considered whose chunks to know.
    pub(crate) fn watch(&mut self, name: Name) {
        let now = self.instant();
        let at = self.now;
        let most = self.scenario.watched;
        let node = self.node(name);
        // One that was planned, and came before its time.
        if node.is_complete() || node.watches_at.is_none_or(|planned| planned != at) {
            return;
        }
        let watched = node.swarm.watch(&mut node.standing, now, most);
        node.watched = watched.iter().copied().collect();
        let mut polls = Vec::new();
        for other in watched {
            if node.polled.insert(other) {
                polls.push(other);
            }
        }
        let again = nanoseconds(WATCH);
        node.watches_at = Some(at + again);
        self.plan(again, Event::Watch(name));
        for other in polls {
            self.poll(name, other);
        }
        self.wake(name);
    }

    /// Asks `other` what it has.
    pub(crate) fn poll(&mut self, name: Name, other: Name) {
        let node = self.node(name);
        if node.is_complete() || !node.watched.contains(&other) {
            node.polled.remove(&other);
            return;
        }
        let since = node.swarm.generation(other);
        node.control.messages += 1;
        node.control.bytes += HEADERS;
        let delay = self.latency();
        self.plan(delay, Event::HaveAsked(other, name, since));
    }

    /// `by` asks `node` what it has, and knows what it had in generation `since`.
    pub(crate) fn have_asked(&mut self, node: Name, by: Name, since: Option<u64>) {
        // Who asks has the image too.
        if self.meet(node, by) {
            self.watch_soon(node);
        }
        let asked = self.node(node);
        asked.control.messages += 1;
        asked.control.bytes += HEADERS;
        let is_same = since == Some(asked.generation);
        if is_same && asked.parked.len() < PARKED {
            asked.parked.push((by, since));
            return;
        }
        self.tell(node, by, since, false);
    }

    /// Answers `by`, who has waited for a change or has not.
    fn tell(&mut self, node: Name, by: Name, since: Option<u64>, has_changed: bool) {
        let generation = self.node(node).generation;
        let is_worth_while =
            since.is_none() || !has_changed || generation.is_multiple_of(TOLD_ONCE_IN);
        let count = match is_worth_while {
            true => self.node(node).known.len(),
            false => 0,
        };
        let mut others: Vec<Name> = Vec::with_capacity(TOLD);
        for _ in 0..TOLD.min(count) {
            let at = self.dice.below(count);
            others.push(self.node(node).known[at]);
        }
        let asked = self.node(node);
        let complete = asked.is_complete();
        let told = (since != Some(asked.generation)).then(|| Told {
            generation: asked.generation,
            chunks: asked.have.clone(),
            complete,
            active: !complete && asked.mounted.is_some(),
        });
        let bitmap = match &told {
            Some(told) if !told.complete => told.chunks.len().div_ceil(8) as u64,
            _ => 0,
        };
        let bytes = HAVE + bitmap + OTHER * others.len() as u64;
        asked.control.bytes += bytes;
        self.node(by).control.bytes += bytes;
        let delay = self.latency();
        self.plan(delay, Event::HaveTold(by, node, Answer { told, others }));
    }

    /// Has those told soon who wait for changes of `name`.
    pub(crate) fn changed(&mut self, name: Name) {
        let at = self.now + nanoseconds(GATHER);
        let node = self.node(name);
        node.generation += 1;
        if !node.parked.is_empty() && node.tells_at.is_none() {
            node.tells_at = Some(at);
            self.plan(nanoseconds(GATHER), Event::TellParked(name));
        }
    }

    /// Those who wait for changes are told.
    pub(crate) fn tell_parked(&mut self, name: Name) {
        let node = self.node(name);
        node.tells_at = None;
        for (by, since) in std::mem::take(&mut node.parked) {
            self.tell(name, by, since, true);
        }
    }

    /// `by` has answered `name`.
    pub(crate) fn have_told(&mut self, name: Name, by: Name, answer: Answer) {
        let now = self.instant();
        self.found(name, &answer.others);
        let is_new = answer.told.is_some();
        let node = self.node(name);
        if let Some(told) = answer.told {
            node.swarm.on_have(now, by, told);
        }
        if node.swarm.is_complete(by) {
            // It is not asked again for longer than a start takes.
            return;
        }
        // News have been waited for, or are as old as what was known: about as long as they are gathered.
        let time = if is_new { GATHER } else { Duration::ZERO };
        let pause = looking::pause(false, is_new, time);
        self.plan(nanoseconds(pause), Event::Poll(name, by));
        if is_new {
            self.wake(name);
        }
    }

    /// `peer` did not give what `node` has asked for; the rest is the policy's.
    pub(crate) fn failed(&mut self, name: Name, id: pontoon_peer::policy::AskId, failure: Failure) {
        let now = self.instant();
        let node = self.node(name);
        let ban = node.swarm.on_end(&mut node.standing, now, id, Err(failure));
        node.bans += u64::from(ban.is_some());
        self.wake(name);
    }
}
