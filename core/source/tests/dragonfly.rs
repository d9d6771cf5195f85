//! A dfdaemon of Dragonfly in front of the registry. Its answers here are those of `dragonfly-client/src/proxy` (1.5, August
//! 2026), read there: a real one needs a scheduler, and does not build in the time that a test has.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_layer::Digest;
use pontoon_source::{
    Anonymous, Config, Dragonfly, DragonflyAddress, DragonflyCredentials, DragonflyMode, Error,
    Reference, Registry, Urgency,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Content, Reply, Seen, Server};
use crate::tls::Authority;
use crate::{blob, manifest, quick, reference, users};

const SIZE: usize = 300_000;

fn through(dfdaemon: &Server) -> Dragonfly {
    Dragonfly {
        address: Some(DragonflyAddress::parse(&dfdaemon.url()).unwrap()),
        ..Dragonfly::default()
    }
}

fn config(dragonfly: Dragonfly) -> Config {
    Config {
        dragonfly,
        ..quick()
    }
}

async fn holding(content: &Content) -> Server {
    let content = content.clone();
    Server::start(move |seen| content.answer(seen)).await
}

/// An answer of a dfdaemon that failed, or tells that the registry has.
fn failed(error_type: &str, status: u16) -> Reply {
    Reply::new(status).header("x-dragonfly-error-type", error_type)
}

/// An answer of a dfdaemon that went well.
fn given(reply: Reply) -> Reply {
    reply
        .header("x-dragonfly-task-id", "0123abcd")
        .header("x-dragonfly-server-ip", "10.0.0.1")
        .header("x-dragonfly-task-download-finished", "true")
}

#[tokio::test]
async fn blobs_come_through_it_and_nothing_else_does() {
    let (bytes, digest) = blob(SIZE);
    let document = manifest(&digest, SIZE);
    let content = Content::default().blob(&bytes).manifest("1", &document);
    let server = holding(&content).await;
    let dfdaemon = Server::start(move |seen| given(content.answer(seen))).await;
    let registry = Registry::new(config(through(&dfdaemon)), Arc::new(Anonymous));
    let image = reference(&server, "team/app");
    let found = registry.resolve(&image).await.unwrap();
    registry.manifest(&image, &found).await.unwrap();
    let size = registry.blob_size(&image, &digest).await.unwrap();
    assert_eq!(size, SIZE as u64);
    assert_eq!((server.seen().len(), dfdaemon.seen().len()), (3, 0));

    let app = registry.blob(&image, digest.clone(), SIZE as u64);
    let demanded = app.read(10..20_000, Urgency::Demand).await.unwrap();
    assert_eq!(demanded, bytes[10..20_000]);
    let ahead = app.read(20_000..30_000, Urgency::Background).await;
    assert_eq!(ahead.unwrap(), bytes[20_000..30_000]);
    assert_eq!(
        (server.seen().len(), registry.traffic().dragonfly_bytes),
        (3, 29_990)
    );
    let seen = dfdaemon.seen();
    let [first, second] = seen.as_slice() else {
        panic!("{seen:?}");
    };
    for (name, demanded, ahead) in [
        (
            "x-dragonfly-registry",
            Some(&*server.url()),
            Some(&*server.url()),
        ),
        ("x-dragonfly-use-p2p", Some("true"), Some("true")),
        ("x-dragonfly-priority", Some("6"), Some("3")),
        (
            "x-dragonfly-enable-task-id-based-blob-digest",
            Some("true"),
            Some("true"),
        ),
        // Once is enough.
        ("x-dragonfly-prefetch", Some("true"), None),
        ("range", Some("bytes=10-19999"), Some("bytes=20000-29999")),
        ("authorization", None, None),
    ] {
        assert_eq!(first.header(name), demanded, "{name}");
        assert_eq!(second.header(name), ahead, "{name}");
    }
    assert_eq!(first.path, format!("/v2/team/app/blobs/{digest}"));
    assert_eq!(first.query, "");
    // Of another blob, all is wanted again.
    let other = registry.blob(&image, digest, SIZE as u64);
    other.read(0..10, Urgency::Demand).await.unwrap();
    let last = dfdaemon.seen().pop().unwrap();
    assert_eq!(last.header("x-dragonfly-prefetch"), Some("true"));
}

