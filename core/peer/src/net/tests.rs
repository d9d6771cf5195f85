//! Real nodes in one process, over TCP on the loopback.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use pontoon_layer::Digest;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use super::*;
use crate::admission::{self, ClusterKey};

/// Everything here is over in a fraction of that, unless the machine has other things to do: unoptimized, the nodes of the large
/// swarm are a minute of work by themselves.
const PATIENCE: Duration = Duration::from_secs(300);

const TTL: Duration = Duration::from_secs(900);

fn layer(number: usize) -> Key {
    let digest = |what: &str| Digest::of(format!("{what} {number}").as_bytes());
    Key::new(digest("blob"), digest("table"))
}

/// What is not listened on by anybody: nobody fetches anything here.
const HTTPS_PORT: u16 = 7002;

fn config(bootstrap: &[&Discovery]) -> Config {
    let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), HTTPS_PORT);
    config.bootstrap = bootstrap
        .iter()
        .map(|node| Bootstrap::Address(node.listen()))
        .collect();
    config
}

fn open() -> Admission {
    Admission::open(&admission::Config::default()).unwrap()
}

async fn start(config: Config, identity: Identity, admission: Admission) -> Discovery {
    let (events, _) = mpsc::channel(1);
    Discovery::start(config, identity, admission, events)
        .await
        .unwrap()
}

