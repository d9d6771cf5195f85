//! Who we are: tokens, passwords, and what becomes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pontoon_source::{Credential, Error, Fixed, Reference, Registry, Secret, Urgency};

use crate::server::{Content, Piece, Reply, Seen, Server};
use crate::{anonymous, blob, quick, reference, users};

/// `dave:secret`.
const DAVE: &str = "Basic ZGF2ZTpzZWNyZXQ=";

/// A registry whose token server is in it. `token` answers it, and is given the number of the request.
async fn with_tokens(
    content: Content,
    is_good: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    token: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |seen| {
        if seen.path == "/token" {
            return token(seen, count.fetch_add(1, Ordering::SeqCst));
        }
        if is_good(seen) {
            return content.answer(seen);
        }
        let host = seen.header("host").unwrap();
        let repository = seen.path.split('/').nth(2).unwrap();
        Reply::new(401).data("{}").header(
            "www-authenticate",
            format!(
                r#"Bearer realm="http://{host}/token",service="a registry",scope="repository:{repository}:pull""#
            ),
        )
    })
    .await
}

fn is_bearer(seen: &Seen, token: &str) -> bool {
    seen.header("authorization") == Some(&format!("Bearer {token}"))
}

#[tokio::test]
async fn many_readers_take_one_token() {
    let (bytes, digest) = blob(100_000);
    let server = with_tokens(
        Content::default().blob(&bytes),
        |seen| is_bearer(seen, "good"),
        |seen, _| match seen.header("authorization") {
            Some(DAVE) => Reply::json(r#"{"token":"good","expires_in":300}"#),
            _ => Reply::new(401),
        },
    )
    .await;
    let registry = Registry::new(quick(), users(&[("dave", "secret")]));
    let app = registry.blob(&reference(&server, "app"), digest.clone(), 100_000);
    let reads = (0..20).map(|part| {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let start = part * 5_000;
            app.read(start..start + 5_000, Urgency::Demand)
                .await
                .unwrap()
        })
    });
    let reads: Vec<_> = reads.collect();
    for (part, read) in reads.into_iter().enumerate() {
        assert_eq!(read.await.unwrap(), bytes[part * 5_000..][..5_000]);
    }
    let tokens = server.seen_of("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].query,
        "service=a+registry&scope=repository%3Aapp%3Apull&account=dave"
    );
    // Another repository of a host that is known needs no refusal first.
    let before = server.seen().len();
    let other = registry.blob(&reference(&server, "other"), digest, 100_000);
    other.read(0..10, Urgency::Demand).await.unwrap();
    assert_eq!(server.seen().len() - before, 2);
    assert!(
        server.seen_of("/token")[1]
            .query
            .contains("repository%3Aother")
    );
}