#[tokio::test]
async fn whatever_it_answers_the_bytes_come() {
    let (bytes, digest) = blob(SIZE);
    let content = Content::default().blob(&bytes);
    let server = holding(&content).await;
    let rows: [(&str, u16, &str); 9] = [
        ("proxy", 429, "unavailable"),
        ("proxy", 403, "refused"),
        ("proxy", 401, "configuration"),
        ("proxy", 500, "unavailable"),
        ("dfdaemon", 500, "unavailable"),
        ("backend", 401, "unauthorized"),
        ("backend", 404, "not-found"),
        ("backend", 503, "unavailable"),
        ("a new word", 502, "unavailable"),
    ];
    for (error_type, status, kind) in rows {
        let dfdaemon = Server::start(move |_| failed(error_type, status)).await;
        let registry = Registry::new(config(through(&dfdaemon)), Arc::new(Anonymous));
        let app = registry.blob(&reference(&server, "app"), digest.clone(), SIZE as u64);
        for _ in 0..3 {
            let read = app.read(5..50_000, Urgency::Demand).await.unwrap();
            assert_eq!(read, bytes[5..50_000], "{error_type} {status}");
        }
        let (asked, failures) = (dfdaemon.seen().len(), registry.failures());
        assert_eq!(failures.get(kind), Some(&(asked as u64)), "{failures:?}");
        // What does not pass is not asked for again, for minutes.
        assert!(asked == 1 || kind == "unavailable", "{error_type} {status}");
        assert_eq!(registry.traffic().dragonfly_bytes, 0);
    }
    let nobody = Dragonfly {
        address: DragonflyAddress::parse("http://127.0.0.1:1"),
        ..Dragonfly::default()
    };
    let registry = Registry::new(config(nobody), Arc::new(Anonymous));
    let app = registry.blob(&reference(&server, "app"), digest, SIZE as u64);
    let read = app.read(5..50, Urgency::Demand).await.unwrap();
    assert_eq!(read, bytes[5..50]);
}

