//! Giving blobs and manifests to a registry, and what may go wrong with that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_layer::Digest;
use pontoon_source::{Config, Error, Pushed, Reference, Registry, Result, Upload};

use crate::server::{Early, Reply, Seen, Server};
use crate::{anonymous, blob, quick, reference, users};

/// `dave:secret`.
const DAVE: &str = "Basic ZGF2ZTpzZWNyZXQ=";

/// More than one piece, and more than what sockets buffer.
const SIZE: usize = 8 << 20;

/// What a registry was given: by paths.
type Store = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Answers as a registry that behaves, with locations that `locate` makes of paths.
fn takes(store: &Store, seen: &Seen, locate: impl Fn(&str) -> String) -> Reply {
    let mut store = store.lock().unwrap();
    let (_, digest) = seen.query.rsplit_once("digest=").unwrap_or_default();
    let digest = digest.replace("%3A", ":");
    match (seen.method.as_str(), &*seen.path) {
        ("HEAD", path) => Reply::new(if store.contains_key(path) { 200 } else { 404 }),
        ("POST", path) => {
            Reply::new(202).header("location", locate(&format!("{path}one?state=a%2Fb")))
        }
        ("PUT", path) if path.contains("/manifests/") => {
            store.insert(path.to_owned(), seen.body.to_vec());
            let digest = Digest::of(&seen.body).to_string();
            Reply::new(201).header("docker-content-digest", digest)
        }
        ("PUT", path) => {
            assert!(seen.query.starts_with("state=a%2Fb&"), "{}", seen.query);
            if Digest::of(&seen.body).to_string() != digest {
                return Reply::new(400).data(r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
            }
            let path = path.replace("uploads/one", &digest);
            store.insert(path, seen.body.to_vec());
            Reply::new(201)
        }
        _ => Reply::new(405),
    }
}

/// Gives `bytes` to the repository `app`.
async fn push(registry: &Registry, server: &Server, bytes: &[u8]) -> Result<Pushed> {
    push_from(registry, &reference(server, "app"), bytes, None).await
}

async fn push_from(
    registry: &Registry,
    to: &Reference,
    bytes: &[u8],
    from: Option<&str>,
) -> Result<Pushed> {
    let last = AtomicU64::new(0);
    let upload = Upload {
        digest: &Digest::of(bytes),
        size: bytes.len() as u64,
        from,
        open: &|| Ok(Box::new(io::Cursor::new(bytes.to_vec()))),
        sent: &|sent| last.store(sent, Ordering::Relaxed),
    };
    let pushed = registry.push_blob(to, &upload).await;
    if let Ok(pushed) = &pushed {
        let told = last.load(Ordering::Relaxed);
        let expected = if *pushed == Pushed::Sent {
            upload.size
        } else {
            0
        };
        assert_eq!(told, expected, "{pushed:?}");
    }
    pushed
}

fn there(store: &Store, bytes: &[u8]) -> bool {
    let path = format!("/v2/app/blobs/{}", Digest::of(bytes));
    store.lock().unwrap().get(&path).map(Vec::as_slice) == Some(bytes)
}

#[tokio::test]
async fn blobs_and_manifests_arrive_and_are_not_sent_twice() {
    let store = Store::default();
    let server = {
        let store = Arc::clone(&store);
        Server::start(move |seen| takes(&store, seen, str::to_owned)).await
    };
    let registry = anonymous();
    for length in [0, 1, SIZE] {
        let (bytes, _) = blob(length);
        let pushed = push(&registry, &server, &bytes).await.unwrap();
        assert_eq!(pushed, Pushed::Sent);
        assert!(there(&store, &bytes));
        let before = server.seen().len();
        let pushed = push(&registry, &server, &bytes).await.unwrap();
        assert_eq!(pushed, Pushed::Present);
        assert_eq!(server.seen().len() - before, 1);
    }
    let app = reference(&server, "app");
    registry
        .push_manifest(&app, "1", "application/x", b"{}")
        .await
        .unwrap();
    assert_eq!(store.lock().unwrap()["/v2/app/manifests/1"], b"{}");
    let put = server.seen_of("/manifests/").pop().unwrap();
    assert_eq!(put.header("content-type"), Some("application/x"));
}

#[tokio::test]
async fn an_absolute_location_with_a_query_is_followed() {
    let store = Store::default();
    let server = {
        let store = Arc::clone(&store);
        Server::start(move |seen| {
            let host = seen.header("host").unwrap().to_owned();
            takes(&store, seen, |path| format!("http://{host}{path}"))
        })
        .await
    };
    let (bytes, _) = blob(1000);
    push(&anonymous(), &server, &bytes).await.unwrap();
    assert!(there(&store, &bytes));
}

/// Storage beside a registry gets the blob, and neither password nor the operator's headers.
#[tokio::test]
async fn another_host_gets_the_blob_and_no_credentials() {
    let store = Store::default();
    let storage = {
        let store = Arc::clone(&store);
        Server::start(move |seen| takes(&store, seen, str::to_owned)).await
    };
    let server = {
        let (store, elsewhere) = (Arc::clone(&store), storage.url());
        Server::start(move |seen| match seen.header("authorization") {
            Some(DAVE) => takes(&store, seen, |path| format!("{elsewhere}{path}")),
            _ => Reply::new(401).header("www-authenticate", "Basic realm=\"x\""),
        })
        .await
    };
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join(server.host());
    fs::create_dir(&own).unwrap();
    let file = format!(
        "[host.\"{0}\"]\ncapabilities = [\"pull\", \"push\"]\n[host.\"{0}\".header]\nx-secret = \"s\"\n",
        server.url()
    );
    fs::write(own.join("hosts.toml"), file).unwrap();
    let config = Config {
        hosts_directories: vec![directory.path().to_owned()],
        ..quick()
    };
    let registry = Registry::new(config, users(&[("dave", "secret")]));
    let (bytes, _) = blob(SIZE);
    push(&registry, &server, &bytes).await.unwrap();
    assert!(there(&store, &bytes));
    let there = storage.seen();
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].header("authorization"), None);
    assert_eq!(there[0].header("x-secret"), None);
    let here = server.seen();
    assert!(here.iter().all(|seen| seen.header("x-secret").is_some()));
}

