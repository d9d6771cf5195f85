//! The registry: so many bytes a second for all nodes together, in turns.

use std::ops::Range;

use pontoon_peer::Class;
use pontoon_peer::policy::Fair;

use crate::event::{Event, Name};
use crate::world::{World, nanoseconds, time_of};

/// A node has so many requests to it under way.
const REQUESTS: usize = 8;

/// Bytes of one request at most.
const REQUEST_BYTES: u64 = 4 << 20;

/// What waits to be sent, and what was.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    queue: Fair<Name, (usize, bool)>,
    is_sending: bool,
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
}

impl World {
    /// `name` is to fetch `chunks` from the registry.
    pub(crate) fn want_of_registry(&mut self, name: Name, chunks: Range<usize>) {
        let most = (REQUEST_BYTES / u64::from(self.scenario.chunk_bytes).max(1)).max(1);
        let most = usize::try_from(most).unwrap_or(1);
        let node = self.node(name);
        let mut run: Option<Range<usize>> = None;
        let mut requests = Vec::new();
        for chunk in chunks {
            // What is here, or on its way.
            if node.have.get(chunk) || !node.registry_wanted.insert(chunk) {
                continue;
            }
            match &mut run {
                Some(run) if run.end == chunk && run.len() < most => run.end = chunk + 1,
                _ => requests.extend(run.replace(chunk..chunk + 1)),
            }
        }
        requests.extend(run);
        for chunks in requests {
            let is_urgent = node.reading.is_some_and(|chunk| chunks.contains(&chunk));
            match is_urgent {
                true => node.registry_queue.push_front((chunks, Class::Demand)),
                false => node.registry_queue.push_back((chunks, Class::Prefetch)),
            }
        }
        self.ask_registry(name);
    }

    /// Somebody waits for `chunk` now, which the registry was to be asked for.
    pub(crate) fn make_urgent(&mut self, name: Name, chunk: usize) {
        let queue = &mut self.node(name).registry_queue;
        if let Some(at) = queue.iter().position(|(chunks, _)| chunks.contains(&chunk))
            && let Some((chunks, _)) = queue.remove(at)
        {
            queue.push_front((chunks, Class::Demand));
        }
        self.ask_registry(name);
    }

    fn ask_registry(&mut self, name: Name) {
        let latency = nanoseconds(self.scenario.registry_latency);
        loop {
            let node = self.node(name);
            let is_urgent = matches!(node.registry_queue.front(), Some((_, Class::Demand)));
            // One more for what somebody waits for.
            if node.registry_requests >= REQUESTS + usize::from(is_urgent) {
                return;
            }
            let Some((chunks, class)) = node.registry_queue.pop_front() else {
                return;
            };
            // What has come meanwhile from elsewhere is not asked for.
            let have = &node.have;
            let missing: Vec<usize> = chunks.filter(|chunk| !have.get(*chunk)).collect();
            let (Some(first), Some(last)) = (missing.first(), missing.last()) else {
                continue;
            };
            let chunks = *first..*last + 1;
            node.registry_requests += 1;
            self.plan(latency, Event::RegistryAsked(name, chunks, class));
        }
    }

    /// The registry is asked for `chunks`.
    pub(crate) fn registry_asked(&mut self, name: Name, chunks: Range<usize>, class: Class) {
        let bytes = u64::from(self.scenario.chunk_bytes);
        self.registry.requests += 1;
        for chunk in chunks.clone() {
            let item = (chunk, chunk + 1 == chunks.end);
            // It does not know what is urgent.
            let _ = class;
            self.registry.queue.push(name, Class::Demand, bytes, item);
        }
        self.registry_send();
    }

    fn registry_send(&mut self) {
        if self.registry.is_sending {
            return;
        }
        let Some(served) = self.registry.queue.pop(|_| true) else {
            return;
        };
        self.registry.is_sending = true;
        self.registry.bytes += served.cost;
        let time = time_of(served.cost, self.scenario.registry_bytes_per_second);
        let (chunk, is_last) = served.item;
        let delay = self.receive(served.peer, time, served.cost);
        self.plan(delay, Event::RegistryCame(served.peer, chunk, is_last));
        self.plan(time, Event::RegistrySent);
    }

    /// The registry can send the next chunk.
    pub(crate) fn registry_sent(&mut self) {
        self.registry.is_sending = false;
        self.registry_send();
    }

    /// `chunk` has come from the registry.
    pub(crate) fn registry_came(&mut self, name: Name, chunk: usize, is_last: bool) {
        let bytes = u64::from(self.scenario.chunk_bytes);
        let now = self.instant();
        let node = self.node(name);
        node.from_registry_bytes += bytes;
        node.registry_wanted.remove(&chunk);
        node.registry_requests -= usize::from(is_last);
        node.swarm.landed(&mut node.standing, now, chunk..chunk + 1);
        self.landed(name, chunk);
        self.ask_registry(name);
        self.wake(name);
    }
}
