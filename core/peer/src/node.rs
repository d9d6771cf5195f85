//! One node: discovery, wire and policy as one source of chunks for `core/lazyfs`.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_cache::{CachedLayer, Key};
use pontoon_lazyfs::{Peers, Swarm};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;

use crate::policy::{self, Ban, Layout, Member, Standing, Tier};
use crate::swarm::Joined;
use crate::wire::{Client, ClientConfig, Limits, Server, ServerConfig, Shelf};
use crate::{
    Admission, Config, Discovery, Error, Event, Identity, PEERS_TOLD_MAX, Peer, PeerId, Result,
};

/// Threads that talk to other nodes; checking and disks have their own.
const THREADS: usize = 2;

/// Events of discovery that may wait.
const EVENTS: usize = 256;

/// Other nodes whose addresses are remembered.
const ADDRESSES_MAX: usize = 4096;

/// How long the end may take.
const STOP_MAX: Duration = Duration::from_secs(2);

/// Who was connected within this time may be asked.
const ACQUAINTED: Duration = Duration::from_secs(600);

/// How a node takes part.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How others are found. The port at which chunks are given is filled in.
    pub discovery: Config,
    /// Where chunks are given away; with port 0, on any that is free.
    pub https_listen: SocketAddr,
    /// Only take.
    pub leech: bool,
    /// Where the node is: others in the same zone are asked first. Empty: nobody knows.
    pub zone: String,
    /// What all others together are given, in bytes a second. 0: as much as they take.
    pub upload_bytes_per_second: u64,
}

/// This node among others. While it lives it listens, and serves what it has.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    server: Option<Server>,
    runtime: Mutex<Option<Runtime>>,
}

/// What all layers need.
pub(crate) struct Shared {
    pub(crate) discovery: Discovery,
    pub(crate) client: Client,
    pub(crate) runtime: Handle,
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    standing: Mutex<Standing<PeerId>>,
    shelf: Arc<Layers>,
    known: Mutex<HashMap<PeerId, Known>>,
    /// Nothing is asked or served any more, though layers are still read.
    has_stopped: AtomicBool,
}

/// The layers that are open.
#[derive(Debug, Default)]
pub(crate) struct Layers(Mutex<HashMap<Key, Weak<Joined>>>);

/// Another node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) address: Option<SocketAddr>,
    /// It has answered there.
    pub(crate) is_there: bool,
    /// When somebody named it last.
    pub(crate) named: Option<Instant>,
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
    pub fn start(settings: Settings, identity: Identity, admission: Admission) -> Result<Node> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("peer")
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let shared = block_on(
            &runtime,
            Shared::start(settings, identity, admission, &runtime),
        )?;
        let (shared, server) = shared;
        Ok(Node {
            shared,
            server,
            runtime: Mutex::new(Some(runtime)),
        })
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

