//! One node: discovery, wire and policy as one source of chunks for `core/lazyfs`.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use pontoon_cache::{CachedLayer, Key};
use pontoon_lazyfs::{Peers, Swarm};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;

use crate::policy::{self, Ban, Layout, Member, Standing, Tier};
use crate::swarm::Joined;
use crate::wire::{Client, ClientConfig, Server, ServerConfig, Shelf};
use crate::{Admission, Config, Discovery, Error, Event, Identity, PEERS_TOLD_MAX, Peer, PeerId, Result};

/// Threads that talk to other nodes; checking and disks have their own.
const THREADS: usize = 2;

/// Events of discovery that may wait.
const EVENTS: usize = 256;

/// Other nodes whose addresses are remembered.
const ADDRESSES_MAX: usize = 4096;

/// This node among others. While it lives it listens, and serves what it has.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    server: Option<Server>,
    runtime: Option<Runtime>,
}

/// What all layers need.
pub(crate) struct Shared {
    pub(crate) discovery: Discovery,
    pub(crate) client: Client,
    pub(crate) runtime: Handle,
    pub(crate) identity: Identity,
    pub(crate) https: SocketAddr,
    is_leech: bool,
    zone: String,
    standing: Mutex<Standing<PeerId>>,
    shelf: Arc<Layers>,
    known: Mutex<HashMap<PeerId, Known>>,
}

/// The layers that are open.
#[derive(Debug, Default)]
pub(crate) struct Layers(Mutex<HashMap<Key, Weak<Joined>>>);

/// Another node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) zone: String,
    /// Bytes of chunks that came from it.
    pub(crate) bytes: u64,
    /// Why it was banned last.
    pub(crate) reason: Option<String>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Begins to take part.
    ///
    /// # Errors
    /// What cannot be listened on, a key that cannot be used, or a configuration that makes no sense.
    pub fn start(config: Config, identity: Identity, admission: Admission) -> Result<Arc<Node>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("peer")
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let handle = runtime.handle().clone();
        let (events, happened) = mpsc::channel(EVENTS);
        let layers = Arc::new(Layers::default());
        let (discovery, server, client) = handle.block_on(async {
            let server = match config.leech {
                true => None,
                false => Some(Server::start(
                    ServerConfig::of(&config),
                    &identity,
                    admission.clone(),
                    Arc::clone(&layers) as Arc<dyn Shelf>,
                )?),
            };
            let client = Client::new(ClientConfig::of(&config), &identity, admission.clone())?;
            let discovery =
                Discovery::start(config.clone(), identity.clone(), admission, events).await?;
            Ok::<_, Error>((discovery, server, client))
        })?;
        let shared = Arc::new(Shared {
            standing: Mutex::new(Standing::new(policy::Settings::default(), rand::random())),
            https: server.as_ref().map_or(config.https_listen, Server::address),
            discovery,
            client,
            identity,
            runtime: handle.clone(),
            is_leech: config.leech,
            zone: config.zone.clone(),
            shelf: layers,
            known: Mutex::default(),
        });
        handle.spawn(follow(Arc::downgrade(&shared), happened));
        Ok(Arc::new(Node {
            shared,
            server,
            runtime: Some(runtime),
        }))
    }

    /// Who this node is.
    pub fn id(&self) -> PeerId {
        self.shared.identity.peer_id()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.take();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Peers for Node {
    fn join(&self, layer: &Arc<CachedLayer>) -> Arc<dyn Swarm> {
        let mut layers = self.shared.shelf.lock();
        if let Some(joined) = layers.get(layer.key()).and_then(Weak::upgrade) {
            return joined;
        }
        let joined = Joined::new(&self.shared, layer);
        layers.insert(layer.key().clone(), Arc::downgrade(&joined));
        drop(layers);
        if !self.shared.is_leech {
            self.shared.discovery.announce(layer.key());
        }
        joined
    }
}

impl Layers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Weak<Joined>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &Key) -> Option<Arc<Joined>> {
        self.lock().get(key).and_then(Weak::upgrade)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Joined>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }
}

impl Shelf for Layers {
    fn layer(&self, key: &Key) -> Option<Arc<CachedLayer>> {
        self.get(key).map(|joined| Arc::clone(joined.layer()))
    }

