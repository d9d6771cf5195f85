//! The task that drives libp2p.

mod events;
mod upkeep;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use libp2p_connection_limits::{self as limits, ConnectionLimits};
use libp2p_core::Transport;
use libp2p_kad::{self as kad, Mode, QueryId, Quorum, Record, RecordKey};
use libp2p_mdns as mdns;
use libp2p_swarm::behaviour::toggle::Toggle;
use libp2p_swarm::{NetworkBehaviour, StreamProtocol, Swarm, SwarmEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Event;
use super::announced::{Announced, Step};
use super::bootstrap::Rounds;
use super::contact::Place;
use super::door::{Door, Gate};
use super::lookups::{Asked, Lookups};
use super::shared::Shared;
use super::store::{Limits, Store, StoreKey};
use super::table::Table;
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
        let by = Instant::now() + LISTEN_MAX;
        let place = loop {
            let event = tokio::time::timeout_at(by, self.swarm.select_next_some()).await;
            match event.map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))? {
                SwarmEvent::NewListenAddr { address, .. } => break Place::parse(&address),
                SwarmEvent::ListenerError { error, .. } => return Err(failed(error)),
                SwarmEvent::ListenerClosed { reason, .. } => {
                    reason.map_err(failed)?;
                    break None;
                }
                event => self.happened(event),
            }
        };
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
