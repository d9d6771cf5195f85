//! Other nodes that have chunks of a layer, as far as a layer has to know of them.
//!
//! What they send is checked by whoever implements this: nothing but [`Verified`] bytes comes through. So they are believed
//! nothing, and nothing depends on them: what does not come from them comes from the registry (`race.rs`), and what is
//! fetched ahead goes by both roads at the same time (`lane.rs`).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_cache::CachedLayer;
use pontoon_layer::Verified;
use pontoon_source::Urgency;
use tokio::sync::{mpsc, watch};

/// What becomes of chunks that were asked for, by their indexes in the layer's chunk table.
#[derive(Debug, Clone)]
pub enum News {
    /// A chunk has come: its bytes have the digest that the table gives.
    Chunk(usize, Verified<Bytes>),
    /// These are late, or do not come at all: whoever waits for them had better ask the registry too. They may come even so.
    Late(Range<usize>),
}

/// Other nodes.
pub trait Peers: Send + Sync + fmt::Debug {
    /// From now on this node has the layer, or is getting it: others are told, and are asked who has it. Until the answer is
    /// dropped. Does not wait for anybody.
    fn join(&self, layer: &Arc<CachedLayer>) -> Arc<dyn Swarm>;
}

/// The other nodes that have a layer. Nothing here waits for a network or a disk.
pub trait Swarm: Send + Sync + fmt::Debug {
    /// Changes whenever one of them has more, or comes, or goes. The number itself means nothing.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Whether one of them that may be asked has chunk `index`, as far as is known.
    fn has(&self, index: usize) -> bool;

    /// Asks for the chunks `wanted`, which somebody waits for or nobody does. They come in any order. Ends when no more
    /// come, at once if nobody has any, and after a while if those who have some are silent; whoever drops it gives up.
    fn chunks(&self, wanted: Vec<Range<usize>>, urgency: Urgency) -> mpsc::Receiver<News>;

    /// For how long, from when they were wanted, the registry had better not be asked for these chunks, which nobody has:
    /// others are about to fetch them from there. Nothing if this node is the one to fetch them.
    ///
    /// Whoever waits for them ([`Urgency::Demand`]) waits no longer than that, or than fetching them takes. What nobody waits
    /// for is looked at again and again, as long as the answer is not zero.
    fn hold(&self, chunks: Range<usize>, urgency: Urgency) -> Duration;

    /// This node is fetching some of the layer from the registry: others had better wait for that.
    fn fetches(&self);
}