    fn peers(&self, key: &Key) -> Vec<Peer> {
        let Some(joined) = self.get(key) else {
            return Vec::new();
        };
        let mut members = joined.addressed();
        while members.len() > PEERS_TOLD_MAX {
            members.swap_remove(rand::random_range(0..members.len()));
        }
        members
    }
}

impl Shared {
    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing<PeerId>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, HashMap<PeerId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn layers(&self) -> Vec<Arc<Joined>> {
        self.shelf.all()
    }

    /// What this node is known by where nodes are chosen; `None` if it gives nothing.
    pub(crate) fn print(&self) -> Option<u64> {
        let print = policy::print(&self.identity.peer_id().to_bytes());
        (!self.is_leech).then_some(print)
    }

    /// The number of the extent in which `chunk` begins.
    pub(crate) fn extent(&self, layout: &dyn Layout, chunk: usize) -> Option<usize> {
        let (offset, _) = layout.place(chunk)?;
        usize::try_from(offset / policy::Settings::default().extent_bytes).ok()
    }

    /// Where another node is, if that is known.
    pub(crate) fn peer(&self, id: PeerId) -> Option<Peer> {
        let address = self.known().get(&id)?.address?;
        Some(Peer { id, address })
    }

    /// `peer` as a member of a layer's swarm. `None` if that makes no sense.
    pub(crate) fn member(&self, peer: Peer) -> Option<Member<PeerId>> {
        if peer.id == self.identity.peer_id() {
            return None;
        }
        let mut known = self.known();
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&peer.id) {
            return None;
        }
        let entry = known.entry(peer.id).or_default();
        entry.address = Some(peer.address);
        let is_here = peer.address.ip().is_loopback();
        let is_near = !self.zone.is_empty() && entry.zone == self.zone;
        Some(Member {
            peer: peer.id,
            print: policy::print(&peer.id.to_bytes()),
            tier: match (is_here, is_near) {
                (true, _) => Tier::Host,
                (_, true) => Tier::Zone,
                _ => Tier::Other,
            },
        })
    }

    /// `peer` says in which zone it is.
    pub(crate) fn note_zone(&self, peer: PeerId, zone: &str) {
        if let Some(known) = self.known().get_mut(&peer)
            && known.zone != zone
        {
            zone.clone_into(&mut known.zone);
        }
    }

    pub(crate) fn count_received(&self, peer: PeerId, bytes: u64) {
        if let Some(known) = self.known().get_mut(&peer) {
            known.bytes += bytes;
        }
    }

    /// At most so many of those who are connected.
    pub(crate) fn acquaintances(&self, most: usize) -> Vec<Peer> {
        let known = self.discovery.known().into_iter();
        let connected = known.filter(|peer| peer.connected && peer.banned.is_none());
        let peers = connected.filter_map(|peer| {
            let address = peer.address?;
            Some(Peer {
                id: peer.id,
                address,
            })
        });
        peers.take(most).collect()
    }

    /// Whether any other node is connected.
    pub(crate) fn is_acquainted(&self) -> bool {
        self.discovery.health().connected > 0
    }

    /// Whether nobody is asked, because too many were banned.
    pub(crate) fn is_off(&self) -> bool {
        self.standing().off_until(Instant::now()).is_some()
    }

    /// A node was banned.
    pub(crate) fn banned(&self, ban: &Ban<PeerId>, reason: &str) {
        tracing::warn!(peer = %ban.peer, seconds = ban.time.as_secs(), reason, "another node is banned");
        self.known().entry(ban.peer).or_default().reason = Some(reason.to_owned());
        self.discovery.ban(ban.peer, ban.time);
        self.client.forget(ban.peer);
        for joined in self.layers() {
            joined.part_from(ban.peer);
        }
    }

    /// The layer is let go.
    pub(crate) fn parted(&self, joined: &Joined) {
        let mut layers = self.shelf.lock();
        // It may have been opened anew meanwhile.
        let is_gone = layers
            .get(joined.key())
            .is_some_and(|known| known.strong_count() == 0);
        if is_gone {
            layers.remove(joined.key());
            drop(layers);
            self.discovery.withdraw(joined.key());
        }
    }
}

/// Tells layers of nodes that come and go.
async fn follow(shared: Weak<Shared>, mut happened: mpsc::Receiver<Event>) {
    while let Some(event) = happened.recv().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match event {
            Event::Connected(peer) => {
                let layers = shared.layers();
                layers.iter().for_each(|joined| joined.meet(peer));
            }
            Event::Disconnected(_) => {}
        }
    }
}
