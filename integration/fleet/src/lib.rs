//! A simulation of thousands of nodes that start one image at once.
//!
//! What decides is the code that decides in a node: `pontoon_peer::policy`, driven as `core/peer/src/swarm.rs` drives it. What is
//! simulated is everything around it: time, links, the registry, who is found, and a program that reads. Every event has its
//! moment, chance comes from a seed, and nothing else has a say: the same scenario always ends in the same numbers.
//!
//! | part | concern |
//! |---|---|
//! | [`Scenario`] | what is simulated |
//! | `world`, `event` | time, and what happens when |
//! | `node`, `drive` | a node: its program, its policy, what it has |
//! | `serve` | how a node gives chunks to others |
//! | `looking` | how nodes find each other, and what they tell |
//! | `registry` | the registry, and what a node asks of it |
//! | [`Outcome`] | what came of it |

mod drive;
mod event;
mod looking;
mod node;
mod outcome;
mod registry;
mod scenario;
mod serve;
mod world;

pub use outcome::Outcome;
pub use scenario::{Peers, Scenario};

/// Simulates `scenario` to its end.
pub fn simulate(scenario: &Scenario) -> Outcome {
    let mut world = world::World::new(scenario);
    world.run();
    Outcome::of(&world)
}