#[tokio::test]
async fn one_that_is_overloaded_does_not_overload_the_registry() {
    let (bytes, digest) = blob(SIZE);
    let server = holding(&Content::default().blob(&bytes)).await;
    let dfdaemon = Server::start(|_| failed("proxy", 429)).await;
    let registry = Registry::new(config(through(&dfdaemon)), Arc::new(Anonymous));
    let app = registry.blob(&reference(&server, "app"), digest, SIZE as u64);
    for _ in 0..5 {
        let error = app.read(0..10, Urgency::Background).await.unwrap_err();
        assert!(
            error.is_transient() && error.retry_after().is_some(),
            "{error}"
        );
    }
    assert_eq!(server.seen().len(), 0);
    // Whom somebody waits for is served.
    assert_eq!(app.read(0..10, Urgency::Demand).await.unwrap(), bytes[..10]);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_part_that_is_called_the_whole_is_taken_for_what_it_is() {
    let (bytes, digest) = blob(2 << 20);
    let server = holding(&Content::default().blob(&bytes)).await;
    let old = |content: Content, is_said: bool| {
        move |seen: &Seen| {
            let mut reply = given(content.answer(seen));
            reply.status = 200;
            if !is_said {
                reply.headers.retain(|(name, _)| *name != "content-range");
            }
            reply
        }
    };
    for is_said in [true, false] {
        let content = Content::default().blob(&bytes);
        let dfdaemon = Server::start(old(content, is_said)).await;
        let registry = Registry::new(config(through(&dfdaemon)), Arc::new(Anonymous));
        let app = registry.blob(&reference(&server, "app"), digest.clone(), 2 << 20);
        // Behind what would be passed over of a whole.
        let range = (3 << 19)..(3 << 19) + 1000;
        let read = app.read(range.clone(), Urgency::Demand).await.unwrap();
        assert_eq!(read, bytes[range.start as usize..range.end as usize]);
        assert_eq!(
            (dfdaemon.seen().len(), server.seen().len()),
            (1, 0),
            "{is_said}"
        );
    }
    // Not another one, though.
    let content = Content::default().blob(&bytes);
    let dfdaemon = Server::start(move |seen| {
        let mut reply = content.answer(seen);
        reply.headers.retain(|(name, _)| *name != "content-range");
        reply.status = 200;
        reply.header("content-range", "bytes 0-999/2097152")
    })
    .await;
    let registry = Registry::new(config(through(&dfdaemon)), Arc::new(Anonymous));
    let app = registry.blob(&reference(&server, "app"), digest, 2 << 20);
    let read = app.read(5000..6000, Urgency::Demand).await.unwrap();
    assert_eq!(read, bytes[5000..6000]);
    assert_eq!(registry.failures().get("malformed"), Some(&1));
}

#[tokio::test]
async fn damage_that_it_gives_is_fetched_elsewhere() {
    let (bytes, digest) = blob(SIZE);
    let server = holding(&Content::default().blob(&bytes)).await;
    let wrong = Content::default().blob(&bytes);
    let dfdaemon = Server::start(move |seen| {
        let mut reply = wrong.answer(seen);
        reply.body.clear();
        reply.data(vec![0; 10])
    })
    .await;
    let registry = Registry::new(config(through(&dfdaemon)), Arc::new(Anonymous));
    let app = registry.blob(&reference(&server, "app"), digest, SIZE as u64);
    assert_eq!(app.read(0..10, Urgency::Demand).await.unwrap(), vec![0; 10]);
    assert!(app.report_damage(0..10));
    assert_eq!(app.read(0..10, Urgency::Demand).await.unwrap(), bytes[..10]);
}

/// A registry that wants to know who we are: with a password, with a token for who has one, or with a token for anybody.
#[derive(Debug, Clone, Copy)]
enum Wants {
    Password,
    Token,
    AnyToken,
}

/// `dave:secret`.
const DAVE: &str = "Basic ZGF2ZTpzZWNyZXQ=";

fn private(content: Content, wants: Wants) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    move |seen| {
        let host = seen.header("host").unwrap();
        let shown = seen.header("authorization");
        if seen.path == "/token" {
            return match (wants, shown) {
                (Wants::Token, Some(DAVE)) | (Wants::AnyToken, None) => {
                    Reply::json(r#"{"token":"good","expires_in":300}"#)
                }
                _ => Reply::new(401),
            };
        }
        let (good, challenge) = match wants {
            Wants::Password => (DAVE, "Basic realm=\"r\"".to_owned()),
            _ => (
                "Bearer good",
                format!(r#"Bearer realm="http://{host}/token",service="r""#),
            ),
        };
        match shown == Some(good) {
            true => content.answer(seen),
            false => Reply::new(401).header("www-authenticate", challenge),
        }
    }
}

#[tokio::test]
async fn it_sees_the_credentials_that_the_operator_lets_it_see() {
    use DragonflyCredentials::{All, None as Nothing, Tokens};
    let (bytes, digest) = blob(SIZE);
    let rows = [
        (Nothing, Wants::Password, None),
        (Tokens, Wants::Password, None),
        (All, Wants::Password, Some(DAVE)),
        (Nothing, Wants::Token, None),
        (Tokens, Wants::Token, Some("Bearer good")),
        (All, Wants::Token, Some("Bearer good")),
        (Nothing, Wants::AnyToken, Some("Bearer good")),
    ];
    for (credentials, wants, expected) in rows {
        let document = manifest(&digest, SIZE);
        let content = Content::default().blob(&bytes).manifest("1", &document);
        let server = Server::start(private(content.clone(), wants)).await;
        // A liar would like passwords.
        let dfdaemon = Server::start(move |seen| match seen.header("authorization") {
            Some(_) => content.answer(seen),
            None => failed("backend", 401).header(
                "www-authenticate",
                format!(
                    r#"Bearer realm="http://{}/token",service="r""#,
                    seen.header("host").unwrap()
                ),
            ),
        })
        .await;
        let dragonfly = Dragonfly {
            credentials,
            ..through(&dfdaemon)
        };
        let known = match wants {
            Wants::AnyToken => Arc::new(Anonymous),
            _ => users(&[("dave", "secret")]),
        };
        let registry = Registry::new(config(dragonfly), known);
        let image = reference(&server, "app");
        registry
            .manifest(&image, &Digest::of(&document))
            .await
            .unwrap();
        let app = registry.blob(&image, digest.clone(), SIZE as u64);
        for _ in 0..2 {
            assert_eq!(app.read(0..9, Urgency::Demand).await.unwrap(), bytes[..9]);
        }
        let seen = dfdaemon.seen();
        let name = format!("{credentials:?} {wants:?}");
        assert!(
            seen.iter()
                .all(|one| one.header("authorization") == expected),
            "{name}"
        );
        assert!(dfdaemon.seen_of("/token").is_empty(), "{name}");
        let count = if expected.is_some() { 2 } else { 1 };
        assert_eq!(seen.len(), count, "{name}");
    }
}

fn hosts(text: &str) -> (TempDir, Vec<PathBuf>) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("r.example");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("hosts.toml"), text).unwrap();
    let directories = vec![root.path().to_owned()];
    (root, directories)
}

