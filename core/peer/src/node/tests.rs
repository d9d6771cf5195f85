//! Nodes on loopback, with real discovery and real bytes.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pontoon_cache::{Cache, Meta};
use pontoon_layer::{Algorithm, Chunk, ChunkTable, Compression, Digest, Verified};
use pontoon_lazyfs::{News, Urgency};

use super::*;
use crate::net::Bootstrap;

const CHUNKS: usize = 40;
const CHUNK_BYTES: usize = 30_000;

fn content(index: usize) -> Vec<u8> {
    let byte = |at: usize| (at * 7 + index * 31 + at / 256) as u8;
    (0..CHUNK_BYTES).map(byte).collect()
}

/// A node with a cache and the layer in it.
struct Host {
    node: Arc<Node>,
    layer: Arc<CachedLayer>,
    cache: Cache,
    directory: tempfile::TempDir,
}

impl Host {
    fn start(bootstrap: Option<&Host>) -> Host {
        let directory = tempfile::tempdir().unwrap();
        let config = pontoon_cache::Config {
            max_bytes: 0,
            free_bytes_min: 0,
        };
        let cache = Cache::open(&directory.path().join("cache"), config).unwrap();
        let chunk = |index: usize| Chunk {
            data_offset: (index * CHUNK_BYTES) as u64,
            length: CHUNK_BYTES as u32,
            blob_offset: (index * 100) as u64,
            blob_length: 100,
            inner_offset: 0,
            compression: Compression::Gzip,
            algorithm: Algorithm::Sha256,
            digest: Digest::of(&content(index)).bytes().try_into().unwrap(),
        };
        let size = (CHUNKS * CHUNK_BYTES) as u64;
        let table = ChunkTable::new(Compression::Gzip, size, (0..CHUNKS).map(chunk).collect());
        let key = Key::new(Digest::of(b"blob"), Digest::of(b"toc"));
        let layer = cache
            .create(&key, &table.unwrap(), Meta::default())
            .unwrap();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let others = bootstrap.map(|host| host.node.shared.discovery.listen());
        let settings = Settings {
            discovery: Config {
                bootstrap: others.into_iter().map(Bootstrap::Address).collect(),
                ..Config::new(loopback, 0)
            },
            https_listen: loopback,
            leech: false,
            zone: String::new(),
            upload_bytes_per_second: 0,
        };
        let admission = Admission::open(&crate::admission::Config::default()).unwrap();
        let node = Node::start(settings, Identity::ephemeral(), admission).unwrap();
        Host {
            node: Arc::new(node),
            layer,
            cache,
            directory,
        }
    }

    fn get(&self, chunks: impl IntoIterator<Item = usize>) {
        for index in chunks {
            let bytes = content(index);
            let digest = Digest::of(&bytes);
            self.layer
                .put(index, Verified::check(bytes, &digest).unwrap());
        }
    }

    /// Asks for chunks, and takes what comes until the end: which came, and whether any was late.
    fn take(
        &self,
        swarm: &Arc<dyn Swarm>,
        chunks: std::ops::Range<usize>,
    ) -> (BTreeSet<usize>, bool) {
        let mut news = swarm.chunks(vec![chunks], Urgency::Demand);
        let (mut came, mut late) = (BTreeSet::new(), false);
        let runtime = &self.node.shared.runtime;
        while let Some(news) = runtime.block_on(async {
            let next = tokio::time::timeout(Duration::from_secs(20), news.recv());
            next.await.expect("an answer ends")
        }) {
            match news {
                News::Chunk(index, bytes) => {
                    assert!(*bytes == content(index)[..]);
                    assert!(came.insert(index), "{index} came twice");
                }
                News::Late(_) => late = true,
            }
        }
        (came, late)
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn data_file(directory: &Path) -> PathBuf {
    let mut stack = vec![directory.to_owned()];
    while let Some(next) = stack.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => stack.push(path),
                false if path.ends_with("data") => return path,
                false => {}
            }
        }
    }
    panic!("there is no data file");
}

