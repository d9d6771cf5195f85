//! Mirrors, and what hosts.toml says.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_layer::Digest;
use pontoon_source::{Anonymous, Config, Error, Reference, Registry, Urgency};
use tempfile::TempDir;

use crate::server::{Content, Piece, Reply, Server};
use crate::{blob, manifest, quick};

fn put(root: &Path, host: &str, text: &str) {
    fs::create_dir_all(root.join(host)).unwrap();
    fs::write(root.join(host).join("hosts.toml"), text).unwrap();
}

/// A registry `r.example` whose configuration is `text`.
fn configured(text: &str) -> (TempDir, Registry, Reference) {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "r.example", text);
    let config = Config {
        hosts_directories: vec![root.path().to_owned()],
        hosts_lifetime: Duration::ZERO,
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    (
        root,
        registry,
        Reference::parse("r.example/team/app:1").unwrap(),
    )
}

fn with_mirror(mirror: &str, server: &str) -> (TempDir, Registry, Reference) {
    configured(&format!(
        "server = '{server}'\n[host.'{mirror}']\ncapabilities = ['pull']\n[host.'{mirror}'.header]\nx-key = 'secret'\n"
    ))
}

async fn holding(content: Content) -> Server {
    Server::start(move |seen| content.answer(seen)).await
}

#[tokio::test]
async fn a_mirror_is_asked_first_for_what_it_may() {
    let (bytes, digest) = blob(1000);
    let document = manifest(&digest, 1000);
    let content = Content::default().blob(&bytes).manifest("1", &document);
    let (mirror, server) = (holding(content.clone()).await, holding(content).await);
    let (_root, registry, image) = with_mirror(&mirror.url(), &server.url());
    let found = registry.resolve(&image).await.unwrap();
    registry.manifest(&image, &found).await.unwrap();
    let app = registry.blob(&image, digest, 1000);
    app.read(0..10, Urgency::Demand).await.unwrap();
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.seen()[0].header("x-key"), None);
    let seen = mirror.seen();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|one| one.query == "ns=r.example" && one.header("x-key") == Some("secret"))
    );
}

#[tokio::test]
async fn whatever_a_mirror_does_the_registry_stands_in() {
    let (bytes, digest) = blob(100_000);
    let document = manifest(&digest, 100_000);
    let content = Content::default().blob(&bytes).manifest("1", &document);
    let server = holding(content.clone()).await;
    type Fault = fn(Reply) -> Reply;
    let faults: [(&str, Fault); 9] = [
        ("absent", |_| Reply::new(404)),
        ("closed", |_| Reply::new(403)),
        ("wants a login", |_| {
            Reply::new(401).header("www-authenticate", "Basic realm=x")
        }),
        ("broken", |_| Reply::new(500)),
        ("busy", |_| Reply::new(429).header("retry-after", "60")),
        ("wrong", |_| Reply::json("{}")),
        ("breaks off", |reply| reply.cut(100, Piece::Break)),
        ("stalls", |reply| reply.cut(100, Piece::Stall)),
        ("lost", |_| {
            Reply::redirect("http://127.0.0.1:1/".to_owned())
        }),
    ];
    for (what, fault) in faults {
        let whole = content.clone();
        let mirror = Server::start(move |seen| fault(whole.answer(seen))).await;
        let (_root, registry, image) = with_mirror(&mirror.url(), &server.url());
        let manifest = registry.manifest(&image, &Digest::of(&document)).await;
        assert_eq!(manifest.unwrap().layers.len(), 1, "{what}");
        let app = registry.blob(&image, digest.clone(), 100_000);
        let read = app.read(10..90_000, Urgency::Demand).await.unwrap();
        assert_eq!(read, bytes[10..90_000], "{what}");
        assert!(!mirror.seen().is_empty(), "{what}");
    }
    let (_root, registry, image) = with_mirror("http://127.0.0.1:1", &server.url());
    let app = registry.blob(&image, digest, 100_000);
    app.read(0..10, Urgency::Demand).await.unwrap();
}

