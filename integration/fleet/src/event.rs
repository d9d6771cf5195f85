//! What happens, and when.

use std::cmp::Ordering;
use std::ops::Range;

use pontoon_peer::Class;
use pontoon_peer::policy::{AskId, Failure, Told};

/// Nanoseconds since the beginning.
pub(crate) type Time = u64;

/// The number of a node.
pub(crate) type Name = u32;

/// What a node answers to HAVE.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `None`: the same as before.
    pub(crate) told: Option<Told>,
    pub(crate) others: Vec<Name>,
}

/// A request for chunks, at the node that is asked.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) from: Name,
    pub(crate) id: AskId,
    pub(crate) chunks: Range<usize>,
    pub(crate) class: Class,
}

/// What happens. The node to which it happens stands first.
#[derive(Debug)]
pub(crate) enum Event {
    /// The image is mounted.
    Mount(Name),
    /// The program begins, or goes on to its next read.
    Read(Name),
    /// It is looked who has the image.
    Look(Name),
    /// These have it.
    Found(Name, Vec<Name>),
    /// It is considered whose chunks to know.
    Watch(Name),
    /// There may be something to do.
    Wake(Name),
    /// HAVE is asked of a node, by another one that knows what it had then.
    HaveAsked(Name, Name, Option<u64>),
    /// Those who wait for changes are told.
    TellParked(Name),
    /// Another node has answered HAVE.
    HaveTold(Name, Name, Answer),
    /// Another node is asked again.
    Poll(Name, Name),
    /// Chunks are asked for.
    Asked(Name, Request),
    /// They are not wanted any more.
    Cancelled(Name, Name, AskId),
    /// A chunk has left this node.
    Sent(Name),
    /// A chunk has come from another node; whether it is right, and whether it is the last of its request.
    Came(Name, AskId, usize, bool, bool),
    /// Another node did not give what it was asked for.
    Failed(Name, AskId, Failure),
    /// The registry is asked.
    RegistryAsked(Name, Range<usize>, Class),
    /// A chunk has left the registry.
    RegistrySent,
    /// It has come; whether it is the last of its request.
    RegistryCame(Name, usize, bool),
}

/// An event and its moment. What was planned first happens first.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) at: Time,
    pub(crate) number: u64,
    pub(crate) event: Event,
}

impl Planned {
    fn order(&self) -> (Time, u64) {
        (self.at, self.number)
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    /// The earliest is the greatest: that is whom a heap gives first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.order().cmp(&self.order())
    }
}