impl Node {
    /// Tells others that it goes, for at most a second, and takes part no more.
    pub fn stop(&self) {
        let runtime = self.runtime.lock();
        let runtime = runtime.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            self.shared.has_stopped.store(true, Ordering::Relaxed);
            let stopped = async {
                // It takes a second, unless something is wrong with it.
                let _ = tokio::time::timeout(STOP_MAX, self.shared.discovery.stop()).await;
            };
            block_on(&runtime, stopped);
            runtime.shutdown_background();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The numbers that this node decides by.
fn decisions() -> policy::Settings {
    policy::Settings {
        // A chunk of a slow registry takes longer than a moment, and whoever fetches one has nothing new meanwhile.
        growing: Duration::from_secs(4),
        ..policy::Settings::default()
    }
}

/// Waits for `work` on a thread of its own: this one may be one that must not wait.
fn block_on<T: Send>(runtime: &Runtime, work: impl Future<Output = T> + Send) -> T {
    thread::scope(|scope| {
        let waiting = scope.spawn(|| runtime.block_on(work));
        match waiting.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
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
        if !self.shared.settings.leech {
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

    fn asked(&self, key: &Key, peer: Peer) {
        if let Some(joined) = self.get(key) {
            joined.meet(peer);
        }
    }

    fn is_fetching(&self, key: &Key) -> bool {
        self.get(key).is_some_and(|joined| joined.is_active())
    }
}

impl Shared {
    async fn start(
        mut settings: Settings,
        identity: Identity,
        admission: Admission,
        runtime: &Runtime,
    ) -> Result<(Arc<Shared>, Option<Server>)> {
        let (events, happened) = mpsc::channel(EVENTS);
        let shelf = Arc::new(Layers::default());
        let mut server = None;
        settings.discovery.https_port = 0;
        if !settings.leech {
            let config = ServerConfig {
                zone: settings.zone.clone(),
                limits: Limits {
                    bytes_per_second: Some(settings.upload_bytes_per_second)
                        .filter(|bytes| *bytes > 0),
                    ..Limits::default()
                },
            };
            let (listen, shelf) = (settings.https_listen, Arc::clone(&shelf));
            let started =
                Server::start(listen, config, &identity, admission.clone(), shelf as _).await?;
            settings.discovery.https_port = started.address().port();
            server = Some(started);
        }
        let client = ClientConfig {
            port: server.as_ref().map(|server| server.address().port()),
            ..ClientConfig::default()
        };
        let shared = Arc::new(Shared {
            standing: Mutex::new(Standing::new(decisions(), rand::random())),
            client: Client::new(client, identity.clone(), admission.clone()),
            discovery: Discovery::start(
                settings.discovery.clone(),
                identity.clone(),
                admission,
                events,
            )
            .await?,
            identity,
            runtime: runtime.handle().clone(),
            settings,
            shelf,
            known: Mutex::default(),
            has_stopped: AtomicBool::new(false),
        });
        runtime.spawn(follow(Arc::downgrade(&shared), happened));
        Ok((shared, server))
    }

    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing<PeerId>> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, HashMap<PeerId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn layers(&self) -> Vec<Arc<Joined>> {
        self.shelf.all()
    }

    /// Has all layers look what there is to do.
    pub(crate) fn wake_all(&self) {
        self.layers().iter().for_each(|joined| joined.wake());
    }

    /// What this node is known by where nodes are chosen; `None` if it gives nothing.
    pub(crate) fn print(&self) -> Option<u64> {
        let print = policy::print(&self.identity.peer_id().to_bytes());
        (!self.settings.leech).then_some(print)
    }

    /// The number of the extent in which `chunk` begins.
    pub(crate) fn extent(&self, layout: &dyn Layout, chunk: usize) -> Option<usize> {
        let (offset, _) = layout.place(chunk)?;
        usize::try_from(offset / decisions().extent_bytes).ok()
    }

    /// Where another node is, if that is known.
    pub(crate) fn peer(&self, id: PeerId) -> Option<Peer> {
        let address = self.known().get(&id)?.address?;
        Some(Peer { id, address })
    }

    /// `peer` as a member of a layer's swarm. `None` if that makes no sense.
    ///
    /// Of what others say of it (`is_hearsay`), no address is taken that no other node has, nor one instead of an address
    /// where it has answered: so nobody sends this node to where he likes, or away from a good one.
    pub(crate) fn member(&self, peer: Peer, is_hearsay: bool) -> Option<Member<PeerId>> {
        if peer.id == self.identity.peer_id() {
            return None;
        }
        let loopback = self.settings.discovery.listen.ip().is_loopback();
        if is_hearsay && !is_elsewhere(peer.address, loopback) {
            return None;
        }
        let mut known = self.known();
        if known.len() >= ADDRESSES_MAX && !known.contains_key(&peer.id) {
            make_room(&mut known);
        }
        let entry = known.entry(peer.id).or_default();
        entry.named = Some(Instant::now());
        if !(is_hearsay && entry.is_there) {
            entry.is_there &= entry.address == Some(peer.address);
            entry.address = Some(peer.address);
        }
        let address = entry.address.unwrap_or(peer.address);
        let is_here = address.ip().to_canonical().is_loopback();
        let is_near = !self.settings.zone.is_empty() && entry.zone == self.settings.zone;
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

    /// `peer` has answered, or cannot be reached.
    pub(crate) fn note_answer(&self, peer: PeerId, is_there: bool) {
        if let Some(known) = self.known().get_mut(&peer) {
            known.is_there = is_there;
        }
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
        let recent = known.filter(|peer| peer.seen < ACQUAINTED && peer.banned.is_none());
        let peers = recent.filter_map(|peer| {
            let address = peer.address?;
            Some(Peer {
                id: peer.id,
                address,
            })
        });
        peers.take(most).collect()
    }

    /// Whether any other node is known.
    pub(crate) fn is_acquainted(&self) -> bool {
        let health = self.discovery.health();
        health.connected + health.known > 0
    }

    /// Whether it takes part no more.
    pub(crate) fn has_stopped(&self) -> bool {
        self.has_stopped.load(Ordering::Relaxed)
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

/// Whether another node can be there; `loopback`: also one on this machine.
fn is_elsewhere(address: SocketAddr, loopback: bool) -> bool {
    let ip = address.ip().to_canonical();
    let is_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let is_nowhere = ip.is_unspecified() || ip.is_multicast() || is_local;
    address.port() != 0 && !is_nowhere && (loopback || !ip.is_loopback())
}

/// Forgets the node that was named longest ago, of those that have given nothing if there are any.
fn make_room(known: &mut HashMap<PeerId, Known>) {
    let least = known
        .iter()
        .min_by_key(|(_, known)| (known.bytes > 0, known.is_there, known.named));
    if let Some(peer) = least.map(|(peer, _)| *peer) {
        known.remove(&peer);
    }
}

/// Tells layers of nodes that come and go.
async fn follow(shared: Weak<Shared>, mut happened: mpsc::Receiver<Event>) {
    while let Some(event) = happened.recv().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match event {
            Event::Connected(_, Some(peer)) => {
                let layers = shared.layers();
                layers.iter().for_each(|joined| joined.meet(peer));
            }
            Event::Connected(_, None) | Event::Disconnected(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