#[tokio::test]
async fn a_stalled_transfer_goes_on_at_another_mirror() {
    let (bytes, digest) = blob(300_000);
    let content = Content::default().blob(&bytes);
    let server = holding(content.clone()).await;
    let mirror = Server::start(move |seen| content.answer(seen).cut(50_000, Piece::Stall)).await;
    let (_root, registry, image) = with_mirror(&mirror.url(), &server.url());
    let app = registry.blob(&image, digest, 300_000);
    assert_eq!(
        app.read(0..200_000, Urgency::Demand).await.unwrap(),
        bytes[..200_000]
    );
    assert_eq!(mirror.seen().len(), 1);
    assert_eq!(server.seen()[0].header("range"), Some("bytes=50000-199999"));
    // It comes last for a while.
    app.read(0..10, Urgency::Demand).await.unwrap();
    assert_eq!(mirror.seen().len(), 1);
}

#[tokio::test]
async fn damage_is_not_fetched_twice_from_the_same_host() {
    let (bytes, digest) = blob(1000);
    let server = holding(Content::default().blob(&bytes)).await;
    let mirror = Server::start(move |_| {
        Reply::new(206)
            .header("content-range", "bytes 0-9/1000")
            .data(vec![0; 10])
    })
    .await;
    let (_root, registry, image) = with_mirror(&mirror.url(), &server.url());
    let app = registry.blob(&image, digest.clone(), 1000);
    assert_eq!(app.read(0..10, Urgency::Demand).await.unwrap(), vec![0; 10]);
    app.report_damage(0..10);
    assert_eq!(app.read(0..10, Urgency::Demand).await.unwrap(), bytes[..10]);
    // The last one is asked again, there being nobody else.
    app.report_damage(0..10);
    app.read(0..10, Urgency::Demand).await.unwrap();
}

#[tokio::test]
async fn damaged_small_blobs_are_fetched_elsewhere() {
    let (bytes, digest) = blob(1000);
    let content = Content::default().blob(&bytes);
    let damaged = || Reply::new(200).data(vec![7; 1000]);
    let mirror = Server::start(move |_| damaged()).await;
    let server = holding(content).await;
    let descriptor = pontoon_source::Descriptor {
        media_type: String::new(),
        digest,
        size: 1000,
        annotations: Default::default(),
    };
    let (_root, registry, image) = with_mirror(&mirror.url(), &server.url());
    assert_eq!(
        &*registry.fetch(&image, &descriptor, 1000).await.unwrap(),
        bytes
    );
    let (_root, registry, image) = with_mirror(&mirror.url(), &mirror.url());
    let error = registry.fetch(&image, &descriptor, 1000).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
}

#[tokio::test]
async fn a_change_of_the_file_counts_and_a_mistake_in_it_does_not() {
    let (bytes, digest) = blob(1000);
    let content = Content::default().blob(&bytes);
    let (one, two) = (holding(content.clone()).await, holding(content).await);
    let (root, registry, image) = configured(&format!("server = '{}'", one.url()));
    let app = registry.blob(&image, digest, 1000);
    app.read(0..10, Urgency::Demand).await.unwrap();
    put(root.path(), "r.example", "server = [");
    app.read(0..10, Urgency::Demand).await.unwrap();
    assert_eq!((one.seen().len(), one.connections()), (2, 1));
    put(
        root.path(),
        "r.example",
        &format!("server = '{}'", two.url()),
    );
    app.read(0..10, Urgency::Demand).await.unwrap();
    assert_eq!(two.seen().len(), 1);
    let (_root, registry, image) = configured("server = [");
    let error = registry.resolve(&image).await.unwrap_err();
    assert!(error.to_string().contains("hosts.toml"), "{error}");
}

#[tokio::test]
async fn who_may_not_resolve_is_not_believed() {
    let (_root, registry, image) =
        configured("server = 'http://127.0.0.1:1'\ncapabilities = ['pull']");
    let error = registry.resolve(&image).await.unwrap_err();
    assert!(matches!(error, Error::Configuration { .. }), "{error:?}");
}
