//! What is wished for and under way of a layer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::time::Instant;

use pontoon_lazyfs::News;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::PeerId;
use crate::policy::{self, AskId};

/// See the module.
pub(super) struct State {
    pub(super) swarm: policy::Swarm<PeerId>,
    pub(super) wishes: BTreeMap<u64, Wish>,
    pub(super) wish_count: u64,
    pub(super) asks: HashMap<AskId, Asked>,
    /// Whose chunks are asked for again and again.
    pub(super) watched: HashSet<PeerId>,
    pub(super) polled: HashSet<PeerId>,
    /// Who said that it has not got the layer, and when.
    pub(super) strangers: HashMap<PeerId, Instant>,
    /// It was found out once who has the layer.
    pub(super) has_looked: bool,
}

/// Chunks that somebody here has asked for.
pub(super) struct Wish {
    pub(super) sender: mpsc::Sender<News>,
    pub(super) left: BTreeSet<usize>,
    /// Those of them for which nothing new will be done.
    pub(super) late: BTreeSet<usize>,
    /// Waits until nobody listens any more.
    pub(super) listener: AbortHandle,
}

/// A request under way.
pub(super) struct Asked {
    pub(super) chunks: Range<usize>,
    pub(super) task: AbortHandle,
}

impl Drop for Wish {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl State {
    /// Nothing is known.
    pub(super) fn new(swarm: policy::Swarm<PeerId>) -> Self {
        State {
            swarm,
            wishes: BTreeMap::new(),
            wish_count: 0,
            asks: HashMap::new(),
            watched: HashSet::new(),
            polled: HashSet::new(),
            strangers: HashMap::new(),
            has_looked: false,
        }
    }

    /// Nothing new will be done for `chunks`.
    pub(super) fn are_late(&mut self, chunks: &Range<usize>) {
        for wish in self.wishes.values_mut() {
            let late: Vec<usize> = wish.left.range(chunks.clone()).copied().collect();
            if !late.is_empty() {
                wish.late.extend(late);
                // There is room for everything that is wished for.
                let _ = wish.sender.try_send(News::Late(chunks.clone()));
            }
        }
    }

    /// Ends wishes for which nothing is under way any more.
    pub(super) fn end_wishes(&mut self) {
        let State { wishes, asks, .. } = self;
        let is_under_way = |chunk: &usize| asks.values().any(|asked| asked.chunks.contains(chunk));
        wishes.retain(|_, wish| {
            let over: Vec<usize> = wish
                .late
                .iter()
                .copied()
                .filter(|chunk| !is_under_way(chunk))
                .collect();
            for chunk in over {
                wish.late.remove(&chunk);
                wish.left.remove(&chunk);
            }
            !wish.left.is_empty()
        });
    }
}