/// What may happen to an upload, and passes.
#[tokio::test]
async fn an_upload_that_breaks_off_begins_again() {
    let faults: [(&str, Early); 6] = [
        ("500", Early::Answer(Reply::new(500))),
        (
            "503",
            Early::Answer(Reply::new(503).header("retry-after", "0")),
        ),
        (
            "429",
            Early::Answer(Reply::new(429).header("retry-after", "0")),
        ),
        ("reset amid", Early::Break),
        ("silence amid", Early::Stall),
        ("an upload that is lost", Early::Answer(Reply::new(202))),
    ];
    let (bytes, _) = blob(SIZE);
    for (name, fault) in faults {
        let store = Store::default();
        let failed = AtomicUsize::new(0);
        let server = {
            let store = Arc::clone(&store);
            let head = move |seen: &Seen| match seen.method.as_str() {
                "PUT" if failed.fetch_add(1, Ordering::SeqCst) < 2 => fault.clone(),
                _ => Early::Read,
            };
            Server::hasty(None, head, move |seen| takes(&store, seen, str::to_owned)).await
        };
        let registry = anonymous();
        let pushed = push(&registry, &server, &bytes).await;
        let pushed = pushed.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(pushed, Pushed::Sent, "{name}");
        assert!(there(&store, &bytes), "{name}");
        assert_eq!(registry.traffic().retries, 2, "{name}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_told_at_once() {
    let (bytes, _) = blob(1000);
    let rows: [(&str, u16, &str, &str); 5] = [
        ("POST", 401, "refused", "who may push there"),
        ("POST", 404, "refused", "make the repository there"),
        ("PUT", 400, "refused", "damaged where it comes from"),
        ("PUT", 413, "refused", "status 413"),
        ("HEAD", 500, "unavailable", "an answer to the push"),
    ];
    for (method, status, kind, said) in rows {
        let server = Server::start(move |seen| match seen.method.as_str() {
            one if one == method => Reply::new(status),
            _ => takes(&Store::default(), seen, str::to_owned),
        })
        .await;
        let error = push(&anonymous(), &server, &bytes).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{method} {status}: {error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    // No registry stores something else than it was given and says so.
    let server = Server::start(|_| {
        let other = Digest::of(b"other").to_string();
        Reply::new(201).header("docker-content-digest", other)
    })
    .await;
    let app = reference(&server, "app");
    let error = anonymous().push_manifest(&app, "1", "x", b"{}").await;
    assert_eq!(error.unwrap_err().kind(), "mismatch");
    // An upload that goes nowhere.
    for location in ["", "ftp://x/y", "http://"] {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            _ => Reply::new(202).header("location", location),
        })
        .await;
        let pushed = push(&anonymous(), &server, &bytes).await;
        let is_told = matches!(pushed, Err(Error::Malformed { .. } | Error::Refused { .. }));
        assert!(is_told, "{location:?}: {pushed:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_not_the_registrys_fault() {
    struct Breaks(usize);
    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("the disk is gone"));
            }
            self.0 -= 1;
            buffer.fill(1);
            Ok(buffer.len())
        }
    }
    let server = Server::start(|seen| takes(&Store::default(), seen, str::to_owned)).await;
    let app = reference(&server, "app");
    let opens: [(&str, &pontoon_source::Open<'_>); 3] = [
        ("the disk is gone", &|| Ok(Box::new(Breaks(5)))),
        ("ends too early", &|| Ok(Box::new(io::empty()))),
        ("no such thing", &|| Err(io::Error::other("no such thing"))),
    ];
    for (said, open) in opens {
        let registry = anonymous();
        let upload = Upload {
            digest: &Digest::of(b""),
            size: SIZE as u64,
            from: None,
            open,
            sent: &|_| (),
        };
        let error = registry.push_blob(&app, &upload).await.unwrap_err();
        assert_eq!(error.kind(), "unreadable", "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(registry.traffic().retries, 0);
    }
}

/// A registry whose tokens are good for one request each, and for what was asked for.
async fn with_tokens(store: Store, is_mountable: bool) -> Server {
    let good = Arc::new(Mutex::new(BTreeMap::<String, Vec<String>>::new()));
    let count = AtomicUsize::new(0);
    Server::start(move |seen| {
        let host = seen.header("host").unwrap();
        if seen.path == "/token" {
            if seen.header("authorization") != Some(DAVE) {
                return Reply::new(401);
            }
            let token = format!("t{}", count.fetch_add(1, Ordering::SeqCst));
            let scopes = seen
                .query
                .split('&')
                .filter_map(|pair| pair.strip_prefix("scope="));
            let scopes = scopes.map(|scope| scope.replace("%3A", ":").replace("%2C", ","));
            good.lock().unwrap().insert(token.clone(), scopes.collect());
            return Reply::json(format!(r#"{{"token":"{token}","expires_in":300}}"#));
        }
        let mut wanted = match seen.method.as_str() {
            "HEAD" => vec!["repository:app:pull".to_owned()],
            _ => vec!["repository:app:pull,push".to_owned()],
        };
        if seen.query.contains("from=other") {
            wanted.push("repository:other:pull".to_owned());
        }
        let token = seen
            .header("authorization")
            .and_then(|text| text.strip_prefix("Bearer "));
        let scopes = token.and_then(|token| good.lock().unwrap().remove(token));
        let has = |scope: &String| {
            let scopes = scopes.iter().flatten();
            let mut able = scopes.filter(|one| one.starts_with(scope.as_str()));
            able.next().is_some() && (is_mountable || !scope.contains("other"))
        };
        if wanted.iter().all(has) {
            if seen.query.contains("from=other") {
                return Reply::new(201);
            }
            return takes(&store, seen, str::to_owned);
        }
        let scope = wanted.join(" ");
        let header = format!(r#"Bearer realm="http://{host}/token",service="s",scope="{scope}""#);
        Reply::new(401).header("www-authenticate", header)
    })
    .await
}

#[tokio::test]
async fn a_token_that_ends_between_two_requests_is_replaced() {
    let store = Store::default();
    let server = with_tokens(Arc::clone(&store), true).await;
    let registry = Registry::new(quick(), users(&[("dave", "secret")]));
    for length in [SIZE, 1000] {
        let (bytes, _) = blob(length);
        assert_eq!(
            push(&registry, &server, &bytes).await.unwrap(),
            Pushed::Sent
        );
        assert!(there(&store, &bytes));
    }
    // It was asked for what a push needs from the beginning.
    let tokens = server.seen_of("/token");
    assert!(
        tokens.iter().all(|seen| seen.query.contains("pull%2Cpush")),
        "{tokens:?}"
    );
}

#[tokio::test]
async fn a_blob_is_taken_out_of_another_repository_where_that_is_allowed() {
    let (bytes, digest) = blob(1000);
    for (is_mountable, expected) in [(true, Pushed::Mounted), (false, Pushed::Sent)] {
        let store = Store::default();
        let server = with_tokens(Arc::clone(&store), is_mountable).await;
        let registry = Registry::new(quick(), users(&[("dave", "secret")]));
        let app = reference(&server, "app");
        let pushed = push_from(&registry, &app, &bytes, Some("other")).await;
        assert_eq!(pushed.unwrap(), expected);
        assert_eq!(there(&store, &bytes), !is_mountable);
        let mounts = server.seen_of("/uploads/");
        let mount = format!(
            "mount={}&from=other",
            digest.to_string().replace(':', "%3A")
        );
        assert!(mounts.iter().any(|seen| seen.query == mount), "{mounts:?}");
    }
}

#[tokio::test]
async fn who_may_only_read_is_told_so() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        _ => Reply::new(403).data(r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#),
    })
    .await;
    let (bytes, _) = blob(10);
    let error = push(&anonymous(), &server, &bytes).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("read only") && text.contains("who may push"),
        "{text}"
    );
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_mirror_that_must_not_be_pushed_to_is_passed_over() {
    let store = Store::default();
    let server = {
        let store = Arc::clone(&store);
        Server::start(move |seen| takes(&store, seen, str::to_owned)).await
    };
    let mirror = Server::start(|_| Reply::new(500)).await;
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("r.example");
    fs::create_dir(&own).unwrap();
    let config = |file: String| {
        fs::write(own.join("hosts.toml"), file).unwrap();
        Config {
            hosts_directories: vec![directory.path().to_owned()],
            patience: Duration::from_secs(5),
            ..quick()
        }
    };
    let pull = |url: &str| format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    let file = format!("server = \"{}\"\n{}", server.url(), pull(&mirror.url()));
    let registry = Registry::new(config(file), users(&[]));
    let app = Reference::parse("r.example/app:1").unwrap();
    let (bytes, _) = blob(10);
    push_from(&registry, &app, &bytes, None).await.unwrap();
    assert!(there(&store, &bytes));
    assert!(mirror.seen().is_empty());
    // Told whose repository it is, as for reading.
    let told = server.seen();
    assert!(
        told.iter()
            .all(|seen| seen.query.contains("ns=r.example") || seen.method == "PUT")
    );
    let file = format!("server = \"{}\"\ncapabilities = [\"pull\"]\n", server.url());
    let registry = Registry::new(config(file), users(&[]));
    let error = push_from(&registry, &app, &bytes, None).await.unwrap_err();
    assert!(error.to_string().contains("capability `push`"), "{error}");
}