/// A node that finds the swarm by these.
async fn node(bootstrap: &[&Discovery]) -> Discovery {
    start(config(bootstrap), Identity::ephemeral(), open()).await
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn find(node: &Discovery, layer: &Key) -> HashSet<Peer> {
    let mut found = node.peers(layer);
    let mut peers = HashSet::new();
    while let Some(peer) = found.recv().await {
        peers.insert(peer);
    }
    peers
}

/// Waits until the node finds these, and no others.
async fn finds(node: &Discovery, layer: &Key, wanted: &[&Discovery]) {
    let wanted: HashSet<Peer> = wanted
        .iter()
        .map(|node| Peer {
            id: node.peer_id(),
            address: SocketAddr::from(([127, 0, 0, 1], HTTPS_PORT)),
        })
        .collect();
    let since = std::time::Instant::now();
    loop {
        let found = find(node, layer).await;
        if found == wanted {
            return;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "found {found:?} instead of {wanted:?}: {:?}",
            node.health()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn knows(node: &Discovery, other: &Discovery) -> bool {
    let known = node.known();
    known
        .iter()
        .any(|peer| peer.id == other.peer_id() && peer.connected)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_announces_a_layer_is_found_and_who_withdraws_it_is_not() {
    let a = node(&[]).await;
    let (b, c) = (node(&[&a]).await, node(&[&a]).await);
    b.announce(&layer(1));
    c.announce(&layer(1));
    finds(&a, &layer(1), &[&b, &c]).await;
    finds(&b, &layer(1), &[&c]).await;
    assert!(find(&a, &layer(2)).await.is_empty());
    b.withdraw(&layer(1));
    eventually("withdrawing", || b.health().announced == 0).await;
    // Who asks now for the first time is not told of it any more; nor are the others, when what they found is old.
    let d = node(&[&a]).await;
    finds(&d, &layer(1), &[&c]).await;
    finds(&a, &layer(1), &[&c]).await;
    c.stop().await;
    finds(&d, &layer(1), &[]).await;
    eventually("forgetting it", || a.health().keys == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_was_announced_before_there_was_anybody_is_told_to_the_first_one() {
    let a = node(&[]).await;
    a.announce(&layer(1));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let b = node(&[&a]).await;
    finds(&b, &layer(1), &[&a]).await;
    // Both keep it now: a says so itself as well.
    eventually("telling it", || b.health().keys == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_secret_a_layer_has_another_name() {
    let a = node(&[]).await;
    a.announce(&layer(1));
    let mut other = config(&[&a]);
    other.secret = b"secret".to_vec();
    let b = start(other, Identity::ephemeral(), open()).await;
    eventually("telling it", || b.health().keys == 1).await;
    assert!(find(&b, &layer(1)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_admitted_is_refused_and_nothing_of_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let key = ClusterKey::open(&directory.path().join("cluster")).unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let member = |identity: &Identity, expires: SystemTime| {
        let file = directory.path().join(identity.peer_id().to_string());
        let token = key.token(identity.peer_id(), expires);
        fs::write(&file, token.to_string()).unwrap();
        Admission::open(&admission::Config {
            cluster_key: Some(key.public()),
            token_file: Some(file),
            ..admission::Config::default()
        })
        .unwrap()
    };
    let identities = [Identity::ephemeral(), Identity::ephemeral()];
    let a = start(
        config(&[]),
        identities[0].clone(),
        member(&identities[0], later),
    )
    .await;
    a.announce(&layer(1));
    // No token, and an old one. Both would take part with anybody.
    let without = node(&[&a]).await;
    let old = Identity::ephemeral();
    let past = SystemTime::now() - Duration::from_secs(1);
    let admission = member(&old, past);
    let old = start(config(&[&a]), old, admission).await;
    for stranger in [&without, &old] {
        stranger.announce(&layer(2));
        eventually("a refusal", || stranger.health().refused_us > 0).await;
        assert!(find(stranger, &layer(1)).await.is_empty());
    }
    // A member comes in meanwhile.
    let admission = member(&identities[1], later);
    let b = start(config(&[&a]), identities[1].clone(), admission).await;
    finds(&b, &layer(1), &[&a]).await;
    assert!(find(&b, &layer(2)).await.is_empty() && find(&a, &layer(2)).await.is_empty());
    assert!(a.health().refused >= 2);
    for node in [&a, &b] {
        let strangers = [&without, &old].map(|node| node.peer_id());
        let known = node.known();
        assert!(known.iter().all(|peer| !strangers.contains(&peer.id)));
        eventually("counting", || node.health().keys == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_taken_off_the_list_is_disconnected() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("list");
    let (a, b) = (Identity::ephemeral(), Identity::ephemeral());
    fs::write(&list, format!("{}\n{}\n", a.peer_id(), b.peer_id())).unwrap();
    let listed = |list: &Path| {
        Admission::open(&admission::Config {
            allow_file: Some(list.to_owned()),
            ..admission::Config::default()
        })
        .unwrap()
    };
    let a = start(config(&[]), a, listed(&list)).await;
    let b = start(config(&[&a]), b, open()).await;
    b.announce(&layer(1));
    finds(&a, &layer(1), &[&b]).await;
    fs::write(&list, format!("{}\n", a.peer_id())).unwrap();
    eventually("disconnecting", || !knows(&a, &b)).await;
    finds(&a, &layer(1), &[]).await;
    find(&b, &layer(9)).await;
    eventually("a refusal", || b.health().refused_us > 0).await;
    assert_eq!(a.health().known, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_banned_is_gone_until_the_ban_ends() {
    let a = node(&[]).await;
    let (b, c) = (node(&[&a]).await, node(&[&a]).await);
    b.announce(&layer(1));
    c.announce(&layer(1));
    finds(&a, &layer(1), &[&b, &c]).await;
    a.ban(b.peer_id(), Duration::from_secs(4));
    assert!(a.banned(&b.peer_id()).is_some());
    // Also what was found before is not told any more.
    eventually("disconnecting", || !knows(&a, &b)).await;
    finds(&a, &layer(1), &[&c]).await;
    // It comes back as soon as it has something to ask, or to tell.
    find(&b, &layer(9)).await;
    eventually("a refusal", || a.health().refused > 0).await;
    assert!(a.known().iter().any(|peer| peer.banned.is_some()));
    finds(&a, &layer(1), &[&b, &c]).await;
    assert_eq!(a.banned(&b.peer_id()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_restarts_is_the_same_peer_and_remembers_others() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    let a = node(&[]).await;
    let mut first = config(&[&a]);
    first.remembered = Some(directory.path().join("peers"));
    let mut again = first.clone();
    again.bootstrap.clear();
    let b = start(first, Identity::open(&key).unwrap(), open()).await;
    eventually("meeting", || knows(&a, &b)).await;
    b.announce(&layer(1));
    finds(&a, &layer(1), &[&b]).await;
    b.stop().await;
    finds(&a, &layer(1), &[]).await;
    let b_again = start(again, Identity::open(&key).unwrap(), open()).await;
    assert_eq!(b_again.peer_id(), b.peer_id());
    b_again.announce(&layer(1));
    finds(&a, &layer(1), &[&b_again]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_finds_the_swarm_when_it_comes_up() {
    let a = node(&[]).await;
    let address = a.listen();
    assert!(a.health().running);
    a.stop().await;
    eventually("ending", || !a.health().running).await;
    drop(a);
    let mut waiting = config(&[]);
    waiting.bootstrap = vec![format!("dns:localhost:{}", address.port()).parse().unwrap()];
    let b = start(waiting, Identity::ephemeral(), open()).await;
    eventually("trying", || b.health().failed > 0).await;
    assert_eq!(b.health().known, 0);
    let mut late = config(&[]);
    late.listen = address;
    let a = start(late, Identity::ephemeral(), open()).await;
    eventually("meeting", || knows(&b, &a)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_an_error() {
    let a = node(&[]).await;
    let mut taken = config(&[]);
    taken.listen = a.listen();
    let (events, _) = mpsc::channel(1);
    let error = Discovery::start(taken, Identity::ephemeral(), open(), events)
        .await
        .unwrap_err();
    assert!(matches!(error, crate::Error::Listen { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_leaves_room_for_others() {
    let a = node(&[]).await;
    let mut flood = Vec::new();
    for _ in 0..400 {
        // From an address of its own, as from another machine; it says nothing, so it is not admitted.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.66:0".parse().unwrap()).unwrap();
        let stream = tokio::time::timeout(PATIENCE, socket.connect(a.listen()));
        flood.push(stream.await.unwrap().unwrap());
    }
    eventually("refusing", || a.health().too_many >= 400 - 64).await;
    let b = node(&[&a]).await;
    eventually("meeting", || knows(&a, &b)).await;
    // Nobody holds its place for longer than a hello may take.
    for mut stream in flood {
        let mut byte = [0; 1];
        let end = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await;
        assert!(matches!(end.unwrap(), Ok(0) | Err(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_records_takes_the_share_of_one_peer() {
    let limits = Limits {
        per_provider: 100,
        ..Limits::new(TTL)
    };
    let (events, _) = mpsc::channel(1);
    let a = Discovery::start_within(config(&[]), limits, Identity::ephemeral(), open(), events);
    let a = a.await.unwrap();
    let hostile = node(&[&a]).await;
    eventually("meeting", || knows(&a, &hostile)).await;
    for number in 0..1000 {
        hostile.announce(&layer(number));
    }
    eventually("refusing", || a.health().records_refused >= 900).await;
    let b = node(&[&a]).await;
    b.announce(&layer(5000));
    a.announce(&layer(5001));
    finds(&a, &layer(5000), &[&b]).await;
    finds(&b, &layer(5001), &[&a]).await;
    eventually("counting", || a.health().records >= 102).await;
    assert!(a.health().records <= 102, "{:?}", a.health());
}

/// Somebody who was admitted, speaks kad, and keeps to no limit.
async fn hostile(target: &Discovery) {
    use libp2p_core::Transport;
    use libp2p_kad::store::{MemoryStore, MemoryStoreConfig};
    use libp2p_kad::{self as kad, Quorum, Record, RecordKey};
    use libp2p_swarm::dial_opts::{DialOpts, PeerCondition};

    let identity = Identity::ephemeral();
    let shared = Arc::new(Shared::new(1, None));
    let gate = door::Gate::new(&identity, open(), shared).unwrap();
    let everything = MemoryStoreConfig {
        max_provided_keys: usize::MAX,
        max_records: usize::MAX,
        ..MemoryStoreConfig::default()
    };
    let store = MemoryStore::with_config(identity.peer_id(), everything);
    let protocol = libp2p_swarm::StreamProtocol::new("/pontoon/kad/1");
    let kad = kad::Behaviour::with_config(identity.peer_id(), store, kad::Config::new(protocol));
    let mut swarm = libp2p_swarm::Swarm::new(
        door::Door::new(gate).boxed(),
        kad,
        identity.peer_id(),
        libp2p_swarm::Config::with_tokio_executor(),
    );
    let address: libp2p_core::Multiaddr = contact::Place {
        ip: target.listen().ip(),
        port: target.listen().port(),
        https_port: None,
    }
    .multiaddr();
    for _ in 0..20 {
        let options = DialOpts::peer_id(target.peer_id())
            .condition(PeerCondition::Always)
            .addresses(vec![address.clone()]);
        swarm.dial(options.build()).unwrap();
    }
    swarm
        .behaviour_mut()
        .add_address(&target.peer_id(), address);
    for number in 0..500_usize {
        let key = match number % 2 {
            0 => RecordKey::new(&layer(number).blob.as_sha256().unwrap()),
            _ => RecordKey::new(&number.to_be_bytes()),
        };
        let kad = swarm.behaviour_mut();
        kad.start_providing(key.clone()).unwrap();
        kad.put_record(Record::new(key, vec![7; 4096]), Quorum::One)
            .unwrap();
    }
    loop {
        futures_util::StreamExt::select_next_some(&mut swarm).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_peer_gets_its_share_of_connections_and_records() {
    let limits = Limits {
        per_provider: 100,
        ..Limits::new(TTL)
    };
    let (events, _) = mpsc::channel(1);
    let a = Discovery::start_within(config(&[]), limits, Identity::ephemeral(), open(), events);
    let a = a.await.unwrap();
    tokio::select! {
        () = hostile(&a) => {}
        // Of 250 keys that can be kept 150 are too many; 250 are no keys.
        () = eventually("refusing", || a.health().records_refused >= 400) => {}
    }
    eventually("counting", || a.health().records == 100).await;
    assert!(a.health().too_many >= 17, "{:?}", a.health());
    let connections = a
        .shared
        .contacts()
        .iter()
        .map(|(_, peer)| peer.connections)
        .sum::<usize>();
    assert!(connections <= 3, "{connections}");
    let b = node(&[&a]).await;
    b.announce(&layer(5000));
    finds(&a, &layer(5000), &[&b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_network_nodes_find_each_other_by_multicast() {
    if std::env::var_os("PONTOON_FULL").is_none() {
        // Not every machine that tests run on has a network with multicast.
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("list");
    let identities = [Identity::ephemeral(), Identity::ephemeral()];
    let ids = identities
        .each_ref()
        .map(|identity| identity.peer_id().to_string());
    fs::write(&list, ids.join("\n")).unwrap();
    let mut nodes = Vec::new();
    for identity in identities {
        let mut config = Config::new(SocketAddr::from(([0, 0, 0, 0], 0)), HTTPS_PORT);
        config.mdns = true;
        let admission = Admission::open(&admission::Config {
            allow_file: Some(list.clone()),
            ..admission::Config::default()
        });
        nodes.push(start(config, identity, admission.unwrap()).await);
    }
    eventually("meeting", || knows(&nodes[0], &nodes[1])).await;
    nodes[0].announce(&layer(1));
    eventually("finding", || nodes[1].health().keys == 1).await;
    let found = find(&nodes[1], &layer(1)).await;
    assert_eq!(found.iter().next().unwrap().id, nodes[0].peer_id());
}

/// More nodes than one answer has room for; with `PONTOON_FULL=1` more than one bucket of a routing table has. Unoptimized, meeting
/// costs these a second of a core each.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_swarm_of_many_every_layer_is_found() {
    let full = std::env::var_os("PONTOON_FULL").is_some();
    let count = if full { 64 } else { 24 };
    let first = node(&[]).await;
    let mut nodes = vec![first];
    while nodes.len() < count {
        // By any of those that are there, as the addresses of a headless service come.
        let some = &nodes[rand::random_range(0..nodes.len())];
        let next = node(&[some, &nodes[0]]).await;
        nodes.push(next);
    }
    for node in &nodes {
        eventually("meeting", || node.health().known > 12).await;
    }
    // A few at a time: all of them at once would be a test of the machine.
    for (round, some) in nodes.chunks(8).enumerate() {
        let number = |at: usize| 8 * round + at;
        for (at, node) in some.iter().enumerate() {
            node.announce(&layer(number(at)));
            if number(at) < 40 {
                node.announce(&layer(1000));
            }
        }
        for (at, node) in some.iter().enumerate() {
            let other = &nodes[(number(at) + count / 2) % count];
            finds(other, &layer(number(at)), &[node]).await;
        }
    }
    // Of the one that many have, more than one node's answer has room for.
    let found = find(&nodes[count - 1], &layer(1000)).await;
    assert!(found.len() > 20, "{}", found.len());
}