#[tokio::test]
async fn a_hosts_toml_that_was_written_for_it_is_understood() {
    let (bytes, digest) = blob(SIZE);
    let document = manifest(&digest, SIZE);
    let content = Content::default().blob(&bytes).manifest("1", &document);
    let server = Server::start(private(content.clone(), Wants::Token)).await;
    let dfdaemon = Server::start(move |seen| match seen.header("authorization") {
        Some(_) => content.answer(seen),
        None => failed("backend", 401),
    })
    .await;
    for (named, expected) in [
        (server.url(), Some("Bearer good")),
        // What is good for one registry is not shown to another.
        ("http://other.example".to_owned(), None),
    ] {
        let text = format!(
            "server = '{}'\n[host.'{}']\ncapabilities = ['pull', 'resolve']\n[host.'{}'.header]\nX-Dragonfly-Registry = '{named}'\n",
            server.url(),
            dfdaemon.url(),
            dfdaemon.url(),
        );
        let (_root, hosts_directories) = hosts(&text);
        let config = Config {
            hosts_directories,
            ..config(Dragonfly {
                credentials: DragonflyCredentials::Tokens,
                // It is the same one, and asked once.
                ..through(&dfdaemon)
            })
        };
        let registry = Registry::new(config, users(&[("dave", "secret")]));
        let image = Reference::parse("r.example/app:1").unwrap();
        registry
            .manifest(&image, &Digest::of(&document))
            .await
            .unwrap();
        // It may be asked for manifests: the file says so.
        assert!(!dfdaemon.seen_of("/manifests/").is_empty());
        let app = registry.blob(&image, digest.clone(), SIZE as u64);
        assert_eq!(app.read(0..9, Urgency::Demand).await.unwrap(), bytes[..9]);
        let seen = dfdaemon.seen_of("/blobs/").pop().unwrap();
        assert_eq!(seen.header("authorization"), expected, "{named}");
        assert_eq!(seen.header("x-dragonfly-use-p2p"), Some("true"));
        assert_eq!(seen.header("x-dragonfly-registry"), Some(&*named));
    }
    assert_eq!(dfdaemon.seen_of("/blobs/").len(), 2);
}

