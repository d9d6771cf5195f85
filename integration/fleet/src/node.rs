//! A node: what it has, what it thinks of others, and the program on it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pontoon_peer::Class;
use pontoon_peer::policy::{AskId, Bitmap, Bucket, Dice, Fair, Layout, Standing, Swarm, SwarmId};

use crate::drive::AskedOf;
use crate::event::{Name, Time};
use crate::scenario::Scenario;
use crate::serve::Upload;

/// What a node has sent beside chunks, and received.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Control {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

pub(crate) struct Node {
    pub(crate) print: u64,
    pub(crate) swarm: Swarm<Name>,
    pub(crate) standing: Standing<Name>,
    pub(crate) is_liar: bool,
    pub(crate) upload_bytes_per_second: u64,

    // What it has.
    pub(crate) have: Bitmap,
    pub(crate) generation: u64,
    pub(crate) mounted: Option<Time>,
    pub(crate) ready: Option<Time>,
    pub(crate) complete: Option<Time>,
    pub(crate) from_registry_bytes: u64,
    pub(crate) from_peers_bytes: u64,
    pub(crate) given_bytes: u64,
    pub(crate) control: Control,
    pub(crate) bans: u64,

    // What it wants.
    /// In the order in which the program, and what is fetched ahead for it, goes through them.
    pub(crate) order: Vec<usize>,
    /// How far the program is.
    pub(crate) reads: usize,
    /// What it waits for.
    pub(crate) reading: Option<usize>,
    /// How far fetching ahead is.
    pub(crate) ahead: usize,
    /// What is wanted ahead and not here yet.
    pub(crate) ahead_wanted: BTreeSet<usize>,

    // What is under way.
    pub(crate) wakes_at: Option<Time>,
    pub(crate) watches_at: Option<Time>,
    pub(crate) looks: usize,
    /// It was found out once who has the image.
    pub(crate) has_looked: bool,
    pub(crate) watched: BTreeSet<Name>,
    pub(crate) polled: BTreeSet<Name>,
    /// Who has the image, as far as it knows: the members of its swarm.
    pub(crate) known: Vec<Name>,
    pub(crate) is_known: BTreeSet<Name>,
    pub(crate) asked: AskedOf,
    pub(crate) receives_until: Time,
    pub(crate) registry_requests: usize,
    pub(crate) registry_queue: VecDeque<(Range<usize>, Class)>,
    /// What the registry was asked for, or is about to be.
    pub(crate) registry_wanted: BTreeSet<usize>,

    // What it gives.
    pub(crate) uploads: Vec<Upload>,
    pub(crate) fair: Fair<Name, (Name, AskId, usize)>,
    pub(crate) bucket: Bucket,
    pub(crate) is_sending: bool,
    pub(crate) parked: Vec<(Name, Option<u64>)>,
    pub(crate) tells_at: Option<Time>,
}

impl Node {
    /// It has nothing and knows nobody.
    pub(crate) fn new(
        scenario: &Scenario,
        layout: Arc<dyn Layout>,
        layer: u64,
        name: Name,
        dice: &mut Dice,
    ) -> Node {
        let print = pontoon_peer::policy::print(&dice.roll().to_le_bytes());
        let me = Some(print);
        let rate = scenario.upload_bytes_per_second as f64;
        Node {
            print,
            swarm: Swarm::new(layout, SwarmId { layer, me }),
            standing: Standing::new(scenario.effective(), scenario.seed ^ u64::from(name)),
            is_liar: false,
            upload_bytes_per_second: scenario.node_bytes_per_second,
            have: Bitmap::new(scenario.chunks),
            generation: 1,
            mounted: None,
            ready: None,
            complete: None,
            from_registry_bytes: 0,
            from_peers_bytes: 0,
            given_bytes: 0,
            control: Control::default(),
            bans: 0,
            order: order(scenario),
            reads: 0,
            reading: None,
            ahead: 0,
            ahead_wanted: BTreeSet::new(),
            wakes_at: None,
            watches_at: None,
            looks: 0,
            has_looked: false,
            watched: BTreeSet::new(),
            polled: BTreeSet::new(),
            known: Vec::new(),
            is_known: BTreeSet::new(),
            asked: AskedOf::new(),
            receives_until: 0,
            registry_requests: 0,
            registry_queue: VecDeque::new(),
            registry_wanted: BTreeSet::new(),
            uploads: Vec::new(),
            fair: Fair::new(),
            // A tenth of a second may be given at once.
            bucket: Bucket::new(rate, rate * Duration::from_millis(100).as_secs_f64()),
            is_sending: false,
            parked: Vec::new(),
            tells_at: None,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.is_some()
    }
}

/// What the program reads, which is the same on all nodes, and then the rest.
fn order(scenario: &Scenario) -> Vec<usize> {
    // Somewhere in the image, in runs: as programs and their libraries are.
    let mut dice = Dice::new(scenario.seed ^ 0x0068_6f74);
    let mut order = Vec::with_capacity(scenario.chunks);
    let mut is_hot = Bitmap::new(scenario.chunks);
    while order.len() < scenario.hot.min(scenario.chunks) {
        let start = dice.below(scenario.chunks);
        let length = 1 + dice.below(4);
        for chunk in start..(start + length).min(scenario.chunks) {
            if !is_hot.get(chunk) && order.len() < scenario.hot {
                is_hot.set(chunk..chunk + 1);
                order.push(chunk);
            }
        }
    }
    order.extend((0..scenario.chunks).filter(|chunk| !is_hot.get(*chunk)));
    order
}
