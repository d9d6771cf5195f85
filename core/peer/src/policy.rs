//! Whom to ask for what, when to stop waiting, and whom to serve first.
//!
//! Everything here is pure: nothing is read or sent, time is passed in, and chance comes from a seed. So the same code decides
//! in a node and in a simulation of thousands. `P` is what a node is known by.
//!
//! - [`Swarm`] is what is known of the other nodes that have one layer, and what of it is wanted. [`Swarm::plan`] says what to
//!   do next; whoever drives it does that, and tells what came of it.
//! - [`Standing`] is what this node thinks of each other one, whatever the layer: how fast it is, what it owes, whether it is
//!   banned.
//! - [`Fair`] and [`Bucket`] are the other side: in which order others are served, and how fast.

mod bans;
mod bitmap;
mod bucket;
mod choice;
mod dice;
mod fair;
mod hedge;
pub mod looking;
mod origin;
mod settings;
mod standing;
mod swarm;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

pub use crate::Class;
pub use bans::{Ban, Bans};
pub use bitmap::Bitmap;
pub use bucket::Bucket;
pub use choice::Speeds;
pub use dice::Dice;
pub use fair::{Fair, Served};
pub use hedge::Hedge;
pub use origin::{Rank, rank};
pub use settings::Settings;
pub use standing::{Standing, Tallies};
pub use swarm::{Ask, AskId, Member, Step, Swarm, SwarmId};

/// What a node is known by.
pub trait Name: Copy + Ord + Hash + Debug {}

impl<T: Copy + Ord + Hash + Debug> Name for T {}

/// How near another node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// On the same machine.
    Host,
    /// In the same zone.
    Zone,
    /// Anywhere.
    Other,
}

/// Why nothing came of a request to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It has enough to do, for so long. That is no fault.
    Busy(Duration),
    /// It has not got what it said that it had.
    Missing,
    /// It does not serve this node.
    Refused,
    /// It could not be reached, or the connection broke.
    Broken,
    /// It ended an answer too soon.
    Cut,
    /// Nothing, or too little, came in time.
    Slow,
    /// What came was wrong: other bytes, other lengths, nonsense.
    Wrong,
}

/// What a node tells of its chunks of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Another one whenever it has other chunks than before.
    pub generation: u64,
    /// The chunks that it has.
    pub chunks: Bitmap,
    /// Whether these are all.
    pub complete: bool,
    /// Whether it is getting more of them, or did a moment ago.
    pub active: bool,
}

/// Where the chunks of a layer are.
pub trait Layout: Debug + Send + Sync {
    /// How many chunks it has.
    fn len(&self) -> usize;

    /// Where chunk `index` begins in the layer's data, and how long it is, in bytes.
    fn place(&self, index: usize) -> Option<(u64, u32)>;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// 64 bits that stand for `bytes`, the same on every node and in every version.
pub fn print(bytes: &[u8]) -> u64 {
    let digest = pontoon_layer::Digest::of(bytes);
    digest
        .bytes()
        .iter()
        .take(8)
        .fold(0, |print, byte| print << 8 | u64::from(*byte))
}
