//! Who has the layer, and which chunks of it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use super::Joined;
use super::state::State;
use crate::policy::Failure;
use crate::policy::looking::{self, LOOKS, WATCH};
use crate::{Have, Peer, PeerId};

/// So many connected nodes are asked whether they have a layer, though nobody says so: where there are few, that is the
/// quickest way to find out.
const ACQUAINTANCES: usize = 16;

/// Who had not got the layer is asked again after so long, unless somebody says that he has it.
const STRANGE: Duration = Duration::from_secs(3);

/// The chunks of so many nodes are known at every moment.
const WATCHED: usize = 16;

/// How soon one is asked again that could not answer.
const FAILED: Duration = Duration::from_millis(500);

/// Looks for others that have the layer, as long as it is open.
pub(super) async fn discover(joined: Weak<Joined>) {
    let mut looks = LOOKS.into_iter();
    let mut last = Duration::ZERO;
    loop {
        last = looks.next().unwrap_or(last);
        sleep(last).await;
        let Some(open) = joined.upgrade() else {
            return;
        };
        let mut found = open.node.discovery.peers(open.key());
        open.meet_acquaintances();
        drop(open);
        while let Some(peer) = found.recv().await {
            match joined.upgrade() {
                Some(open) => open.hear_of(peer),
                None => return,
            }
        }
        match joined.upgrade() {
            Some(open) => open.state().has_looked = true,
            None => return,
        }
    }
}

/// Keeps being told what those have who matter most.
pub(super) async fn watch(joined: Weak<Joined>, met: Arc<Notify>) {
    loop {
        let Some(open) = joined.upgrade() else {
            return;
        };
        let new = {
            let mut state = open.state();
            let now = Instant::now();
            let watched = state.swarm.watch(&mut open.node.standing(), now, WATCHED);
            let State {
                polled,
                watched: known,
                ..
            } = &mut *state;
            *known = watched.iter().copied().collect();
            let new = watched.into_iter().filter(|peer| polled.insert(*peer));
            new.collect::<Vec<PeerId>>()
        };
        for peer in new {
            open.spawn(poll(Weak::clone(&joined), peer));
        }
        drop(open);
        tokio::select! {
            () = met.notified() => {}
            () = sleep(WATCH) => {}
        }
    }
}

/// Asks a node for its chunks again and again.
async fn poll(joined: Weak<Joined>, id: PeerId) {
    loop {
        let Some(open) = joined.upgrade() else {
            return;
        };
        let Some(peer) = open.is_polled(id).then(|| open.node.peer(id)).flatten() else {
            open.state().polled.remove(&id);
            return;
        };
        let since = open.state().swarm.generation(id);
        let (node, layer) = (Arc::clone(&open.node), Arc::clone(&open.layer));
        // It may take a while, for which the layer need not stay.
        drop(open);
        let asked = Instant::now();
        let chunks = layer.chunks().len();
        let answer = node.client.have(&peer, layer.key(), since, chunks).await;
        let Some(open) = joined.upgrade() else {
            return;
        };
        let pause = match answer {
            Ok(have) => open.told(id, have, asked.elapsed()),
            Err(error) => {
                open.not_told(id, error.failure(), &error.to_string());
                FAILED
            }
        };
        drop(open);
        sleep(pause).await;
    }
}

impl Joined {
    /// Asks those who are connected anyway.
    fn meet_acquaintances(&self) {
        let now = Instant::now();
        for peer in self.node.acquaintances(ACQUAINTANCES) {
            let strange = self.state().strangers.get(&peer.id).copied();
            if strange.is_none_or(|at| now.saturating_duration_since(at) >= STRANGE) {
                self.meet(peer);
            }
        }
    }

    fn is_polled(&self, peer: PeerId) -> bool {
        self.state().watched.contains(&peer)
    }

    /// `peer` has told what it has. When to ask it again.
    fn told(&self, peer: PeerId, have: Have, time: Duration) -> Duration {
        self.node.note_answer(peer, true);
        self.node.note_zone(peer, &have.zone);
        have.peers
            .into_iter()
            .for_each(|other: Peer| self.hear_of(other));
        let is_new = have.told.is_some();
        let mut state = self.state();
        state.strangers.remove(&peer);
        if let Some(told) = have.told {
            state.swarm.on_have(Instant::now(), peer, told);
        }
        let is_complete = state.swarm.is_complete(peer);
        drop(state);
        if is_new {
            self.look_again();
        }
        looking::pause(is_complete, is_new, time)
    }

    /// `peer` has not.
    fn not_told(&self, peer: PeerId, failure: Failure, reason: &str) {
        let now = Instant::now();
        if failure == Failure::Broken {
            self.node.note_answer(peer, false);
        }
        let mut state = self.state();
        if failure == Failure::Missing {
            state.strangers.insert(peer, now);
        }
        let ban = state
            .swarm
            .on_have_failed(&mut self.node.standing(), now, peer, failure);
        drop(state);
        tracing::debug!(%peer, layer = %self.key(), ?failure, reason, "another node did not tell what it has");
        if let Some(ban) = ban {
            self.node.banned(&ban, reason);
        }
        self.look_again();
    }
}
