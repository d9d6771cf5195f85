//! A node that serves a layer, and one that asks for its chunks.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pontoon_cache::{Cache, CachedLayer, Key, Meta};
use pontoon_layer::{Algorithm, Chunk, ChunkTable, Compression, Digest, Hasher, Verified};
use pontoon_peer::admission::{self, Admission};
use pontoon_peer::wire::{Client, ClientConfig, Limits, Order, Server, ServerConfig, Shelf};
use pontoon_peer::{Class, Identity, Peer};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::{Exchange, Source};

/// Bytes of the layer: more than a processor remembers.
const LAYER_BYTES: usize = 128 << 20;

/// One node that has a layer, and the client of another one.
pub(super) struct Node {
    client: Client,
    peer: Peer,
    layer: Arc<CachedLayer>,
    _server: Server,
    // In this order: the cache is closed before its directory goes.
    _cache: Cache,
    _directory: TempDir,
}

#[derive(Debug)]
struct OneLayer(Arc<CachedLayer>);

impl Shelf for OneLayer {
    fn layer(&self, key: &Key) -> Option<Arc<CachedLayer>> {
        (key == self.0.key()).then(|| Arc::clone(&self.0))
    }

    fn peers(&self, _: &Key) -> Vec<Peer> {
        Vec::new()
    }
}

impl Node {
    /// Gives chunks of `bytes`.
    pub(super) fn start(runtime: &Runtime, bytes: usize) -> Result<Node, Box<dyn Error>> {
        let base = pontoon_rig::checkout::rig_dir().join("run");
        std::fs::create_dir_all(&base)?;
        let directory = TempDir::new_in(base)?;
        let cache = Cache::open(directory.path(), pontoon_cache::Config::default())?;
        let layer = fill(&cache, bytes)?;
        let identity = Identity::ephemeral();
        let admission = Admission::open(&admission::Config::default())?;
        // As many as ask here are one node, which would have to wait otherwise.
        let limits = Limits {
            peer_uploads: 64,
            ..Limits::default()
        };
        let config = ServerConfig {
            limits,
            ..ServerConfig::default()
        };
        let server = runtime.block_on(Server::start(
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            config,
            &identity,
            admission.clone(),
            Arc::new(OneLayer(Arc::clone(&layer))),
        ))?;
        let config = ClientConfig {
            connections: 16,
            ..ClientConfig::default()
        };
        Ok(Node {
            client: Client::new(config, Identity::ephemeral(), admission),
            peer: Peer {
                id: identity.peer_id(),
                address: server.address(),
            },
            layer,
            _server: server,
            _cache: cache,
            _directory: directory,
        })
    }
}

/// A layer of chunks of `length` bytes, all of them there.
fn fill(cache: &Cache, length: usize) -> Result<Arc<CachedLayer>, Box<dyn Error>> {
    let contents = |index: usize| {
        let mut content = vec![index as u8; length];
        content[..8].copy_from_slice(&index.to_le_bytes());
        content
    };
    let mut chunks = Vec::new();
    for index in 0..LAYER_BYTES / length {
        let mut hasher = Hasher::new(Algorithm::Blake3);
        hasher.update(&contents(index));
        chunks.push(Chunk {
            data_offset: (index * length) as u64,
            length: u32::try_from(length)?,
            blob_length: u32::try_from(length)?,
            blob_offset: (index * length) as u64,
            inner_offset: 0,
            compression: Compression::None,
            algorithm: Algorithm::Blake3,
            digest: hasher.finish().bytes().try_into()?,
        });
    }
    let digests: Vec<Digest> = chunks.iter().map(Chunk::digest).collect();
    let table = ChunkTable::new(Compression::None, LAYER_BYTES as u64, chunks)?;
    let key = Key::new(Digest::of(b"blob"), Digest::of(b"table"));
    let layer = cache.create(&key, &table, Meta::default())?;
    for (index, digest) in digests.iter().enumerate() {
        layer.put(index, Verified::check(contents(index), digest)?);
    }
    cache.flush()?;
    Ok(layer)
}

impl Source for Node {
    fn get(&self, number: usize) -> Exchange {
        let (client, peer, layer) = (self.client.clone(), self.peer, Arc::clone(&self.layer));
        Box::pin(async move {
            // Not in order, so that nothing is read ahead.
            let chunk = number.wrapping_mul(7919) % layer.chunks().len();
            let order = Order {
                key: layer.key().clone(),
                layout: layer,
                chunks: chunk..chunk + 1,
                class: Class::Demand,
                deadline: Instant::now() + Duration::from_secs(10),
                packed: false,
            };
            let mut chunks = client.chunks(&peer, &order).await?;
            while let Some(chunk) = chunks.next().await {
                chunk?;
            }
            Ok(())
        })
    }
}
