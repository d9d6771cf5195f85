//! Who has which layer: a Kademlia table among the nodes of a swarm.
//!
//! ## How nodes meet
//! Over TCP and TLS 1.3 ([`tls`](crate::tls)) both ends say [hello](hello): their ports and their membership token. Only if both
//! [admit](crate::Admission) each other does libp2p get the connection, so nobody else can ask or tell anything. A node is known by the IP
//! address that its connections come from and the ports that it tells.
//!
//! ## What they tell
//! A layer is the HMAC-SHA256 of its key with the swarm's secret, so no digest is told. The nodes closest to that keep, for a quarter
//! of an hour, who has announced it and where: with the addresses that they see, not those that a node claims to have. A node announces
//! again before that is over, and takes it back with an empty value under the same key, which nobody stores.
//!
//! What is found is a hint: whoever is at the address has to prove who it is.

mod announced;
mod bootstrap;
mod contact;
mod door;
mod hello;
mod lookups;
mod remembered;
mod shared;
mod store;
mod table;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pontoon_cache::Key;
use ring::hmac;
use tokio::sync::{mpsc, oneshot};

pub use self::bootstrap::{Bootstrap, ParseBootstrapError};
use self::shared::Shared;
use self::store::{Limits, StoreKey};
use self::task::{Command, Task};
use crate::{Admission, Config, Identity, Peer, PeerId, Result};

/// How many requests may wait for the task.
const COMMANDS_MAX: usize = 1024;

/// Finds the nodes that have mounted a layer. Cheap to clone; with the last clone it ends.
#[derive(Clone)]
pub struct Discovery {
    local: PeerId,
    listen: SocketAddr,
    secret: hmac::Key,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// What happened to other nodes.
#[derive(Debug, Clone)]
pub enum Event {
    /// An admitted peer is connected. `None`: it gives nothing away.
    Connected(PeerId, Option<Peer>),
    /// It is not any more. That means little: idle connections are closed.
    Disconnected(PeerId),
}

/// One other node, as far as this one knows it.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Who it is.
    pub id: PeerId,
    /// Where its chunks are: the address of its HTTPS port, unless it gives none away.
    pub address: Option<SocketAddr>,
    /// Whether there is a libp2p connection just now. Idle ones are closed.
    pub connected: bool,
    /// How long ago it was connected last.
    pub seen: Duration,
    /// How long it will be banned, if it is.
    pub banned: Option<Duration>,
}

/// How discovery is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether it runs. `false` after [`Discovery::stop`]; otherwise a bug, of which the log tells.
    pub running: bool,
    /// Peers that are connected.
    pub connected: usize,
    /// Peers that this node would ask: its routing table. With none it is alone.
    pub known: usize,
    /// Layers that this node announces.
    pub announced: usize,
    /// Layers of which this node keeps who has them, for others and itself.
    pub keys: usize,
    /// What it keeps of them in all.
    pub records: usize,
    /// Lookups that are under way.
    pub looking: usize,
    /// Lookups since the start, those that found somebody, and those that were not begun because of too many others.
    pub lookups: u64,
    /// Of these, those that found somebody.
    pub lookups_found: u64,
    /// Requests that got no answer because too much was going on.
    pub lookups_busy: u64,
    /// How often a layer was announced, again included.
    pub announcements: u64,
    /// Connections that this node tried to make, and those of them that failed.
    pub dialled: u64,
    /// Of these, those that failed.
    pub failed: u64,
    /// Peers that this node refused, for want of admission or because they are banned.
    pub refused: u64,
    /// Peers that refused this node.
    pub refused_us: u64,
    /// Connections that were closed because too many of their kind were there.
    pub too_many: u64,
    /// Records of peers that were not kept, because they had too many or told nothing that can be used.
    pub records_refused: u64,
}

impl Discovery {
    /// Begins to listen and to look for others. What happens is told through `events`, as far as there is room.
    ///
    /// # Errors
    /// [`Error::Listen`](crate::Error::Listen) if the address cannot be had, [`Error::Tls`](crate::Error::Tls).
    pub async fn start(
        config: Config,
        identity: Identity,
        admission: Admission,
        events: mpsc::Sender<Event>,
    ) -> Result<Discovery> {
        let limits = Limits::new(config.record_ttl);
        Discovery::start_within(config, limits, identity, admission, events).await
    }

