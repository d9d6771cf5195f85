//! Time, and everything that takes place in it.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_peer::policy::{Dice, Layout, print};

use crate::event::{Event, Name, Planned, Time};
use crate::node::Node;
use crate::registry::Registry;
use crate::scenario::Scenario;

/// A slow node is so many times slower.
const SLOW: u64 = 20;

/// All nodes, the registry, and what is going to happen.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) nodes: Vec<Node>,
    pub(crate) registry: Registry,
    pub(crate) dice: Dice,
    /// The nodes that have said that they have the image, in the order in which they did.
    pub(crate) announced: Vec<Name>,
    pub(crate) now: Time,
    /// Nodes that do not have all of the image yet.
    pub(crate) unfinished: usize,
    pub(crate) events: u64,
    beginning: Instant,
    planned: BinaryHeap<Planned>,
    number: u64,
}

/// Chunks that are all alike.
#[derive(Debug)]
struct Even {
    chunks: usize,
    bytes: u32,
}

impl Layout for Even {
    fn len(&self) -> usize {
        self.chunks
    }

    fn place(&self, index: usize) -> Option<(u64, u32)> {
        let offset = index as u64 * u64::from(self.bytes);
        (index < self.chunks).then_some((offset, self.bytes))
    }
}

impl World {
    /// Nothing has happened yet.
    pub(crate) fn new(scenario: &Scenario) -> World {
        let layout: Arc<dyn Layout> = Arc::new(Even {
            chunks: scenario.chunks,
            bytes: scenario.chunk_bytes,
        });
        let mut dice = Dice::new(scenario.seed);
        let layer = print(&dice.roll().to_le_bytes());
        let names = 0..scenario.nodes;
        let node = |name| Node::new(scenario, Arc::clone(&layout), layer, name, &mut dice);
        let mut nodes: Vec<Node> = names.map(node).collect();
        for node in &mut nodes {
            node.is_liar = chance(&mut dice, scenario.liars);
            if chance(&mut dice, scenario.slow) {
                node.upload_bytes_per_second /= SLOW;
            }
        }
        let mut world = World {
            scenario: scenario.clone(),
            unfinished: nodes.len(),
            nodes,
            registry: Registry::default(),
            dice,
            announced: Vec::new(),
            now: 0,
            events: 0,
            beginning: Instant::now(),
            planned: BinaryHeap::new(),
            number: 0,
        };
        for name in 0..scenario.nodes {
            let within = world.within(Duration::ZERO, scenario.spread);
            world.plan(within, Event::Mount(name));
        }
        world
    }

    /// Lets everything happen, until all nodes have everything.
    pub(crate) fn run(&mut self) {
        let limit = nanoseconds(self.scenario.limit);
        while self.unfinished > 0
            && let Some(next) = self.planned.pop()
            && next.at <= limit
        {
            self.now = next.at;
            self.events += 1;
            self.happen(next.event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Mount(node) => self.mount(node),
            Event::Read(node) => self.read(node),
            Event::Look(node) => self.look(node),
            Event::Found(node, others) => {
                self.node(node).has_looked = true;
                self.found(node, &others);
                self.wake(node);
            }
            Event::Watch(node) => self.watch(node),
            Event::Wake(node) => self.wake(node),
            Event::HaveAsked(node, by, since) => self.have_asked(node, by, since),
            Event::TellParked(node) => self.tell_parked(node),
            Event::HaveTold(node, by, answer) => self.have_told(node, by, answer),
            Event::Poll(node, other) => self.poll(node, other),
            Event::Asked(node, request) => self.asked(node, request),
            Event::Cancelled(node, by, id) => self.cancelled(node, by, id),
            Event::Sent(node) => self.sent(node),
            Event::Came(node, id, chunk, is_right, is_last) => {
                self.came(node, id, chunk, is_right, is_last);
            }
            Event::Failed(node, id, failure) => self.failed(node, id, failure),
            Event::RegistryAsked(node, chunks, class) => self.registry_asked(node, chunks, class),
            Event::RegistrySent => self.registry_sent(),
            Event::RegistryCame(node, chunk, is_last) => self.registry_came(node, chunk, is_last),
        }
    }

    /// `event` happens after `delay`.
    pub(crate) fn plan(&mut self, delay: Time, event: Event) {
        self.number += 1;
        self.planned.push(Planned {
            at: self.now + delay,
            number: self.number,
            event,
        });
    }

    /// A time between two, by chance.
    pub(crate) fn within(&mut self, least: Duration, most: Duration) -> Time {
        let (least, most) = (nanoseconds(least), nanoseconds(most));
        let choices = usize::try_from(most.saturating_sub(least)).unwrap_or(usize::MAX);
        least + self.dice.below(choices) as u64
    }

    /// How long a message takes from one node to another.
    pub(crate) fn latency(&mut self) -> Time {
        let (least, most) = self.scenario.latency;
        self.within(least, most)
    }

    /// The present, as the policy wants to have it.
    pub(crate) fn instant(&self) -> Instant {
        self.beginning + Duration::from_nanos(self.now)
    }

    /// When an instant of the policy's is, at the earliest now.
    pub(crate) fn delay_until(&self, instant: Instant) -> Time {
        nanoseconds(instant.saturating_duration_since(self.instant()))
    }

    pub(crate) fn node(&mut self, name: Name) -> &mut Node {
        &mut self.nodes[name as usize]
    }

    /// How long it takes until `bytes` that arrive now have come in through a node's link, behind what comes already.
    pub(crate) fn receive(&mut self, name: Name, delay: Time, bytes: u64) -> Time {
        let rate = self.scenario.node_bytes_per_second;
        let now = self.now;
        let node = self.node(name);
        let done = node.receives_until.max(now + delay) + time_of(bytes, rate);
        node.receives_until = done;
        done - now
    }
}

/// Whether something of this probability is so.
pub(crate) fn chance(dice: &mut Dice, part: f64) -> bool {
    const STEPS: usize = 1_000_000;
    (dice.below(STEPS) as f64) < part * STEPS as f64
}

/// A duration in the simulation's unit.
pub(crate) fn nanoseconds(duration: Duration) -> Time {
    Time::try_from(duration.as_nanos()).unwrap_or(Time::MAX)
}

/// How long `bytes` take.
pub(crate) fn time_of(bytes: u64, bytes_per_second: u64) -> Time {
    let time = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    Time::try_from(time).unwrap_or(Time::MAX)
}
