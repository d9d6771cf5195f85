//! Getting bytes, whatever the other side does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_layer::Digest;
use pontoon_source::{Anonymous, Blob, Config, Descriptor, Error, Joined, Registry, Urgency};

use crate::server::{Content, Piece, Reply, Server};
use crate::{anonymous, blob, manifest, quick, reference};

#[tokio::test]
async fn an_image_is_read_over_one_connection() {
    let (bytes, digest) = blob(300_000);
    let inner = manifest(&digest, bytes.len());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1,"platform":{{"os":"linux","architecture":"{}"}}}}]}}"#,
        Digest::of(&inner),
        quick().platform.architecture,
    );
    let content = Content::default()
        .blob(&bytes)
        .manifest("inner", &inner)
        .manifest("1", index.as_bytes());
    let server = Server::start(move |seen| content.answer(seen)).await;
    let registry = anonymous();
    let image = reference(&server, "team/app");
    let found = registry.resolve(&image).await.unwrap();
    assert_eq!(found, Digest::of(index.as_bytes()));
    let manifest = registry.manifest(&image, &found).await.unwrap();
    assert_eq!(manifest.digest, Digest::of(&inner));
    let layer = &manifest.layers[0];
    let read = registry.blob(&image, layer.digest.clone(), layer.size);
    assert_eq!(
        read.read(299_990..300_000, Urgency::Demand).await.unwrap(),
        bytes[299_990..]
    );
    assert_eq!(read.read(7..7, Urgency::Demand).await.unwrap().len(), 0);
    assert_eq!(
        read.read(0..300_000, Urgency::Background).await.unwrap(),
        bytes
    );
    let whole = registry.fetch(&image, layer, 1 << 20).await.unwrap();
    assert_eq!(&*whole, bytes);
    let mut stream = registry.download(&image, digest, layer.size);
    let mut streamed = Vec::new();
    while let Some(piece) = stream.next().await.unwrap() {
        streamed.extend_from_slice(&piece);
    }
    assert_eq!(streamed, bytes);
    assert_eq!(server.seen()[0].method, "HEAD");
    assert_eq!(server.seen().len(), 7);
    assert_eq!(server.connections(), 1);
    assert_eq!(registry.traffic().requests, 7);
    assert_eq!(registry.traffic().blob_bytes, 10 + 3 * 300_000);
}

#[tokio::test]
async fn several_blobs_are_read_as_one() {
    let (all, _) = blob(300_000);
    let parts = [&all[..100_000], &all[100_000..100_001], &all[100_001..]];
    let mut content = Content::default();
    for part in parts {
        content = content.blob(part);
    }
    let server = Server::start(move |seen| content.answer(seen)).await;
    let (registry, image) = (anonymous(), reference(&server, "team/app"));
    let blobs = parts.map(|part| registry.blob(&image, Digest::of(part), part.len() as u64));
    let joined = Joined::new(Digest::of(b"their bootstrap"), blobs.into()).unwrap();
    let inside = joined.read(5..99_999, Urgency::Demand).await.unwrap();
    assert_eq!(inside, all[5..99_999]);
    assert_eq!(server.seen().len(), 1);
    let across = joined.read(99_990..200_000, Urgency::Demand).await;
    assert_eq!(across.unwrap(), all[99_990..200_000]);
    assert_eq!(server.seen().len(), 4);
    let mut stream = joined.stream(0..300_000, Urgency::Background);
    let mut streamed = Vec::new();
    while let Some(piece) = stream.next().await.unwrap() {
        streamed.extend_from_slice(&piece);
    }
    assert_eq!(streamed, all);
    assert!(joined.last_progress().is_some());
}

