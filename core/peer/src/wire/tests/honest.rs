//! Nodes that do as they should.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::fixture::*;
use crate::policy::{Bitmap, Class};
use crate::wire::{Client, ClientConfig, Error, Limits};
use crate::{Identity, Peer};

/// Small files, a hole between nearly all of them, and chunks that are read in several pieces.
const LENGTHS: [usize; 12] = [
    4096, 1, 5000, 300_000, 8192, 100, 700_000, 65_536, 262_144, 262_145, 3, 4096,
];

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_as_they_are() {
    for is_noise in [true, false] {
        let sample = Sample::new(&LENGTHS, is_noise);
        let host = Host::start(Store::full(&sample), Limits::default()).await;
        let client = client();
        for packed in [false, true] {
            for start in 0..LENGTHS.len() {
                for end in start + 1..=LENGTHS.len() {
                    let mut order = order(&host.store, start..end);
                    order.packed = packed;
                    let (came, ended) = all(&client, &host.peer, &order).await;
                    ended.unwrap();
                    assert_eq!(came.len(), end - start);
                    let right = came.iter().zip(&sample.contents[start..end]);
                    assert!(right.into_iter().all(|(came, right)| came[..] == right[..]));
                }
            }
        }
        let counters = host.server.counters();
        assert_eq!(
            (counters.uploads, counters.missing, counters.nonsense),
            (156, 0, 0)
        );
        // One after another: one connection does.
        assert_eq!(counters.connections, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_given() {
    let sample = Sample::new(&LENGTHS, true);
    let store = Store::new(&sample);
    store.put(&sample, 3);
    store.put(&sample, 4);
    let host = Host::start(store, Limits::default()).await;
    let client = client();
    for chunks in [2..4, 3..6, 0..12, 11..12] {
        let (came, ended) = all(&client, &host.peer, &order(&host.store, chunks)).await;
        assert!(came.is_empty());
        let Err(Error::Missing { generation, .. }) = ended else {
            panic!("{ended:?}");
        };
        assert_eq!(generation, Some(host.store.layer.generation()));
    }
    let (came, ended) = all(&client, &host.peer, &order(&host.store, 3..5)).await;
    assert_eq!((came.len(), ended.is_ok()), (2, true));
    let mut other = order(&host.store, 3..5);
    other.key.blob = other.key.toc.clone();
    let (_, ended) = all(&client, &host.peer, &other).await;
    assert!(
        matches!(
            ended,
            Err(Error::Missing {
                generation: None,
                ..
            })
        ),
        "{ended:?}"
    );
    assert_eq!(host.server.counters().missing, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn have_tells_what_is_there_and_what_comes() {
    let sample = Sample::new(&LENGTHS, true);
    let host = Host::start(Store::new(&sample), Limits::default()).await;
    let (client, chunks) = (client(), LENGTHS.len());
    let ask = |since| client.have(&host.peer, &sample.key, since, chunks);
    let first = ask(None).await.unwrap();
    assert_eq!((first.zone.as_str(), first.peers.len()), ("here", 1));
    let told = first.told.unwrap();
    assert_eq!(told.chunks, Bitmap::new(chunks));
    // It has just begun, so there is something to wait for.
    assert!(told.active && !told.complete);
    let mut waiting = Box::pin(ask(Some(told.generation)));
    assert!(
        timeout(Duration::from_millis(100), &mut waiting)
            .await
            .is_err()
    );
    host.store.put(&sample, 5);
    let told = timeout(LONG, waiting).await.unwrap().unwrap().told.unwrap();
    assert!(told.active && told.chunks.get(5) && told.chunks.count() == 1);
    for index in (0..chunks).filter(|index| *index != 5) {
        host.store.put(&sample, index);
    }
    let told = ask(Some(told.generation)).await.unwrap().told.unwrap();
    assert!(told.complete && !told.active);
    assert_eq!(told.chunks, Bitmap::full(chunks));
    // Somebody whose table has other chunks does not believe it.
    let other = client.have(&host.peer, &sample.key, None, chunks + 1).await;
    assert!(matches!(other, Err(Error::Nonsense { .. })), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_serves_is_known_by_it() {
    let sample = Sample::new(&LENGTHS, true);
    let host = Host::start(Store::new(&sample), Limits::default()).await;
    let identity = Identity::ephemeral();
    let id = identity.peer_id();
    let config = ClientConfig {
        port: Some(7002),
        ..ClientConfig::default()
    };
    for client in [Client::new(config, identity, open()), client()] {
        client
            .have(&host.peer, &sample.key, None, LENGTHS.len())
            .await
            .unwrap();
    }
    let address = "127.0.0.1:7002".parse().unwrap();
    assert_eq!(*host.asked.lock().unwrap(), [Peer { id, address }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn have_answers_at_last_that_nothing_has_changed() {
    let sample = Sample::new(&LENGTHS, true);
    let limits = Limits {
        park: Duration::from_millis(50),
        ..Limits::default()
    };
    let host = Host::start(Store::new(&sample), limits).await;
    let client = client();
    let generation = host.store.layer.generation();
    let same = client.have(&host.peer, &sample.key, Some(generation), LENGTHS.len());
    assert_eq!(timeout(LONG, same).await.unwrap().unwrap().told, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_room_for_so_many_only() {
    let sample = Sample::new(&[1 << 20; 4], true);
    let limits = Limits {
        uploads: 1,
        peer_uploads: 1,
        queued: 1,
        ..Limits::default()
    };
    let host = Host::start(Store::full(&sample), limits).await;
    let client = client();
    // Whoever does not read keeps its place: more than fits into the buffers in between.
    let order = order(&host.store, 0..4);
    let mut held = Vec::new();
    let mut busy = 0;
    for _ in 0..8 {
        let asked = timeout(
            Duration::from_millis(300),
            client.chunks(&host.peer, &order),
        )
        .await;
        match asked {
            Ok(Ok(chunks)) => held.push(chunks),
            Ok(Err(Error::Busy { retry_after, .. })) => {
                assert!(retry_after >= Duration::from_millis(20));
                busy += 1;
            }
            Ok(Err(error)) => panic!("{error}"),
            // It waits for its turn.
            Err(_) => {}
        }
    }
    assert!(
        !held.is_empty() && host.server.counters().busy == busy,
        "{busy}"
    );
    drop(held);
    let (came, ended) = all(&client, &host.peer, &order).await;
    assert_eq!((came.len(), ended.is_ok()), (4, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_restarts_is_asked_on_a_new_connection() {
    let sample = Sample::new(&LENGTHS, true);
    let host = Host::start(
        Store::full(&sample),
        Limits {
            idle: Duration::from_millis(300),
            ..Limits::default()
        },
    )
    .await;
    let client = client();
    for _ in 0..3 {
        let (came, ended) = all(&client, &host.peer, &order(&host.store, 0..12)).await;
        assert_eq!((came.len(), ended.is_ok()), (12, true));
        // The server gives connections up at once that nobody uses.
        until(|| host.server.counters().connections == 0).await;
    }
    let peer = host.peer;
    let order = order(&host.store, 0..2);
    drop(host);
    let (_, ended) = all(&client, &peer, &order).await;
    assert!(matches!(ended, Err(Error::Connect { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_given_as_fast_as_they_may_be() {
    let sample = Sample::new(&[200_000; 10], true);
    let limits = Limits {
        bytes_per_second: Some(2_000_000),
        ..Limits::default()
    };
    let host = Host::start(Store::full(&sample), limits).await;
    let begun = Instant::now();
    let (came, ended) = all(&client(), &host.peer, &order(&host.store, 0..10)).await;
    assert_eq!((came.len(), ended.is_ok()), (10, true));
    // Two million bytes, of which not half may come in the first 300 ms.
    assert!(begun.elapsed() > Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_any_more_is_not_given() {
    let sample = Sample::new(&[200_000; 10], true);
    let limits = Limits {
        bytes_per_second: Some(400_000),
        ..Limits::default()
    };
    let host = Host::start(Store::full(&sample), limits).await;
    let mut order = order(&host.store, 0..10);
    order.class = Class::Prefetch;
    order.deadline = Instant::now() + Duration::from_millis(500);
    let (came, ended) = timeout(LONG, all(&client(), &host.peer, &order))
        .await
        .unwrap();
    assert!(came.len() < 10 && ended.is_err());
    assert!(
        came.into_iter()
            .enumerate()
            .all(|(index, chunk)| sample.verify(index, chunk))
    );
    until(|| host.server.counters().connections == 0).await;
}
