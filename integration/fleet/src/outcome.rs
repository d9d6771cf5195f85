//! What came of a simulation.

use serde::Serialize;

use crate::event::Time;
use crate::node::Node;
use crate::world::World;

/// The numbers of a simulation. The same scenario ends in the same ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Nodes that have all of the image.
    pub complete: usize,
    /// What the registry sent, in sizes of the image.
    pub egress: f64,
    /// Requests that the registry got, for each node.
    pub registry_requests: f64,
    /// From the mount to the program's readiness, in seconds: half, nine in ten and 99 in 100 of the nodes are faster.
    pub ready: [f64; 3],
    /// From the mount to having all of the image.
    pub all: [f64; 3],
    /// What a node has sent and received beside chunks, in bytes: the mean, and of the node with most.
    pub control_bytes: (f64, u64),
    /// Its messages, the mean.
    pub control_messages: f64,
    /// What a node gave to others, in sizes of the image, of the node that gave most.
    pub given_most: f64,
    /// Requests to other nodes, for each node; of these, made a second time; failed; met a busy node.
    pub asks: f64,
    /// See [`Outcome::asks`].
    pub hedges: f64,
    /// See [`Outcome::asks`].
    pub failures: f64,
    /// See [`Outcome::asks`].
    pub busy: f64,
    /// Bytes that came from other nodes in vain, in parts of all that came from them.
    pub wasted: f64,
    /// Bans, of all nodes.
    pub bans: u64,
    /// Events that were simulated.
    pub events: u64,
}

impl Outcome {
    pub(crate) fn of(world: &World) -> Outcome {
        let nodes = &world.nodes;
        let count = nodes.len().max(1) as f64;
        let image = world.scenario.image_bytes().max(1) as f64;
        let mean = |number: &dyn Fn(&Node) -> u64| -> f64 {
            nodes.iter().map(number).sum::<u64>() as f64 / count
        };
        let most = |number: &dyn Fn(&Node) -> u64| nodes.iter().map(number).max().unwrap_or(0);
        let received = mean(&|node| node.from_peers_bytes);
        let needed = mean(&|node| {
            let had = node.have.count() as u64 * u64::from(world.scenario.chunk_bytes);
            had.saturating_sub(node.from_registry_bytes)
        });
        Outcome {
            complete: nodes.iter().filter(|node| node.is_complete()).count(),
            egress: world.registry.bytes as f64 / image,
            registry_requests: world.registry.requests as f64 / count,
            ready: quantiles(nodes, |node| node.ready),
            all: quantiles(nodes, |node| node.complete),
            control_bytes: (
                mean(&|node| node.control.bytes),
                most(&|node| node.control.bytes),
            ),
            control_messages: mean(&|node| node.control.messages),
            given_most: most(&|node| node.given_bytes) as f64 / image,
            asks: mean(&|node| node.standing.tallies().asks),
            hedges: mean(&|node| node.standing.tallies().hedges),
            failures: mean(&|node| node.standing.tallies().failures),
            busy: mean(&|node| node.standing.tallies().busy),
            wasted: match received > 0.0 {
                true => (received - needed).max(0.0) / received,
                false => 0.0,
            },
            bans: nodes.iter().map(|node| node.bans).sum(),
            events: world.events,
        }
    }
}

/// Seconds from the mount to `moment`. A node that has not got there took for ever.
fn quantiles(nodes: &[Node], moment: impl Fn(&Node) -> Option<Time>) -> [f64; 3] {
    let mut seconds: Vec<f64> = nodes
        .iter()
        .map(|node| match (node.mounted, moment(node)) {
            (Some(mounted), Some(at)) => (at - mounted) as f64 / 1e9,
            _ => f64::INFINITY,
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    [0.5, 0.9, 0.99].map(|part| {
        let at = (seconds.len() as f64 * part).ceil() as usize;
        seconds
            .get(at.saturating_sub(1))
            .copied()
            .unwrap_or(f64::INFINITY)
    })
}