#[tokio::test]
async fn a_registry_that_is_down_is_not_besieged() {
    const READERS: usize = 40;
    let (bytes, digest) = blob(100_000);
    let content = Content::default().blob(&bytes);
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let server = Server::start(move |seen| match down.load(Ordering::SeqCst) {
        true => Reply::new(503),
        false => content.answer(seen),
    })
    .await;
    let config = Config {
        attempts: 1_000_000,
        patience: Duration::from_secs(60),
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_secs(1),
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    let image = reference(&server, "team/app");
    let app = registry.blob(&image, digest, 100_000);
    let began = std::time::Instant::now();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..READERS {
        let app = Arc::clone(&app);
        readers.spawn(async move { app.read(0..1000, Urgency::Demand).await });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Each once or twice before it is known, then two a second, whoever it is.
    let most = 2 * READERS + began.elapsed().as_secs() as usize * 2 + 2;
    let asked = server.seen().len();
    assert!(asked <= most, "{asked} requests");
    is_down.store(false, Ordering::SeqCst);
    while let Some(read) = readers.join_next().await {
        assert_eq!(read.unwrap().unwrap(), bytes[..1000]);
    }
}

#[tokio::test]
async fn limits_hold_before_anything_is_read() {
    let (bytes, digest) = blob(1000);
    let content = Content::default()
        .blob(&bytes)
        .manifest("1", &vec![b' '; 5 << 20]);
    let server = Server::start(move |seen| content.answer(seen)).await;
    let registry = anonymous();
    let image = reference(&server, "app");
    let descriptor = Descriptor {
        media_type: String::new(),
        digest: digest.clone(),
        size: 1000,
        annotations: Default::default(),
    };
    let is_too_large = |error: Error| matches!(error, Error::TooLarge { .. });
    assert!(is_too_large(
        registry.fetch(&image, &descriptor, 999).await.unwrap_err()
    ));
    let app = registry.blob(&image, digest, 1000);
    assert!(is_too_large(
        app.read(0..1001, Urgency::Demand).await.unwrap_err()
    ));
    #[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
    let backwards = 10..5;
    assert!(is_too_large(
        app.read(backwards, Urgency::Demand).await.unwrap_err()
    ));
    assert_eq!(server.seen().len(), 0);
    let large = Digest::of(&vec![b' '; 5 << 20]);
    assert!(is_too_large(
        registry.manifest(&image, &large).await.unwrap_err()
    ));
}

#[tokio::test]
async fn a_tag_without_a_digest_is_read_to_know_it() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(200),
        _ => Reply::json("{}"),
    })
    .await;
    let found = anonymous()
        .resolve(&reference(&server, "app"))
        .await
        .unwrap();
    assert_eq!(found, Digest::of(b"{}"));
}

