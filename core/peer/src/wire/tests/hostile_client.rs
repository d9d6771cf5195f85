//! Clients that are not admitted, take every place, read slowly and ask nonsense: others are served as before.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fixture::*;
use crate::admission::{ClusterKey, Config, Token};
use crate::wire::{Client, ClientConfig, Error, Limits};
use crate::{Admission, Identity, Peer, tls};

const LENGTHS: [usize; 3] = [100_000, 5000, 70_000];

async fn connect(peer: &Peer, identity: &Identity) -> std::io::Result<TlsStream<TcpStream>> {
    let config = tls::client_config(identity, Some(peer.id)).unwrap();
    let tcp = TcpStream::connect(peer.address).await?;
    let name = ServerName::from(peer.address.ip());
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// Sends something, and reads what comes until the end.
async fn say(peer: &Peer, what: &[u8]) -> Vec<u8> {
    let talk = async {
        let mut stream = connect(peer, &Identity::ephemeral()).await?;
        // The server may close before all is sent.
        let _ = stream.write_all(what).await;
        let _ = stream.flush().await;
        let mut came = Vec::new();
        let mut part = vec![0; 65_536];
        loop {
            match timeout(Duration::from_secs(1), stream.read(&mut part)).await {
                Ok(Ok(read)) if read > 0 => came.extend(&part[..read]),
                _ => return Ok::<_, std::io::Error>(came),
            }
        }
    };
    timeout(LONG, talk).await.unwrap().unwrap()
}

async fn is_served(host: &Host, sample: &Sample) {
    let (came, ended) = timeout(LONG, all(&client(), &host.peer, &order(&host.store, 0..3)))
        .await
        .unwrap();
    ended.unwrap();
    assert!(
        came.into_iter()
            .enumerate()
            .all(|(index, chunk)| sample.verify(index, chunk))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_harms_nobody() {
    let sample = Sample::new(&LENGTHS, true);
    let host = Host::start(Store::full(&sample), Limits::default()).await;
    let layer = format!("/peer/v1/layers/{}.{}", sample.key.blob, sample.key.toc);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes();
    let four = ["HTTP/1.1 400", "HTTP/1.1 404"];
    for target in [
        "/",
        "*",
        "/v2/",
        "http://127.0.0.1:22/",
        "/peer/v1/layers/../../etc/passwd/have",
        &format!("{layer}/chunks/2-1"),
        &format!("{layer}/chunks/0-3"),
        &format!("{layer}/chunks/0-18446744073709551615"),
        &format!("{layer}/chunks/0-18446744073709551614"),
        &format!("{layer}/chunks/0-0,1-1"),
        &format!("{layer}/have?since=-1"),
        &format!("{layer}/have?since=1&since=2"),
    ] {
        let came = say(&host.peer, &get(target)).await;
        let came = String::from_utf8_lossy(&came);
        assert!(
            four.iter().any(|four| came.starts_with(four)),
            "{target}: {came}"
        );
    }
    for request in [
        format!("POST {layer}/have HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes(),
        format!("GET {layer}/have HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
            .into_bytes(),
        format!("GET {layer}/have HTTP/1.1\r\nhost: x\r\nx-token: zz\r\n\r\n").into_bytes(),
        [
            format!("GET {layer}/have HTTP/1.1\r\nx: ").into_bytes(),
            vec![b'a'; 64 << 10],
            b"\r\n\r\n".to_vec(),
        ]
        .concat(),
        [
            format!("GET {layer}/have HTTP/1.1\r\n").into_bytes(),
            b"x: y\r\n".repeat(1000),
            b"\r\n".to_vec(),
        ]
        .concat(),
        vec![0; 1000],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(),
    ] {
        let came = say(&host.peer, &request).await;
        let came = String::from_utf8_lossy(&came);
        assert!(came.is_empty() || came.starts_with("HTTP/1.1 4"), "{came}");
    }
    let counters = host.server.counters();
    assert!(counters.nonsense >= 12, "{counters:?}");
    assert_eq!((counters.haves, counters.uploads), (0, 0));
    is_served(&host, &sample).await;
    until(|| host.server.counters().connections <= 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_longer_than_it_may_be() {
    let sample = Sample::new(&LENGTHS, true);
    let limits = Limits {
        answer_bytes: 104_999,
        ..Limits::default()
    };
    let host = Host::start(Store::full(&sample), limits).await;
    let asked = |chunks| async {
        all(&client(), &host.peer, &order(&host.store, chunks))
            .await
            .1
    };
    let ended = asked(0..2).await;
    assert!(
        matches!(ended, Err(Error::Refused { status: 400, .. })),
        "{ended:?}"
    );
    asked(0..1).await.unwrap();
    asked(1..3).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_end_leave_room_for_others() {
    let sample = Sample::new(&LENGTHS, true);
    let limits = Limits {
        peer_connections: 4,
        strangers: 8,
        handshake: Duration::from_millis(500),
        idle: Duration::from_secs(2),
        ..Limits::default()
    };
    let host = Host::start(Store::full(&sample), limits).await;
    // Some that never shake hands.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(host.peer.address).await.unwrap());
    }
    until(|| host.server.counters().crowded_out >= 32).await;
    until(|| host.server.counters().failed_handshakes >= 8).await;
    // One that takes all it can get.
    let greedy = Identity::ephemeral();
    let mut streams = Vec::new();
    for _ in 0..10 {
        if let Ok(mut stream) = connect(&host.peer, &greedy).await {
            let _ = stream.write_all(b"GET /").await;
            streams.push(stream);
        }
    }
    until(|| host.server.counters().crowded_out >= 38).await;
    is_served(&host, &sample).await;
    // And what nobody uses is given up, headers that do not end too.
    until(|| host.server.counters().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_given_up() {
    let sample = Sample::new(&[8 << 20, 8 << 20], true);
    let limits = Limits {
        grace: Duration::from_millis(200),
        slowest: 16 << 20,
        ..Limits::default()
    };
    let host = Host::start(Store::full(&sample), limits).await;
    let mut stream = connect(&host.peer, &Identity::ephemeral()).await.unwrap();
    let target = crate::wire::request::Request::Chunks {
        key: sample.key.clone(),
        chunks: 0..2,
    };
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(|| host.server.counters().too_slow == 1).await;
    until(|| host.server.counters().connections == 0).await;
    // It had its place all the time, and now it is free.
    let (came, ended) = all(&client(), &host.peer, &order(&host.store, 0..2)).await;
    assert_eq!((came.len(), ended.is_ok()), (2, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_admitted_gets_nothing() {
    let directory = tempfile::TempDir::new().unwrap();
    let config = |name: &str, token: Option<Token>| {
        let token_file = token.map(|token| {
            let path = directory.path().join(name);
            std::fs::write(&path, token.to_string()).unwrap();
            path
        });
        Config {
            token_file,
            ..Config::default()
        }
    };
    let sample = Sample::new(&LENGTHS, true);
    let key = ClusterKey::open(&directory.path().join("cluster")).unwrap();
    let other_key = ClusterKey::open(&directory.path().join("other")).unwrap();
    let listed = Identity::ephemeral();
    let list = directory.path().join("list");
    std::fs::write(&list, format!("{}\n", listed.peer_id())).unwrap();
    let admission = Admission::open(&Config {
        allow_file: Some(list),
        cluster_key: Some(key.public()),
        token_file: None,
    });
    let host = Host::start_for(Store::full(&sample), Limits::default(), admission.unwrap()).await;
    let (one, late, forger) = (
        Identity::ephemeral(),
        Identity::ephemeral(),
        Identity::ephemeral(),
    );
    let soon = SystemTime::now() + Duration::from_secs(3600);
    let past = SystemTime::now() - Duration::from_secs(3600);
    let cases = [
        (&listed, None, true),
        (&one, Some(key.token(one.peer_id(), soon)), true),
        (&late, Some(key.token(late.peer_id(), past)), false),
        (
            &forger,
            Some(other_key.token(forger.peer_id(), soon)),
            false,
        ),
        (&forger, Some(key.token(one.peer_id(), soon)), false),
        (&forger, None, false),
    ];
    let mut refused = 0;
    for (at, (identity, token, is_admitted)) in cases.into_iter().enumerate() {
        let own = Admission::open(&config(&at.to_string(), token)).unwrap();
        let client = Client::new(ClientConfig::default(), identity.clone(), own);
        // Twice: what was looked at once is remembered.
        for _ in 0..2 {
            let (came, ended) = all(&client, &host.peer, &order(&host.store, 0..3)).await;
            match is_admitted {
                true => assert_eq!((came.len(), ended.is_ok()), (3, true)),
                false => {
                    assert!(came.is_empty());
                    assert!(
                        matches!(ended, Err(Error::Refused { status: 403, .. })),
                        "{ended:?}"
                    );
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(host.server.counters().refused, refused);
    assert_eq!(host.server.counters().uploads, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_admitted_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let (list, shown) = (
        directory.path().join("list"),
        directory.path().join("shown"),
    );
    let sample = Sample::new(&LENGTHS, true);
    let key = ClusterKey::open(&directory.path().join("cluster")).unwrap();
    let soon = SystemTime::now() + Duration::from_secs(3600);
    // Somebody else's, as long as it is not known who the server is.
    let token = |peer| key.token(peer, soon).to_string();
    std::fs::write(&shown, token(Identity::ephemeral().peer_id())).unwrap();
    let server = Admission::open(&Config {
        token_file: Some(shown.clone()),
        ..Config::default()
    });
    let host = Host::start_for(Store::full(&sample), Limits::default(), server.unwrap()).await;
    std::fs::write(&list, "").unwrap();
    let ask = |config: Config| {
        let admission = Admission::open(&config).unwrap();
        let client = Client::new(ClientConfig::default(), Identity::ephemeral(), admission);
        let order = order(&host.store, 0..3);
        let peer = host.peer;
        async move { all(&client, &peer, &order).await }
    };
    let by_list = || Config {
        allow_file: Some(list.clone()),
        ..Config::default()
    };
    let by_token = || Config {
        cluster_key: Some(key.public()),
        ..Config::default()
    };
    for config in [by_list(), by_token()] {
        let (came, ended) = ask(config).await;
        assert!(came.is_empty());
        assert!(matches!(ended, Err(Error::NotAdmitted { .. })), "{ended:?}");
    }
    std::fs::write(&list, host.peer.id.to_string()).unwrap();
    assert!(ask(by_list()).await.1.is_ok());
    std::fs::write(&shown, token(host.peer.id)).unwrap();
    let end = tokio::time::Instant::now() + LONG;
    // The server reads the file again within a second.
    while let (_, Err(error)) = ask(by_token()).await {
        assert!(tokio::time::Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_key_does_not_get_in() {
    let sample = Sample::new(&LENGTHS, true);
    let host = Host::start(Store::full(&sample), Limits::default()).await;
    let mut plain = TcpStream::connect(host.peer.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut came = Vec::new();
    let _ = timeout(LONG, plain.read_to_end(&mut came)).await.unwrap();
    assert!(!came.starts_with(b"HTTP"));
    until(|| host.server.counters().failed_handshakes == 1).await;
    is_served(&host, &sample).await;
}
