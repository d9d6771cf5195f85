//! What a node does: its program reads, what comes next is fetched ahead, and the policy's steps are taken.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_peer::Class;
use pontoon_peer::policy::{AskId, Failure, Step};

use crate::event::{Event, Name, Request};
use crate::scenario::Peers;
use crate::world::{World, nanoseconds};

/// So many chunks are wanted ahead at a time.
const AHEAD: usize = 64;

/// As long as it was not looked who has the image, nothing is fetched ahead; but not longer.
const FIRST_LOOK: Duration = Duration::from_millis(400);

impl World {
    /// The image is mounted.
    pub(crate) fn mount(&mut self, name: Name) {
        self.node(name).mounted = Some(self.now);
        let boot = nanoseconds(self.scenario.boot);
        self.plan(boot, Event::Read(name));
        if self.scenario.peers == Peers::Off {
            self.wake(name);
            return;
        }
        self.announced.push(name);
        self.plan(0, Event::Look(name));
        self.plan(nanoseconds(FIRST_LOOK), Event::Wake(name));
    }

    /// The program begins, or reads on.
    pub(crate) fn read(&mut self, name: Name) {
        let now = self.instant();
        let (at, hot) = (self.now, self.scenario.hot);
        let think = nanoseconds(self.scenario.think);
        let node = self.node(name);
        if node.reads >= hot {
            node.ready.get_or_insert(at);
            return;
        }
        let chunk = node.order[node.reads];
        if node.have.get(chunk) {
            node.reads += 1;
            self.plan(think, Event::Read(name));
            return;
        }
        node.reading = Some(chunk);
        if !node.registry_wanted.contains(&chunk) {
            node.swarm.want(now, chunk..chunk + 1, Class::Demand);
        }
        self.make_urgent(name, chunk);
        self.wake(name);
    }

    /// Wants ahead what comes next, as much as may be wanted at a time.
    fn want_ahead(&mut self, name: Name) {
        let now = self.instant();
        let looks_until = nanoseconds(FIRST_LOOK);
        let at = self.now;
        let is_off = self.scenario.peers == Peers::Off;
        let node = self.node(name);
        let Some(mounted) = node.mounted else {
            return;
        };
        if !is_off && !node.has_looked && at < mounted + looks_until {
            return;
        }
        while node.ahead_wanted.len() < AHEAD && node.ahead < node.order.len() {
            let chunk = node.order[node.ahead];
            node.ahead += 1;
            if !node.have.get(chunk) && !node.registry_wanted.contains(&chunk) {
                node.ahead_wanted.insert(chunk);
                if node.reading != Some(chunk) {
                    node.swarm.want(now, chunk..chunk + 1, Class::Prefetch);
                }
            }
        }
    }

    /// Does what there is to do.
    pub(crate) fn wake(&mut self, name: Name) {
        self.want_ahead(name);
        let now = self.instant();
        let node = self.node(name);
        if node.mounted.is_none() || node.is_complete() {
            return;
        }
        let steps = node.swarm.plan(&mut node.standing, now);
        for step in steps {
            self.take(name, step);
        }
        let node = self.node(name);
        let Some(next) = node.swarm.next() else {
            return;
        };
        // A moment later, so that time goes on whatever the policy says.
        let delay = self.delay_until(next) + 1_000;
        let at = self.now + delay;
        let node = self.node(name);
        if node
            .wakes_at
            .is_none_or(|planned| planned > at || planned <= at - delay)
        {
            node.wakes_at = Some(at);
            self.plan(delay, Event::Wake(name));
        }
    }

    fn take(&mut self, name: Name, step: Step<Name>) {
        match step {
            Step::Ask(ask) => {
                let request = Request {
                    from: name,
                    id: ask.id,
                    chunks: ask.chunks,
                    class: ask.class,
                };
                self.node(name).asked.insert(ask.id, ask.peer);
                self.ask(name, ask.peer, request);
            }
            Step::Cancel(id) => {
                if let Some(peer) = self.node(name).asked.remove(&id) {
                    let delay = self.latency();
                    self.plan(delay, Event::Cancelled(peer, name, id));
                }
            }
            Step::Registry(chunks) => self.want_of_registry(name, chunks),
        }
    }

    /// A chunk has come from another node.
    pub(crate) fn came(
        &mut self,
        name: Name,
        id: AskId,
        chunk: usize,
        is_right: bool,
        is_last: bool,
    ) {
        let bytes = u64::from(self.scenario.chunk_bytes);
        let now = self.instant();
        let node = self.node(name);
        // It was given up, but its bytes were under way.
        let is_known = node.asked.contains_key(&id);
        if !is_right {
            if is_known {
                node.asked.remove(&id);
                self.failed(name, id, Failure::Wrong);
            }
            return;
        }
        node.from_peers_bytes += bytes;
        if !is_known {
            return;
        }
        node.swarm.on_chunk(&mut node.standing, now, id, chunk);
        if is_last {
            node.asked.remove(&id);
            node.swarm.on_end(&mut node.standing, now, id, Ok(()));
        }
        self.landed(name, chunk);
        self.wake(name);
    }

    /// `chunk` is here, wherever it has come from.
    pub(crate) fn landed(&mut self, name: Name, chunk: usize) {
        let at = self.now;
        let think = nanoseconds(self.scenario.think);
        let node = self.node(name);
        if node.have.get(chunk) {
            return;
        }
        node.have.set(chunk..chunk + 1);
        node.ahead_wanted.remove(&chunk);
        let is_waited_for = node.reading == Some(chunk);
        if is_waited_for {
            node.reading = None;
            node.reads += 1;
        }
        let is_complete = node.have.count() == node.have.len();
        if is_complete {
            node.complete = Some(at);
            self.unfinished -= 1;
        }
        if is_waited_for {
            self.plan(think, Event::Read(name));
        }
        self.changed(name);
    }
}

/// Requests to other nodes under way, and whom they were made to.
pub(crate) type AskedOf = BTreeMap<AskId, Name>;