#[tokio::test]
async fn what_has_another_digest_or_size_is_refused() {
    let (bytes, digest) = blob(1000);
    let other = Digest::of(b"other");
    let content = Content::default().blob(&bytes);
    let server = Server::start(move |seen| match seen.path.contains("/manifests/") {
        true => Reply::json("{}"),
        false => content.answer(seen),
    })
    .await;
    let (registry, image) = (anonymous(), reference(&server, "app"));
    let error = registry.manifest(&image, &other).await.unwrap_err();
    assert!(
        matches!(error, Error::Mismatch { .. }) && !error.is_transient(),
        "{error:?}"
    );
    // The descriptor lied.
    for size in [999, 1001, 5000] {
        let app = registry.blob(&image, digest.clone(), size);
        for range in [size - 10..size, 0..size] {
            let error = app.read(range, Urgency::Demand).await.unwrap_err();
            assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
        }
    }
    let error = registry
        .blob(&image, other, 10)
        .read(0..10, Urgency::Demand)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn redirects_are_remembered_and_credentials_do_not_follow_them() {
    let (bytes, digest) = blob(1000);
    let content = Content::default().blob(&bytes);
    let current = Arc::new(AtomicUsize::new(1));
    let storage = {
        let current = Arc::clone(&current);
        Server::start(move |seen| {
            let signature = format!("signature={}", current.load(Ordering::SeqCst));
            match seen.query == signature {
                true => content.answer(seen),
                false => Reply::new(403).data("<Error>Request has expired</Error>"),
            }
        })
        .await
    };
    let server = {
        let (url, current, digest) = (storage.url(), Arc::clone(&current), digest.clone());
        Server::start(move |seen| match seen.header("authorization") {
            Some(_) => {
                let current = current.load(Ordering::SeqCst);
                Reply::redirect(format!("{url}/store/{digest}?signature={current}"))
            }
            None => Reply::new(401).header("www-authenticate", "Basic realm=x"),
        })
        .await
    };
    let registry = Registry::new(quick(), crate::users(&[("dave", "secret")]));
    let app = registry.blob(&reference(&server, "app"), digest, 1000);
    for start in [0, 10, 20] {
        let read = app.read(start..start + 10, Urgency::Demand).await.unwrap();
        assert_eq!(read, bytes[start as usize..][..10]);
    }
    // One without credentials, one with them; then the storage alone was asked.
    assert_eq!(server.seen().len(), 2);
    current.store(2, Ordering::SeqCst);
    assert_eq!(app.read(5..9, Urgency::Demand).await.unwrap(), bytes[5..9]);
    assert_eq!(server.seen().len(), 3);
    assert_eq!(storage.seen().len(), 5);
    assert!(
        storage
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn redirects_without_end_are_given_up() {
    let server = Server::start(|seen| Reply::redirect(seen.path.clone())).await;
    let (_, digest) = blob(10);
    let app = anonymous().blob(&reference(&server, "app"), digest, 10);
    let error = app.read(0..10, Urgency::Demand).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error:?}");
    assert!(server.seen().len() < 10);
}

/// A server whose first answer to a request for a blob is spoilt by `spoil`.
async fn spoilt(bytes: &[u8], spoil: impl Fn(Reply) -> Reply + Send + Sync + 'static) -> Server {
    let content = Content::default().blob(bytes);
    let is_first = AtomicBool::new(true);
    Server::start(move |seen| match is_first.swap(false, Ordering::SeqCst) {
        true => spoil(content.answer(seen)),
        false => content.answer(seen),
    })
    .await
}

#[tokio::test]
async fn a_transfer_that_stops_goes_on_where_it_stopped() {
    let (bytes, digest) = blob(500_000);
    for then in [Piece::Stall, Piece::Break] {
        let cut = then.clone();
        let server = spoilt(&bytes, move |reply| reply.cut(200_000, cut.clone())).await;
        let registry = anonymous();
        let app = registry.blob(&reference(&server, "app"), digest.clone(), 500_000);
        assert_eq!(
            app.read(0..400_000, Urgency::Demand).await.unwrap(),
            bytes[..400_000]
        );
        let ranges: Vec<_> = server
            .seen()
            .iter()
            .map(|seen| seen.header("range").unwrap().to_owned())
            .collect();
        assert_eq!(
            ranges,
            ["bytes=0-399999", "bytes=200000-399999"],
            "{then:?}"
        );
        assert_eq!(registry.traffic().resumed, 1);
    }
}

#[tokio::test]
async fn a_slow_reader_is_no_fault_of_the_server() {
    let (bytes, digest) = blob(500_000);
    let server = spoilt(&bytes, |reply| reply.cut(200_000, Piece::Break)).await;
    let config = Config {
        patience: Duration::from_millis(300),
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    let mut stream = registry.download(&reference(&server, "app"), digest, 500_000);
    let mut streamed = stream.next().await.unwrap().unwrap().to_vec();
    tokio::time::sleep(Duration::from_millis(500)).await;
    while let Some(piece) = stream.next().await.unwrap() {
        streamed.extend_from_slice(&piece);
    }
    assert_eq!(streamed, bytes);
}

#[tokio::test]
async fn errors_that_pass_are_waited_for() {
    let (bytes, digest) = blob(1000);
    for status in [429, 500, 502, 503, 504] {
        let server = spoilt(&bytes, move |_| {
            Reply::new(status).header("retry-after", if status == 429 { "1" } else { "0" })
        })
        .await;
        let registry = anonymous();
        let app = registry.blob(&reference(&server, "app"), digest.clone(), 1000);
        assert_eq!(app.read(0..10, Urgency::Demand).await.unwrap(), bytes[..10]);
        assert_eq!(server.seen().len(), 2);
        assert_eq!(registry.traffic().retries, 1);
    }
}

#[tokio::test]
async fn errors_that_do_not_pass_are_told_in_the_end() {
    let (_, digest) = blob(1000);
    let server =
        Server::start(|_| Reply::new(500).data("{\"errors\":[{\"message\":\"on fire\"}]}")).await;
    let config = Config {
        attempts: 3,
        ..quick()
    };
    let app = Registry::new(config, Arc::new(Anonymous)).blob(
        &reference(&server, "app"),
        digest.clone(),
        1000,
    );
    let error = app.read(0..10, Urgency::Demand).await.unwrap_err();
    assert!(
        error.is_transient() && error.to_string().contains("on fire"),
        "{error}"
    );
    assert_eq!(server.seen().len(), 3);
    // It says itself how long, which is longer than anybody wants to wait here.
    let server = Server::start(|_| Reply::new(429).header("retry-after", "3600")).await;
    let app = anonymous().blob(&reference(&server, "app"), digest, 1000);
    let error = app.read(0..10, Urgency::Demand).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert!(
        app.read(0..10, Urgency::Demand)
            .await
            .unwrap_err()
            .is_transient()
    );
    assert_eq!(server.seen().len(), 1);
    // Of no use to try again.
    let server = Server::start(|_| Reply::new(418).data("teapot")).await;
    let error = anonymous()
        .resolve(&reference(&server, "app"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Refused { status: 418, .. }),
        "{error:?}"
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_server_without_ranges_serves_beginnings_only() {
    let (bytes, digest) = blob(4 << 20);
    let content = Content::default().blob(&bytes);
    let server = Server::start(move |seen| {
        let mut seen = seen.clone();
        seen.headers.remove("range");
        content.answer(&seen)
    })
    .await;
    let registry = anonymous();
    let app = registry.blob(&reference(&server, "app"), digest, 4 << 20);
    assert_eq!(app.read(0..10, Urgency::Demand).await.unwrap(), bytes[..10]);
    assert_eq!(
        app.read(5000..6000, Urgency::Demand).await.unwrap(),
        bytes[5000..6000]
    );
    let end = (4 << 20) - 10..4 << 20;
    let error = app.read(end.clone(), Urgency::Demand).await.unwrap_err();
    assert!(
        matches!(error, Error::RangeUnsupported { .. }) && !error.is_transient(),
        "{error:?}"
    );
    // Known by now.
    let before = server.seen().len();
    app.read(end, Urgency::Demand).await.unwrap_err();
    assert_eq!(server.seen().len(), before);
    assert!(registry.traffic().blob_bytes < 2 << 20);
}

#[tokio::test]
async fn demand_does_not_wait_behind_what_nobody_waits_for() {
    let (bytes, digest) = blob(1_000_000);
    let content = Content::default().blob(&bytes);
    let server = Server::start(move |seen| {
        let reply = content.answer(seen);
        match seen.header("range").unwrap().ends_with("-999999") {
            true => reply.cut(10, Piece::Stall),
            false => reply,
        }
    })
    .await;
    let config = Config {
        background_per_host: 1,
        demand_per_host: 1,
        stall_timeout: Duration::from_secs(30),
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    let app = registry.blob(&reference(&server, "app"), digest, 1_000_000);
    let mut slow = app.stream(1..1_000_000, Urgency::Background);
    assert_eq!(slow.next().await.unwrap().unwrap().len(), 10);
    let behind = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { app.read(0..10, Urgency::Background).await })
    };
    assert_eq!(app.read(0..20, Urgency::Demand).await.unwrap(), bytes[..20]);
    assert!(!behind.is_finished());
    drop(slow);
    assert_eq!(behind.await.unwrap().unwrap(), bytes[..10]);
}
