//! Nodes with a layer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pontoon_cache::{Cache, CachedLayer, Key, Meta, Put};
use pontoon_layer::{Algorithm, Chunk, ChunkTable, Compression, Digest, Hasher, Verified};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::policy::Class;
use crate::wire::{Client, ClientConfig, Limits, Order, Result, Server, ServerConfig, Shelf};
use crate::{Admission, Identity, Peer};

/// No test waits longer for anything.
pub(super) const LONG: Duration = Duration::from_secs(20);

pub(super) const ANYWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Bytes that do not compress, or such that do.
pub(super) fn content(seed: u64, length: usize, is_noise: bool) -> Vec<u8> {
    let mut dice = crate::policy::Dice::new(seed);
    match is_noise {
        true => (0..length).map(|_| dice.roll() as u8).collect(),
        false => format!("what is written here {seed} times ")
            .into_bytes()
            .into_iter()
            .cycle()
            .take(length)
            .collect(),
    }
}

/// A layer whose chunks have these lengths.
pub(super) struct Sample {
    pub(super) key: Key,
    pub(super) table: ChunkTable,
    pub(super) contents: Vec<Vec<u8>>,
}

impl Sample {
    pub(super) fn new(lengths: &[usize], is_noise: bool) -> Sample {
        let (mut chunks, mut contents, mut offset) = (Vec::new(), Vec::new(), 0);
        for (index, length) in lengths.iter().enumerate() {
            let content = content(index as u64, *length, is_noise);
            let mut hasher = Hasher::new(Algorithm::Blake3);
            hasher.update(&content);
            chunks.push(Chunk {
                data_offset: offset,
                length: *length as u32,
                blob_length: *length as u32,
                blob_offset: index as u64 * (1 << 30),
                inner_offset: 0,
                compression: Compression::None,
                algorithm: Algorithm::Blake3,
                digest: hasher.finish().bytes().try_into().unwrap(),
            });
            offset = (offset + *length as u64).next_multiple_of(4096);
            contents.push(content);
        }
        let end = chunks.last().map_or(0, Chunk::data_end);
        Sample {
            key: Key::new(Digest::of(b"blob"), Digest::of(b"table")),
            table: ChunkTable::new(Compression::None, end, chunks).unwrap(),
            contents,
        }
    }

    pub(super) fn verify(&self, index: usize, bytes: Bytes) -> bool {
        let digest = self.table.chunks()[index].digest();
        Verified::check(bytes, &digest).is_ok()
    }
}

/// A node's cache with the layer in it.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) layer: Arc<CachedLayer>,
    _cache: Cache,
    _directory: TempDir,
}

impl Store {
    pub(super) fn new(sample: &Sample) -> Store {
        let directory = TempDir::new().unwrap();
        let cache = Cache::open(directory.path(), pontoon_cache::Config::default()).unwrap();
        let layer = cache
            .create(&sample.key, &sample.table, Meta::default())
            .unwrap();
        Store {
            layer,
            _cache: cache,
            _directory: directory,
        }
    }

    pub(super) fn full(sample: &Sample) -> Store {
        let store = Store::new(sample);
        (0..sample.contents.len()).for_each(|index| store.put(sample, index));
        store
    }

    pub(super) fn put(&self, sample: &Sample, index: usize) {
        let digest = sample.table.chunks()[index].digest();
        let chunk = Verified::check(sample.contents[index].as_slice(), &digest).unwrap();
        assert_eq!(self.layer.put(index, chunk), Put::Stored);
    }
}

#[derive(Debug)]
struct One {
    store: Arc<Store>,
    peers: Vec<Peer>,
    asked: Arc<Mutex<Vec<Peer>>>,
}

impl Shelf for One {
    fn layer(&self, key: &Key) -> Option<Arc<CachedLayer>> {
        (key == self.store.layer.key()).then(|| Arc::clone(&self.store.layer))
    }

    fn peers(&self, _: &Key) -> Vec<Peer> {
        self.peers.clone()
    }

    fn asked(&self, key: &Key, peer: Peer) {
        assert_eq!(key, self.store.layer.key());
        self.asked.lock().unwrap().push(peer);
    }
}

/// A node that serves.
pub(super) struct Host {
    pub(super) server: Server,
    pub(super) peer: Peer,
    pub(super) store: Arc<Store>,
    /// Who asked and serves too.
    pub(super) asked: Arc<Mutex<Vec<Peer>>>,
}

impl Host {
    pub(super) async fn start(store: Store, limits: Limits) -> Host {
        Host::start_for(store, limits, open()).await
    }

    pub(super) async fn start_for(store: Store, limits: Limits, admission: Admission) -> Host {
        let (identity, store) = (Identity::ephemeral(), Arc::new(store));
        let other = Peer {
            id: Identity::ephemeral().peer_id(),
            address: "10.1.2.3:7002".parse().unwrap(),
        };
        let asked = Arc::default();
        let shelf = Arc::new(One {
            store: Arc::clone(&store),
            peers: vec![other],
            asked: Arc::clone(&asked),
        });
        let config = ServerConfig {
            zone: "here".to_owned(),
            limits,
        };
        let server = Server::start(ANYWHERE, config, &identity, admission, shelf).await;
        let server = server.unwrap();
        let peer = Peer {
            id: identity.peer_id(),
            address: server.address(),
        };
        Host {
            server,
            peer,
            store,
            asked,
        }
    }
}

/// Admits this machine.
pub(super) fn open() -> Admission {
    Admission::open(&crate::admission::Config::default()).unwrap()
}

pub(super) fn client() -> Client {
    Client::new(ClientConfig::default(), Identity::ephemeral(), open())
}

pub(super) fn order(store: &Store, chunks: std::ops::Range<usize>) -> Order {
    let layout: Arc<CachedLayer> = Arc::clone(&store.layer);
    Order {
        key: store.layer.key().clone(),
        layout,
        chunks,
        class: Class::Demand,
        deadline: Instant::now() + LONG,
        packed: false,
    }
}

/// All chunks of an answer, up to the first error.
pub(super) async fn all(client: &Client, peer: &Peer, order: &Order) -> (Vec<Bytes>, Result<()>) {
    let mut came = Vec::new();
    let mut chunks = match client.chunks(peer, order).await {
        Ok(chunks) => chunks,
        Err(error) => return (came, Err(error)),
    };
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => came.push(chunk),
            Err(error) => {
                assert!(chunks.next().await.is_none());
                return (came, Err(error));
            }
        }
    }
    (came, Ok(()))
}

/// Waits until `is` is so.
pub(super) async fn until(is: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < end, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