#[tokio::test]
async fn a_token_that_was_revoked_is_replaced() {
    let (bytes, digest) = blob(100);
    let now = Arc::new(AtomicUsize::new(0));
    let server = {
        let (good, given) = (Arc::clone(&now), Arc::clone(&now));
        with_tokens(
            Content::default().blob(&bytes),
            move |seen| is_bearer(seen, &format!("t{}", good.load(Ordering::SeqCst))),
            move |_, _| {
                let current = given.load(Ordering::SeqCst);
                Reply::json(format!(
                    r#"{{"access_token":"t{current}","expires_in":3600}}"#
                ))
            },
        )
        .await
    };
    let registry = anonymous();
    let app = registry.blob(&reference(&server, "app"), digest, 100);
    for revoked in 0..3 {
        now.store(revoked, Ordering::SeqCst);
        assert_eq!(app.read(0..100, Urgency::Demand).await.unwrap(), bytes);
        assert_eq!(app.read(0..100, Urgency::Demand).await.unwrap(), bytes);
    }
    assert_eq!(registry.traffic().token_requests, 3);
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends() {
    let (bytes, digest) = blob(100);
    let server = with_tokens(
        Content::default().blob(&bytes),
        |seen| seen.header("authorization").is_some(),
        |_, count| Reply::json(format!(r#"{{"token":"t{count}","expires_in":1}}"#)),
    )
    .await;
    let app = anonymous().blob(&reference(&server, "app"), digest, 100);
    app.read(0..100, Urgency::Demand).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    app.read(0..100, Urgency::Demand).await.unwrap();
    assert!(is_bearer(server.seen_of("/blobs/").last().unwrap(), "t1"));
}

#[tokio::test]
async fn tokens_are_given_for_refresh_tokens_and_over_oauth_alone() {
    let (bytes, digest) = blob(100);
    for (secret, form) in [
        (
            Secret::IdentityToken("i&d".to_owned()),
            "grant_type=refresh_token&refresh_token=i%26d&service=a+registry&client_id=pontoon&scope=repository%3Aapp%3Apull",
        ),
        (
            Credential::password("u", "p", "").secret,
            "grant_type=password&username=u&password=p&service=a+registry&client_id=pontoon&scope=repository%3Aapp%3Apull",
        ),
    ] {
        let server = with_tokens(
            Content::default().blob(&bytes),
            |seen| is_bearer(seen, "good"),
            |seen, _| match seen.method.as_str() {
                "POST" => Reply::json(r#"{"access_token":"good"}"#),
                _ => Reply::new(405),
            },
        )
        .await;
        let credential = Credential {
            secret,
            origin: "test".to_owned(),
        };
        let fixed = Fixed::new(vec![(server.host().to_owned(), credential)]);
        let registry = Registry::new(quick(), Arc::new(fixed));
        let app = registry.blob(&reference(&server, "app"), digest.clone(), 100);
        assert_eq!(app.read(0..100, Urgency::Demand).await.unwrap(), bytes);
        assert_eq!(server.seen_of("/token").last().unwrap().body, form);
    }
}

#[tokio::test]
async fn user_and_password_are_shown_to_who_asks_for_them() {
    let (bytes, digest) = blob(100);
    let content = Content::default().blob(&bytes);
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some(DAVE) => content.answer(seen),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    // The first one is out of date.
    let registry = Registry::new(quick(), users(&[("dave", "old"), ("dave", "secret")]));
    let app = registry.blob(&reference(&server, "app"), digest.clone(), 100);
    for _ in 0..3 {
        assert_eq!(app.read(0..100, Urgency::Demand).await.unwrap(), bytes);
    }
    assert_eq!(server.seen().len(), 5);
    // Without any, it is not asked over and over.
    let app = anonymous().blob(&reference(&server, "app"), digest, 100);
    let error = app.read(0..100, Urgency::Demand).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }) && !error.is_transient());
    assert!(error.to_string().contains("no credentials"), "{error}");
}

#[tokio::test]
async fn an_old_login_does_not_hide_a_public_image() {
    let (bytes, digest) = blob(100);
    let server = with_tokens(
        Content::default().blob(&bytes),
        |seen| is_bearer(seen, "public"),
        |seen, _| match seen.header("authorization") {
            None => Reply::json(r#"{"token":"public"}"#),
            Some(_) => Reply::new(401).data(r#"{"details":"incorrect password"}"#),
        },
    )
    .await;
    let registry = Registry::new(quick(), users(&[("dave", "old")]));
    let app = registry.blob(&reference(&server, "app"), digest, 100);
    assert_eq!(app.read(0..100, Urgency::Demand).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_refusal_says_what_was_tried_and_is_not_repeated() {
    let (_, digest) = blob(100);
    let server = with_tokens(
        Content::default(),
        |_| false,
        |seen, _| match seen.header("authorization") {
            None => Reply::json(r#"{"token":"good for nothing"}"#),
            Some(DAVE) => Reply::new(401).data(r#"{"details":"incorrect password"}"#),
            Some(_) => Reply::json(r#"{"token":"not for this"}"#),
        },
    )
    .await;
    let registry = Registry::new(quick(), users(&[("dave", "secret"), ("erin", "secret")]));
    let app = registry.blob(&reference(&server, "app"), digest, 100);
    let error = app.read(0..100, Urgency::Demand).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    for said in [
        "the test's dave",
        "incorrect password",
        "the test's erin",
        "with no credentials",
    ] {
        assert!(error.to_string().contains(said), "{error}");
    }
    let before = server.seen_of("/token").len();
    app.read(0..100, Urgency::Demand).await.unwrap_err();
    assert_eq!(server.seen_of("/token").len(), before);
}

#[tokio::test]
async fn a_token_server_out_of_order_is_transient() {
    let (_, digest) = blob(100);
    let server = with_tokens(Content::default(), |_| false, |_, _| Reply::new(503)).await;
    let app = anonymous().blob(&reference(&server, "app"), digest, 100);
    let error = app.read(0..100, Urgency::Demand).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let reading = Reference::parse("127.0.0.1:1/app:1").unwrap();
    let error = anonymous().resolve(&reading).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn who_gives_up_does_not_take_the_others_along() {
    let (bytes, digest) = blob(100);
    let server = with_tokens(
        Content::default().blob(&bytes),
        |seen| is_bearer(seen, "good"),
        |_, count| match count {
            0 => Reply::json(r#"{"token":"good"}"#).cut(5, Piece::Stall),
            _ => Reply::json(r#"{"token":"good"}"#),
        },
    )
    .await;
    let config = pontoon_source::Config {
        stall_timeout: Duration::from_secs(60),
        ..quick()
    };
    let registry = Registry::new(config, users(&[]));
    let app = registry.blob(&reference(&server, "app"), digest, 100);
    let read = || {
        let app = Arc::clone(&app);
        tokio::spawn(async move { app.read(0..100, Urgency::Demand).await })
    };
    let (first, second) = (read(), read());
    while server.seen_of("/token").is_empty() || server.seen_of("/blobs/").len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Whichever of them asks, the other one waits for it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.seen_of("/token").len(), 1);
    first.abort();
    second.abort();
    assert_eq!(read().await.unwrap().unwrap(), bytes);
}