#[tokio::test]
async fn a_part_that_is_called_the_whole_says_how_large_that_is() {
    let (bytes, digest) = blob(SIZE);
    let content = Content::default().blob(&bytes);
    let dfdaemon = Server::start(move |seen| {
        let mut reply = content.answer(seen);
        reply.status = 200;
        reply
    })
    .await;
    let text = format!(
        "[host.'{}'.header]\nX-Dragonfly-Registry = 'https://r.example'\n",
        dfdaemon.url()
    );
    let (_root, hosts_directories) = hosts(&text);
    let config = Config {
        hosts_directories,
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    let image = Reference::parse("r.example/app:1").unwrap();
    let size = registry.blob_size(&image, &digest).await.unwrap();
    assert_eq!(size, SIZE as u64);
}

#[tokio::test]
async fn nothing_is_pushed_through_it() {
    let server = Server::start(|_| Reply::new(201)).await;
    let dfdaemon = Server::start(|_| Reply::new(201)).await;
    let text = format!(
        "server = '{}'\n[host.'{}'.header]\nX-Dragonfly-Registry = '{}'\n",
        server.url(),
        dfdaemon.url(),
        server.url()
    );
    let (_root, hosts_directories) = hosts(&text);
    let config = Config {
        hosts_directories,
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    let image = Reference::parse("r.example/app:1").unwrap();
    let (name, media_type) = ("1", "application/vnd.oci.image.manifest.v1+json");
    let pushed = registry
        .push_manifest(&image, name, media_type, b"{}")
        .await;
    pushed.unwrap();
    assert_eq!((server.seen().len(), dfdaemon.seen().len()), (1, 0));
}

#[tokio::test]
async fn only_the_registries_that_are_named_go_through_it() {
    let (bytes, digest) = blob(SIZE);
    let content = Content::default().blob(&bytes);
    let (server, other) = (holding(&content).await, holding(&content).await);
    let dfdaemon = holding(&content).await;
    let dragonfly = Dragonfly {
        registries: vec![server.host().to_owned()],
        ..through(&dfdaemon)
    };
    let registry = Registry::new(config(dragonfly), Arc::new(Anonymous));
    for (server, expected) in [(&server, 1), (&other, 1)] {
        let app = registry.blob(&reference(server, "app"), digest.clone(), SIZE as u64);
        app.read(0..9, Urgency::Demand).await.unwrap();
        assert_eq!(dfdaemon.seen().len(), expected);
    }
    assert_eq!((server.seen().len(), other.seen().len()), (0, 1));
}

#[tokio::test]
async fn as_a_proxy_it_is_asked_for_urls() {
    let (bytes, digest) = blob(SIZE);
    let content = Content::default().blob(&bytes);
    let server = holding(&content).await;
    let dfdaemon = Server::start(move |seen| given(content.answer(seen))).await;
    let dragonfly = Dragonfly {
        mode: DragonflyMode::Proxy,
        ..through(&dfdaemon)
    };
    let registry = Registry::new(config(dragonfly), Arc::new(Anonymous));
    let app = registry.blob(&reference(&server, "app"), digest, SIZE as u64);
    let read = app.read(10..900, Urgency::Demand).await.unwrap();
    assert_eq!(read, bytes[10..900]);
    let seen = dfdaemon.seen();
    assert_eq!((seen.len(), server.seen().len()), (1, 0));
    assert_eq!(seen[0].header("host"), Some(server.host()));
    assert_eq!(seen[0].header("x-dragonfly-registry"), None);
    assert_eq!(seen[0].header("x-dragonfly-prefetch"), Some("true"));
}

/// Takes CONNECT for every host, and has `inside` answer, as a dfdaemon that looks into TLS.
async fn tunnel(inside: &str) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let inside = inside.to_owned();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let inside = inside.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"CONNECT 127.0.0.1:"));
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut inside = TcpStream::connect(inside).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut inside).await;
            });
        }
    });
    (url, task)
}

#[tokio::test]
async fn tls_goes_past_a_proxy_whose_ca_is_not_named() {
    let (bytes, digest) = blob(SIZE);
    let content = Content::default().blob(&bytes);
    let (theirs, its_own) = (Authority::new("registry"), Authority::new("dfdaemon"));
    let serve = |authority: &Authority| {
        let content = content.clone();
        Server::with_tls(Some(authority.server(None)), move |seen| {
            content.answer(seen)
        })
    };
    let (server, inside) = (serve(&theirs).await, serve(&its_own).await);
    let (address, task) = tunnel(inside.host()).await;
    let text = format!("server = 'https://{}'\nca = 'theirs.pem'\n", server.host());
    let (root, hosts_directories) = hosts(&text);
    let at = |name: &str| Path::new(root.path()).join("r.example").join(name);
    fs::write(at("theirs.pem"), theirs.pem()).unwrap();
    fs::write(at("its_own.pem"), its_own.pem()).unwrap();
    for (ca, through_it, past_it) in [(None, 0, 1), (Some(at("its_own.pem")), 1, 1)] {
        let config = Config {
            hosts_directories: hosts_directories.clone(),
            ..config(Dragonfly {
                address: DragonflyAddress::parse(&address),
                mode: DragonflyMode::Proxy,
                ca,
                ..Dragonfly::default()
            })
        };
        let registry = Registry::new(config, Arc::new(Anonymous));
        let image = Reference::parse("r.example/app:1").unwrap();
        let app = registry.blob(&image, digest.clone(), SIZE as u64);
        assert_eq!(app.read(0..9, Urgency::Demand).await.unwrap(), bytes[..9]);
        assert_eq!(
            (inside.seen().len(), server.seen().len()),
            (through_it, past_it)
        );
    }
    // One that is named and cannot be read is said to be so.
    let broken = config(Dragonfly {
        address: DragonflyAddress::parse(&address),
        mode: DragonflyMode::Proxy,
        ca: Some(at("absent.pem")),
        ..Dragonfly::default()
    });
    let registry = Registry::new(broken, Arc::new(Anonymous));
    let app = registry.blob(&reference(&server, "app"), digest, SIZE as u64);
    let error = app.read(0..9, Urgency::Demand).await.unwrap_err();
    assert!(matches!(error, Error::Configuration { .. }), "{error}");
    assert!(error.to_string().contains("absent.pem"), "{error}");
    task.abort();
}
