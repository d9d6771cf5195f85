//! What can be told about peers: for `pontoon peers`, metrics and the log.

use std::net::SocketAddr;
use std::time::Instant;

use serde::Serialize;

use crate::Health;
use crate::node::Node;
use crate::policy::Tallies;
use crate::wire::Counters;

/// What a node knows of itself and others.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Who this node is.
    pub id: String,
    /// Where others find it.
    pub listen: SocketAddr,
    /// Where it gives chunks away, if it does.
    pub https: Option<SocketAddr>,
    /// Its zone, if it was told.
    pub zone: String,
    /// The layers that it has or is getting, and other nodes that have them too.
    pub layers: Vec<LayerStatus>,
    /// Why nobody is asked at the moment: too many nodes were banned. In seconds from now.
    pub off_seconds: Option<u64>,
    /// The other nodes that it knows.
    pub peers: Vec<OtherStatus>,
    /// What it has asked for.
    pub asked: Asked,
    /// What it has given.
    pub given: Given,
}

/// A layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerStatus {
    /// The digest of its blob.
    pub blob: String,
    /// Other nodes that have it or are getting it.
    pub nodes: usize,
    /// How many of its chunks these have together.
    pub chunks_elsewhere: usize,
    /// How many are here.
    pub chunks_here: usize,
    /// How many there are.
    pub chunks: usize,
}

/// Another node.
#[derive(Debug, Clone, Serialize)]
pub struct OtherStatus {
    /// Who it is.
    pub id: String,
    /// Where its chunks are, if it gives any.
    pub address: Option<SocketAddr>,
    /// Whether it is connected just now. Idle connections are closed.
    pub connected: bool,
    /// How long ago it was connected last, in seconds.
    pub seen_seconds: u64,
    /// Its zone, if it told.
    pub zone: String,
    /// Bytes of chunks that came from it.
    pub received_bytes: u64,
    /// How long a MiB from it takes, in milliseconds, if that is known.
    pub ms_per_mib: Option<u64>,
    /// Bytes that it was asked for and that have not come.
    pub outstanding_bytes: u64,
    /// For how long it is banned, in seconds.
    pub banned_seconds: Option<u64>,
    /// Why it was banned last.
    pub ban_reason: Option<String>,
}

/// What was asked of other nodes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Asked {
    /// Requests.
    pub requests: u64,
    /// Of these, such as asked for what another node was asked for already.
    pub hedges: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Requests that met a node with enough to do.
    pub busy: u64,
    /// Chunks that came and were right.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bans.
    pub bans: u64,
}

/// What was given to other nodes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Given {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests that were turned away because there was enough to do.
    pub busy: u64,
    /// Nodes that were not admitted, each time.
    pub refused: u64,
}

impl Node {
    /// What it knows of itself and others.
    pub fn status(&self) -> Status {
        let shared = self.shared();
        let now = Instant::now();
        let layers = shared.layers();
        let layers = layers.iter().map(|joined| joined.status()).collect();
        // What is locked for it is free again before the others are looked at.
        let off = shared.standing().off_until(now);
        Status {
            id: self.id().to_string(),
            listen: shared.discovery.listen(),
            https: self.server().map(|server| server.address()),
            zone: shared.settings.zone.clone(),
            layers,
            off_seconds: off.map(|until| until.saturating_duration_since(now).as_secs()),
            peers: self.others(now),
            asked: self.asked(),
            given: self.given(),
        }
    }

    /// How discovery is.
    pub fn health(&self) -> Health {
        self.shared().discovery.health()
    }

    /// What was asked of other nodes.
    pub fn asked(&self) -> Asked {
        let standing = self.shared().standing();
        let Tallies {
            asks,
            hedges,
            failures,
            busy,
            chunks,
            bytes,
            ..
        } = standing.tallies();
        Asked {
            requests: asks,
            hedges,
            failures,
            busy,
            chunks,
            bytes,
            bans: standing.bans().total(),
        }
    }

    /// What was given to other nodes.
    pub fn given(&self) -> Given {
        let counters = self.server().map(|server| server.counters());
        counters.map_or_else(Given::default, |counters: Counters| Given {
            chunks: counters.chunks,
            bytes: counters.bytes,
            busy: counters.busy,
            refused: counters.refused,
        })
    }

    fn others(&self, now: Instant) -> Vec<OtherStatus> {
        let shared = self.shared();
        let known = shared.known().clone();
        let others = shared.discovery.known().into_iter();
        others
            .map(|other| {
                let id = other.id;
                let known = known.get(&id).cloned().unwrap_or_default();
                let standing = shared.standing();
                let pace = standing.speeds().pace(now, id);
                let outstanding_bytes = standing.speeds().outstanding_bytes(id);
                drop(standing);
                OtherStatus {
                    id: id.to_string(),
                    address: other.address,
                    connected: other.connected,
                    seen_seconds: other.seen.as_secs(),
                    zone: known.zone,
                    received_bytes: known.bytes,
                    ms_per_mib: pace.and_then(|pace| u64::try_from(pace.as_millis()).ok()),
                    outstanding_bytes,
                    banned_seconds: other.banned.map(|time| time.as_secs()),
                    ban_reason: known.reason,
                }
            })
            .collect()
    }
}