#[test]
fn chunks_come_from_whoever_has_them_and_from_nobody_else() {
    let first = Host::start(None);
    let second = Host::start(Some(&first));
    let third = Host::start(Some(&first));
    first.get(0..CHUNKS / 2);
    let _first = first.node.join(&first.layer);
    let swarm = third.node.join(&third.layer);
    eventually("a half is there", || {
        (0..CHUNKS / 2).all(|index| swarm.has(index))
    });
    assert!(!swarm.has(CHUNKS / 2));
    let (came, _) = third.take(&swarm, 0..CHUNKS);
    assert_eq!(came, (0..CHUNKS / 2).collect());
    // The others get it later, and say so at once.
    let _second = second.node.join(&second.layer);
    second.get(CHUNKS / 2..CHUNKS);
    eventually("the rest is there", || {
        (0..CHUNKS).all(|index| swarm.has(index))
    });
    let (came, _) = third.take(&swarm, CHUNKS / 2..CHUNKS);
    assert_eq!(came, (CHUNKS / 2..CHUNKS).collect());
    let status = third.node.status();
    let received = status.peers.iter().map(|peer| peer.received_bytes);
    assert_eq!(received.sum::<u64>(), (CHUNKS * CHUNK_BYTES) as u64);
    assert_eq!((status.asked.failures, status.asked.bans), (0, 0));
    assert_eq!(first.node.given().chunks, (CHUNKS / 2) as u64);
}

#[test]
fn nobody_is_asked_for_what_nobody_has() {
    let first = Host::start(None);
    let second = Host::start(Some(&first));
    let (_first, swarm) = (
        first.node.join(&first.layer),
        second.node.join(&second.layer),
    );
    let (came, late) = second.take(&swarm, 3..5);
    assert!(came.is_empty() && late);
    assert_eq!(second.node.asked().requests, 0);
}

#[test]
fn one_wrong_chunk_is_a_ban_and_nothing_of_it_comes_through() {
    let (liar, honest) = (Host::start(None), Host::start(None));
    let victim = Host::start(Some(&liar));
    liar.get(0..CHUNKS);
    liar.cache.flush().unwrap();
    let data = std::fs::OpenOptions::new()
        .write(true)
        .open(data_file(liar.directory.path()))
        .unwrap();
    for index in 0..CHUNKS {
        data.write_all_at(b"another byte", (index * CHUNK_BYTES) as u64 + 5)
            .unwrap();
    }
    let _liar = liar.node.join(&liar.layer);
    let swarm = victim.node.join(&victim.layer);
    eventually("the liar claims to have it", || swarm.has(0));
    let (came, late) = victim.take(&swarm, 0..4);
    assert!(came.is_empty() && late);
    assert_eq!(victim.node.asked().bans, 1);
    eventually("nobody has it", || !swarm.has(0));
    let banned = victim.node.status().peers;
    let banned = banned.iter().find(|peer| peer.banned_seconds.is_some());
    let reason = banned.and_then(|peer| peer.ban_reason.clone()).unwrap();
    assert!(reason.contains("digest"), "{reason}");
    // Somebody else has it too.
    honest.get(0..CHUNKS);
    let _honest = honest.node.join(&honest.layer);
    let place = honest.node.server().unwrap().address();
    let meeting = victim.node.shared.layers();
    meeting[0].meet(Peer {
        id: honest.node.id(),
        address: place,
    });
    drop(meeting);
    eventually("an honest node has it", || swarm.has(0));
    assert_eq!(victim.take(&swarm, 0..4).0, (0..4).collect());
}

#[test]
fn what_is_closed_is_not_given_and_forgotten() {
    let first = Host::start(None);
    let second = Host::start(Some(&first));
    first.get(0..CHUNKS);
    let open = first.node.join(&first.layer);
    let swarm = second.node.join(&second.layer);
    eventually("it is there", || swarm.has(0));
    drop(open);
    assert!(first.node.shared.layers().is_empty());
    let (came, late) = second.take(&swarm, 0..4);
    assert!(came.is_empty() && late);
    let again = second.node.join(&second.layer);
    assert!(Arc::ptr_eq(&swarm, &again), "one layer, one swarm");
    second.node.stop();
    second.node.stop();
}
