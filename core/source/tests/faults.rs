//! Every way in which a registry can fail: what is read in the end is right, or the error says what it is; and it was
//! counted with its reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_source::{Anonymous, Config, Error, Registry, Urgency};

use crate::server::{Content, Piece, Reply, Seen, Server};
use crate::{blob, quick, reference};

const SIZE: usize = 300_000;

/// What is asked for.
const RANGE: std::ops::Range<u64> = 50_000..250_000;

/// Spoils an answer.
type Spoil = fn(Reply) -> Reply;

fn with_range(reply: Reply, range: &str) -> Reply {
    let mut reply = reply;
    reply.headers.retain(|(name, _)| *name != "content-range");
    match range {
        "" => reply,
        range => reply.header("content-range", range),
    }
}

fn status(status: u16) -> Reply {
    Reply::new(status)
        .header("retry-after", "0")
        .data("{\"errors\":[{\"message\":\"no\"}]}")
}

/// A registry that spoils so many answers for the blob, then behaves.
async fn spoilt(bytes: &[u8], spoil: Spoil, times: usize) -> (Server, Registry) {
    let content = Content::default().blob(bytes);
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |seen: &Seen| {
        let reply = content.answer(seen);
        match asked.fetch_add(1, Ordering::SeqCst) < times {
            true => spoil(reply),
            false => reply,
        }
    })
    .await;
    let config = Config {
        stall_timeout: Duration::from_millis(500),
        attempts: 3,
        ..quick()
    };
    (server, Registry::new(config, Arc::new(Anonymous)))
}

/// What passes: by name.
const PASSING: [(&str, Spoil); 10] = [
    ("429", |_| status(429)),
    ("500", |_| status(500)),
    ("502", |_| status(502)),
    ("503", |_| status(503)),
    ("504", |_| status(504)),
    ("reset before the first byte", |reply| {
        reply.cut(0, Piece::Break)
    }),
    ("reset amid", |reply| reply.cut(70_000, Piece::Break)),
    ("silence amid", |reply| reply.cut(70_000, Piece::Stall)),
    ("a drip", |reply| reply.cut(70_000, Piece::Drip)),
    ("silence from the first byte on", |reply| {
        reply.cut(0, Piece::Stall)
    }),
];

#[tokio::test]
async fn what_passes_ends_in_right_bytes_and_is_counted() {
    let (bytes, digest) = blob(SIZE);
    let expected = &bytes[RANGE.start as usize..RANGE.end as usize];
    for (name, spoil) in PASSING {
        // A drip gives bytes of its own, which nobody can tell here: chunks have digests for that.
        let is_drip = name == "a drip";
        let (server, registry) = spoilt(&bytes, spoil, 2).await;
        let app = registry.blob(&reference(&server, "app"), digest.clone(), SIZE as u64);
        let read = app.read(RANGE, Urgency::Demand).await;
        let read = read.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.len(), expected.len(), "{name}");
        assert!(is_drip || read == expected, "{name}: wrong bytes");
        let failures = registry.failures();
        assert_eq!(
            failures.get("unavailable"),
            Some(&2),
            "{name}: {failures:?}"
        );
        assert_eq!(failures.len(), 1, "{name}: {failures:?}");
        // What came before it broke is not asked for again.
        assert_eq!(server.seen().len(), 3, "{name}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_told_as_what_it_is_and_counted() {
    let (bytes, digest) = blob(SIZE);
    let rows: [(&str, Spoil, &str); 9] = [
        ("401", |_| status(401), "unauthorized"),
        ("403", |_| status(403), "unauthorized"),
        ("404", |_| status(404), "not-found"),
        ("416", |_| status(416), "mismatch"),
        ("418", |_| status(418), "refused"),
        (
            "another range",
            |reply| with_range(reply, "bytes 0-199999/300000"),
            "malformed",
        ),
        ("no range", |reply| with_range(reply, ""), "malformed"),
        (
            "another size",
            |reply| with_range(reply, "bytes 50000-249999/299999"),
            "mismatch",
        ),
        ("always 500", |_| status(500), "unavailable"),
    ];
    for (name, spoil, kind) in rows {
        let (server, registry) = spoilt(&bytes, spoil, usize::MAX).await;
        let app = registry.blob(&reference(&server, "app"), digest.clone(), SIZE as u64);
        let error = app.read(RANGE, Urgency::Demand).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        let failures = registry.failures();
        assert!(failures.get(kind) >= Some(&1), "{name}: {failures:?}");
        assert!(server.seen().len() <= 4, "{name}");
    }
}

#[tokio::test]
async fn a_registry_that_is_gone_is_given_up_after_a_while() {
    let (bytes, digest) = blob(SIZE);
    let (server, registry) = spoilt(&bytes, |reply| reply, 0).await;
    let app = registry.blob(&reference(&server, "app"), digest, SIZE as u64);
    app.read(0..10, Urgency::Demand).await.unwrap();
    // Nobody listens there any more.
    drop(server);
    let error = app.read(RANGE, Urgency::Demand).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(registry.failures().get("unavailable") >= Some(&1));
}