    async fn start_within(
        config: Config,
        limits: Limits,
        identity: Identity,
        admission: Admission,
        events: mpsc::Sender<Event>,
    ) -> Result<Discovery> {
        let shared = Arc::new(Shared::new(config.https_port, config.address));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &config.secret);
        let local = identity.peer_id();
        let (commands, requests) = mpsc::channel(COMMANDS_MAX);
        let mut listen = config.listen;
        let mut task = Task::new(
            config,
            limits,
            &identity,
            admission,
            Arc::clone(&shared),
            events,
        )?;
        task.listen().await?;
        listen.set_port(shared.port());
        tokio::spawn(task.run(requests));
        Ok(Discovery {
            local,
            listen,
            secret,
            shared,
            commands,
        })
    }

    /// Who this node is.
    pub fn peer_id(&self) -> PeerId {
        self.local
    }

    /// Where libp2p listens, with the port that it has got.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Tells others that this node has the layer, until [`withdraw`](Self::withdraw). Once is enough, whoever else calls it.
    pub fn announce(&self, layer: &Key) {
        self.shared.change(key(&self.secret, layer), true);
    }

    /// Takes back what [`announce`](Self::announce) told.
    pub fn withdraw(&self, layer: &Key) {
        self.shared.change(key(&self.secret, layer), false);
    }

    /// The peers that have announced the layer, as they are found, this one not among them. Ends when there are no more, at the latest
    /// after 2 s. What was found in the last 5 s comes at once, and if in the last 500 ms there was nobody, it ends at once.
    pub fn peers(&self, layer: &Key) -> mpsc::Receiver<Peer> {
        let (waiter, found) = mpsc::channel(lookups::FOUND_MAX);
        let key = key(&self.secret, layer);
        if self
            .commands
            .try_send(Command::Peers { key, waiter })
            .is_err()
        {
            self.shared.counts.lookups_busy.fetch_add(1, Relaxed);
        }
        found
    }

    /// The peers that this node knows, those that it has banned included.
    pub fn known(&self) -> Vec<PeerStatus> {
        let contacts = self.shared.contacts();
        let mut known: Vec<PeerStatus> = contacts
            .iter()
            .map(|(id, contact)| PeerStatus {
                id: *id,
                address: contact.place.peer(*id).map(|peer| peer.address),
                connected: contact.connections > 0,
                seen: match contact.connections {
                    0 => contact.seen.elapsed(),
                    _ => Duration::ZERO,
                },
                banned: contacts.banned(id),
            })
            .collect();
        known.sort_by_key(|peer| peer.id);
        known
    }

    /// Has nothing to do with the peer for a while: it is disconnected, refused, named to nobody, and what it told is forgotten.
    pub fn ban(&self, peer: PeerId, time: Duration) {
        self.shared.contacts().ban(peer, time);
        // Without room the task finds out by itself, a second later.
        let _ = self.commands.try_send(Command::Banned(peer));
    }

    /// How long the peer will be banned, if it is.
    pub fn banned(&self, peer: &PeerId) -> Option<Duration> {
        self.shared.contacts().banned(peer)
    }

    /// How discovery is.
    pub fn health(&self) -> Health {
        let (gauges, counts) = (*self.shared.gauges(), &self.shared.counts);
        Health {
            running: !self.commands.is_closed(),
            connected: gauges.connected,
            known: gauges.table,
            announced: gauges.announced,
            keys: gauges.keys,
            records: gauges.records,
            looking: gauges.lookups,
            lookups: counts.lookups.load(Relaxed),
            lookups_found: counts.lookups_found.load(Relaxed),
            lookups_busy: counts.lookups_busy.load(Relaxed),
            announcements: counts.announced.load(Relaxed),
            dialled: counts.dialled.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            refused_us: counts.refused_us.load(Relaxed),
            too_many: counts.too_many.load(Relaxed),
            records_refused: counts.records_refused.load(Relaxed),
        }
    }

    /// Withdraws whatever is announced, for at most a second, and ends.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery")
            .field("local", &self.local)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// What the swarm calls the layer.
fn key(secret: &hmac::Key, layer: &Key) -> StoreKey {
    let name = format!("layer/v1/{}/{}", layer.blob, layer.toc);
    let tag = hmac::sign(secret, name.as_bytes());
    let mut key = [0; 32];
    key.copy_from_slice(tag.as_ref());
    key
}
