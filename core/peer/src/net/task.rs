//! The task that drives libp2p.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use libp2p_connection_limits::{self as limits, ConnectionLimits};
use libp2p_core::{Multiaddr, Transport};
use libp2p_kad::store::RecordStore;
use libp2p_kad::{
    self as kad, GetProvidersOk, InboundRequest, Mode, ProviderRecord, QueryId, QueryResult,
    Quorum, Record, RecordKey,
};
use libp2p_mdns as mdns;
use libp2p_swarm::behaviour::toggle::Toggle;
use libp2p_swarm::dial_opts::DialOpts;
use libp2p_swarm::{DialError, ListenError, NetworkBehaviour, StreamProtocol, Swarm, SwarmEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::announced::{Announced, Step};
use super::bootstrap::{self, Rounds};
use super::contact::Place;
use super::door::{Door, Gate};
use super::lookups::{Asked, Lookups};
use super::shared::{Gauges, Shared};
use super::store::{Limits, Store, StoreKey, store_key};
use super::table::Table;
use super::{Event, remembered};
use crate::{Admission, Config, Error, Identity, Peer, PeerId, Result};

/// What kad calls itself.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/pontoon/kad/1");

/// Connections: being made, made, and of one peer.
const PENDING_MAX: u32 = 256;
const INCOMING_MAX: u32 = 384;
const CONNECTIONS_MAX: u32 = 512;
const PER_PEER_MAX: u32 = 3;

/// How long a connection that nobody uses is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long announcing a layer may take; lookups have less.
const QUERY_MAX: Duration = Duration::from_secs(30);

/// How often to look whether whoever is connected is still admitted, and to bring the figures up to date.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often to write down who is known.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);

/// How long to wait for a first address of the listener, and for layers to be withdrawn at the end.
const LISTEN_MAX: Duration = Duration::from_secs(5);
const STOP_MAX: Duration = Duration::from_secs(1);

/// What the task is asked.
pub(super) enum Command {
    /// Who has a layer?
    Peers {
        key: StoreKey,
        waiter: mpsc::Sender<Peer>,
    },
    /// The peer is banned now.
    Banned(PeerId),
    /// Withdraw everything, and end.
    Stop(oneshot::Sender<()>),
}

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p_swarm::derive_prelude")]
struct Parts {
    limits: limits::Behaviour,
    kad: Table,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

pub(super) struct Task {
    config: Config,
    local: PeerId,
    admission: Admission,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    swarm: Swarm<Parts>,
    lookups: Lookups,
    announced: Announced,
    rounds: Rounds,
    /// Addresses that a round of bootstrap gave.
    dial: mpsc::Sender<Vec<SocketAddr>>,
    dialled: mpsc::Receiver<Vec<SocketAddr>>,
    /// Peers in the routing table.
    table: usize,
    looked: Instant,
    remembered: Instant,
    /// Set while the end is near: by when it is.
    stopping: Option<(Instant, oneshot::Sender<()>)>,
}

impl Task {
    pub(super) fn new(
        config: Config,
        limits: Limits,
        identity: &Identity,
        admission: Admission,
        shared: Arc<Shared>,
        events: mpsc::Sender<Event>,
    ) -> Result<Task> {
        let local = identity.peer_id();
        let gate = Gate::new(identity, admission.clone(), Arc::clone(&shared))?;
        let mdns = config.mdns.then(|| multicast(local)).flatten();
        let parts = Parts {
            limits: limits::Behaviour::new(
                ConnectionLimits::default()
                    .with_max_pending_incoming(Some(PENDING_MAX))
                    .with_max_pending_outgoing(Some(PENDING_MAX))
                    .with_max_established_incoming(Some(INCOMING_MAX))
                    .with_max_established(Some(CONNECTIONS_MAX))
                    .with_max_established_per_peer(Some(PER_PEER_MAX)),
            ),
            kad: Table::new(kademlia(local, limits), config.listen.ip().is_loopback()),
            mdns: mdns.into(),
        };
        let swarm = libp2p_swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_MAX)
            .with_max_negotiating_inbound_streams(32);
        let (dial, dialled) = mpsc::channel(4);
        let now = Instant::now();
        Ok(Task {
            announced: Announced::new(config.record_ttl),
            config,
            local,
            admission,
            shared,
            events,
            swarm: Swarm::new(Door::new(gate).boxed(), parts, local, swarm),
            lookups: Lookups::default(),
            rounds: Rounds::new(),
            dial,
            dialled,
            table: 0,
            looked: now,
            remembered: now,
            stopping: None,
        })
    }

    /// Waits until somebody can be let in.
    pub(super) async fn listen(&mut self) -> Result<()> {
        let address = self.config.listen;
        let place = Place {
            ip: address.ip(),
            port: address.port(),
            https_port: None,
        };
        let failed = |source: std::io::Error| Error::Listen { address, source };
        // libp2p shares a port with whoever shares it too, and with another daemon of ours nobody would know whom it reaches.
        drop(std::net::TcpListener::bind(address).map_err(failed)?);
        self.swarm
            .listen_on(place.tcp())
            .map_err(|error| failed(std::io::Error::other(error.to_string())))?;
        let listening = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { address, .. } => break Ok(Place::parse(&address)),
                    SwarmEvent::ListenerError { error, .. } => break Err(error),
                    SwarmEvent::ListenerClosed { reason, .. } => {
                        break reason.map(|()| None);
                    }
                    _ => {}
                }
            }
        };
        let listening = tokio::time::timeout(LISTEN_MAX, listening).await;
        let timed_out = |_| Err(std::io::ErrorKind::TimedOut.into());
        let place = listening.unwrap_or_else(timed_out).map_err(failed)?;
        let place = place.ok_or_else(|| failed(std::io::ErrorKind::AddrNotAvailable.into()))?;
        self.shared.listens(place.port);
        let own = |ip: IpAddr| SocketAddr::new(ip, place.port);
        self.shared.found_myself(own(place.ip));
        if let Some(ip) = self.config.address {
            self.shared.found_myself(own(ip));
        }
        Ok(())
    }

    /// Runs until everybody who could ask is gone, or somebody asks to stop.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let shared = Arc::clone(&self.shared);
        while !self.has_stopped() {
            self.begin_round();
            self.step();
            let next = self.next();
            tokio::select! {
                event = self.swarm.select_next_some() => self.happened(event),
                command = commands.recv() => match command {
                    Some(command) => self.asked(command),
                    None => break,
                },
                () = shared.wake.notified() => self.changed(),
                Some(addresses) = self.dialled.recv() => self.dial(addresses),
                () = tokio::time::sleep_until(next) => {}
            }
            if self.looked.elapsed() >= LOOK_EVERY {
                self.looked = Instant::now();
                self.look();
            }
        }
        self.remember();
        if let Some((_, stopped)) = self.stopping {
            let _ = stopped.send(());
        }
    }

    fn has_stopped(&self) -> bool {
        self.stopping
            .as_ref()
            .is_some_and(|(by, _)| self.announced.len() == 0 || *by <= Instant::now())
    }

    /// When there is something to do that nobody calls for.
    fn next(&self) -> Instant {
        let times = [
            Some(self.looked + LOOK_EVERY),
            Some(self.rounds.next()),
            self.announced.next(),
            self.lookups.next(),
            self.stopping.as_ref().map(|(by, _)| *by),
        ];
        let next = times.into_iter().flatten().min();
        next.unwrap_or(self.looked + LOOK_EVERY)
    }

    fn asked(&mut self, command: Command) {
        match command {
            Command::Peers { key, waiter } => self.look_up(key, waiter),
            Command::Banned(peer) => self.shut_out(peer),
            Command::Stop(done) => {
                self.announced.want_nothing();
                self.stopping = Some((Instant::now() + STOP_MAX, done));
            }
        }
    }

    /// Layers were mounted or unmounted.
    fn changed(&mut self) {
        for (key, wanted) in self.shared.changes() {
            self.announced.want(key, wanted && self.stopping.is_none());
        }
        self.shared.gauges().announced = self.announced.len();
    }

    fn look_up(&mut self, key: StoreKey, waiter: mpsc::Sender<Peer>) {
        match self.lookups.ask(&key, &waiter) {
            Asked::Served => {}
            Asked::Busy => {
                self.shared.counts.lookups_busy.fetch_add(1, Relaxed);
            }
            Asked::Begin => {
                self.shared.counts.lookups.fetch_add(1, Relaxed);
                let kad = &mut self.swarm.behaviour_mut().kad;
                let query = kad.get_providers(RecordKey::new(&key));
                self.lookups.begun(key, query, waiter);
            }
        }
    }

    /// What is due, of layers and of lookups.
    fn step(&mut self) {
        while let Some((key, step)) = self.announced.take() {
            let kad = &mut self.swarm.behaviour_mut().kad;
            let record = RecordKey::new(&key);
            let query = match step {
                Step::Tell => {
                    self.shared.counts.announced.fetch_add(1, Relaxed);
                    kad.start_providing(record)
                }
                Step::Withdraw => {
                    kad.stop_providing(&record);
                    kad.put_record(Record::new(record, Vec::new()), Quorum::All)
                }
            };
            match query {
                Ok(query) => self.announced.begun(key, step, query),
                Err(_) => self.announced.failed(key, step),
            }
        }
        for query in self.lookups.overdue() {
            self.finish(&query);
            self.looked_up(&query);
        }
    }

    fn finish(&mut self, query: &QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(query) {
            query.finish();
        }
    }

    fn looked_up(&mut self, query: &QueryId) {
        if self.lookups.ended(query) == Some(true) {
            self.shared.counts.lookups_found.fetch_add(1, Relaxed);
        }
    }

    fn happened(&mut self, event: SwarmEvent<PartsEvent>) {
        match event {
            SwarmEvent::Behaviour(PartsEvent::Kad(event)) => self.of_kad(event),
            SwarmEvent::Behaviour(PartsEvent::Mdns(mdns::Event::Discovered(peers))) => {
                for (peer, address) in peers.into_iter().take(64) {
                    self.seen_on_the_network(peer, &address);
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. } => self.connected(peer_id),
            SwarmEvent::ConnectionClosed { peer_id, .. } => {
                if self.shared.contacts().disconnected(&peer_id) {
                    let _ = self.events.try_send(Event::Disconnected(peer_id));
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                self.not_reached(peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                if let ListenError::Denied { .. } = error {
                    self.shared.counts.too_many.fetch_add(1, Relaxed);
                }
                tracing::debug!(%error, "a connection was not taken");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "listening for other nodes failed");
            }
            _ => {}
        }
    }

    fn of_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request: InboundRequest::AddProvider { record },
            } => {
                if let Some(record) = record {
                    self.told(record);
                }
            }
            kad::Event::InboundRequest {
                request: InboundRequest::PutRecord { source, record, .. },
            } => {
                // How a layer is withdrawn: by whoever had announced it, with nothing as its value.
                if let Some(record) = record.filter(|record| record.value.is_empty()) {
                    let store = self.swarm.behaviour_mut().kad.store_mut();
                    store.remove_provider(&record.key, &source);
                }
            }
            kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                stats,
            } => self.progressed(&id, result, step.last, stats.num_successes() > 0),
            _ => {}
        }
    }

    fn progressed(&mut self, query: &QueryId, result: QueryResult, is_last: bool, reached: bool) {
        match result {
            QueryResult::GetProviders(result) => {
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    let peers: Vec<Peer> = providers
                        .iter()
                        .filter_map(|peer| self.found(*peer))
                        .collect();
                    if self.lookups.found(query, &peers) {
                        self.finish(query);
                    }
                }
                if is_last {
                    self.looked_up(query);
                }
            }
            QueryResult::StartProviding(result) => {
                // What took too long has told nobody, as far as can be seen.
                self.announced.ended(query, result.is_ok() && reached);
            }
            QueryResult::PutRecord(_) => {
                self.announced.ended(query, true);
            }
            _ => {}
        }
        self.shared.gauges().announced = self.announced.len();
    }

    /// A peer announces a layer. Where it is, is where its connection comes from.
    fn told(&mut self, mut record: ProviderRecord) {
        let place = self.shared.contacts().place(&record.provider);
        let kept = place.filter(|_| store_key(&record.key).is_some());
        let kept = kept.is_some_and(|place| {
            record.addresses = vec![place.multiaddr()];
            let store = self.swarm.behaviour_mut().kad.store_mut();
            store.add_provider(record).is_ok()
        });
        if !kept {
            self.shared.counts.records_refused.fetch_add(1, Relaxed);
        }
    }

    /// A peer that has a layer, with the address that is known best.
    fn found(&mut self, id: PeerId) -> Option<Peer> {
        if id == self.local {
            return None;
        }
        {
            let contacts = self.shared.contacts();
            if contacts.banned(&id).is_some() {
                return None;
            }
            if let Some(place) = contacts.place(&id) {
                return place.peer(id);
            }
        }
        let table = &mut self.swarm.behaviour_mut().kad;
        let kept = table.store_mut().addresses(&id);
        let kept: Vec<Place> = kept.iter().filter_map(Place::parse).collect();
        let places = kept.into_iter().chain(table.places(id));
        places
            .filter(|place| table.is_usable(place))
            .find_map(|place| place.peer(id))
    }

    fn connected(&mut self, peer: PeerId) {
        let place = self.shared.contacts().connected(&peer);
        let Some(place) = place else {
            // It said hello, so it is known; unless there are more connections than are remembered.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        };
        let kad = &mut self.swarm.behaviour_mut().kad;
        if let Some(bucket) = kad.kbucket(peer) {
            let is_it = |address: &Multiaddr| Place::parse(address) == Some(place);
            let known = bucket.iter().find(|node| *node.node.key.preimage() == peer);
            let elsewhere = known.is_some_and(|node| !node.node.value.iter().any(is_it));
            drop(bucket);
            if elsewhere {
                kad.remove_peer(&peer);
            }
        }
        kad.add_address(&peer, place.multiaddr());
        let alone = self.table == 0;
        self.count_table();
        if alone && self.table > 0 {
            self.announced.tell_all();
            self.lookups.forget_nothing();
        }
        let connected = Event::Connected(peer, place.peer(peer));
        let _ = self.events.try_send(connected);
    }

    /// Somebody could not be reached. Nobody else shall be sent there by us.
    fn not_reached(&mut self, peer: Option<PeerId>, error: &DialError) {
        tracing::debug!(?peer, %error, "a peer was not reached");
        if matches!(
            error,
            DialError::Denied { .. } | DialError::DialPeerConditionFalse(_)
        ) {
            return;
        }
        self.shared.counts.failed.fetch_add(1, Relaxed);
        if let Some(peer) = peer
            && !self.swarm.is_connected(&peer)
        {
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
            self.count_table();
        }
    }

    fn count_table(&mut self) {
        let buckets = self.swarm.behaviour_mut().kad.kbuckets();
        let table = buckets.map(|bucket| bucket.num_entries()).sum();
        if table == 0 && self.table > 0 {
            self.rounds.alone();
        }
        self.table = table;
    }

    fn seen_on_the_network(&mut self, peer: PeerId, address: &Multiaddr) {
        let table = &self.swarm.behaviour().kad;
        let Some(place) = Place::parse(address).filter(|place| table.is_usable(place)) else {
            return;
        };
        if peer == self.local || self.swarm.is_connected(&peer) {
            return;
        }
        let options = DialOpts::peer_id(peer).addresses(vec![place.tcp()]);
        let _ = self.swarm.dial(options.build());
    }

    /// Looks for a first other node, if it is time to.
    fn begin_round(&mut self) {
        if !self.rounds.begins(self.table) || self.stopping.is_some() {
            return;
        }
        let places = self.config.bootstrap.clone();
        let remembered = self.config.remembered.clone();
        let dial = self.dial.clone();
        tokio::spawn(async move {
            let remembered = match remembered {
                Some(path) => tokio::task::spawn_blocking(move || remembered::read(&path)).await,
                None => Ok(Vec::new()),
            };
            let addresses = bootstrap::round(places, remembered.unwrap_or_default()).await;
            // One that is still under way is enough.
            let _ = dial.try_send(addresses);
        });
    }

    fn dial(&mut self, addresses: Vec<SocketAddr>) {
        for address in addresses {
            let known = self.shared.contacts().is_connected(address);
            if known || self.shared.is_myself(address) {
                continue;
            }
            let place = Place {
                ip: address.ip(),
                port: address.port(),
                https_port: None,
            };
            let options = DialOpts::unknown_peer_id().address(place.tcp());
            let _ = self.swarm.dial(options.build());
        }
    }

    /// Whoever is not admitted any more goes; and what can be seen of all this is brought up to date.
    fn look(&mut self) {
        let gone: Vec<(PeerId, IpAddr, crate::Refused)> = {
            let contacts = self.shared.contacts();
            let connected = contacts
                .iter()
                .filter(|(_, contact)| contact.connections > 0);
            let refused = connected.filter_map(|(peer, contact)| {
                let verdict = match contacts.banned(peer) {
                    Some(_) => Err(crate::Refused::Banned),
                    None => self
                        .admission
                        .still_admits(*peer, contact.from, contact.token),
                };
                Some((*peer, contact.from, verdict.err()?))
            });
            refused.collect()
        };
        for (peer, address, why) in gone {
            self.shared.refused(peer, address, why);
            self.shut_out(peer);
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.store_mut().sweep();
        let (keys, records) = kad.store_mut().size();
        self.count_table();
        *self.shared.gauges() = Gauges {
            connected: self.swarm.connected_peers().count(),
            table: self.table,
            keys,
            records,
            announced: self.announced.len(),
            lookups: self.lookups.len(),
        };
        if self.remembered.elapsed() >= REMEMBER_EVERY {
            self.remembered = Instant::now();
            self.remember();
        }
    }

    fn shut_out(&mut self, peer: PeerId) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.remove_peer(&peer);
        kad.store_mut().forget(&peer);
        self.lookups.forget(&peer);
        let _ = self.swarm.disconnect_peer_id(peer);
        self.count_table();
    }

    fn remember(&self) {
        let Some(path) = &self.config.remembered else {
            return;
        };
        let contacts = self.shared.contacts();
        let mut places: Vec<_> = contacts
            .iter()
            .filter(|(peer, contact)| contact.place.port != 0 && contacts.banned(peer).is_none())
            .map(|(_, contact)| {
                (
                    contact.connections == 0,
                    contact.seen.elapsed(),
                    contact.place,
                )
            })
            .collect();
        drop(contacts);
        if places.is_empty() {
            return;
        }
        places.sort_unstable_by_key(|(idle, since, _)| (*idle, *since));
        let addresses: Vec<SocketAddr> = places
            .iter()
            .map(|(_, _, place)| SocketAddr::new(place.ip, place.port))
            .collect();
        remembered::write(path, &addresses);
    }
}

fn kademlia(local: PeerId, kept: Limits) -> kad::Behaviour<Store> {
    let mut config = kad::Config::new(PROTOCOL);
    config
        .set_query_timeout(QUERY_MAX)
        .set_substreams_timeout(Duration::from_secs(2))
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_provider_record_ttl(Some(kept.ttl))
        // Announcing again is ours: kad would do it for all layers at once.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_record_ttl(Some(Duration::from_secs(60)));
    let store = Store::new(local, kept);
    let mut kad = kad::Behaviour::with_config(local, store, config);
    kad.set_mode(Some(Mode::Server));
    kad
}

fn multicast(local: PeerId) -> Option<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config::default(), local)
        .inspect_err(|error| tracing::warn!(%error, "multicast is not possible: peers are looked for without it"))
        .ok()
}
