//! What the clients make of containerd's answers.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

mod fake;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pontoon_containerd::{Client, ContentStore, Descriptor, Error, Ingested};
use pontoon_layer::Digest;
use pontoon_proto::{images, types};
use tokio_stream::{Stream, StreamExt};

fn layer(data: &[u8]) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        digest: Digest::of(data),
        size: data.len() as u64,
        annotations: BTreeMap::new(),
    }
}

fn pieces(data: &[u8], offset: u64) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let data = Bytes::copy_from_slice(&data[usize::try_from(offset).unwrap()..]);
    let pieces: Vec<_> = (0..data.len())
        .step_by(3_000_000)
        .map(|start| Ok(data.slice(start..data.len().min(start + 3_000_000))))
        .collect();
    tokio_stream::iter(pieces)
}

fn none() -> BTreeMap<String, String> {
    BTreeMap::new()
}

async fn write(store: &ContentStore, data: &[u8]) -> Result<Ingested, Error> {
    let open = |offset| pieces(data, offset);
    store.ingest(&layer(data), &none(), open).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_written_and_read() {
    let running = fake::start().await;
    let lease = running
        .client
        .leases()
        .create("hydrate", Duration::from_secs(60))
        .await
        .unwrap();
    let store = lease.client().content();
    let data: Vec<u8> = (0..2_500_000_u32).flat_map(u32::to_le_bytes).collect();
    let descriptor = layer(&data);
    assert!(!store.has(&descriptor.digest).await.unwrap());
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let written = store
        .ingest(&descriptor, &labels, |offset| pieces(&data, offset))
        .await
        .unwrap();
    assert_eq!(written, Ingested::Written { bytes: 10_000_000 });
    let headers = running.fake.state().headers.clone();
    assert_eq!(headers, ("k8s.io".to_owned(), lease.id().to_owned()));
    let info = store.info(&descriptor.digest).await.unwrap().unwrap();
    assert_eq!((info.size, &info.labels), (10_000_000, &labels));

    let more = BTreeMap::from([("e".to_owned(), "f".to_owned())]);
    let again = store.ingest(&descriptor, &more, |offset| pieces(&data, offset));
    assert_eq!(again.await.unwrap(), Ingested::Present);
    let none = BTreeMap::new();
    store.set_labels(&descriptor.digest, &none).await.unwrap();
    let whole = store.blob(&descriptor, 1 << 30).await.unwrap();
    assert_eq!(&whole[..], &data[..]);
    let part = store.read(&descriptor.digest, 5_000_000, 1_000_000).await;
    let part: Vec<Bytes> = part.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(part.concat(), &data[5_000_000..6_000_000]);

    let change = BTreeMap::from([
        ("a".to_owned(), String::new()),
        ("c".to_owned(), "d".to_owned()),
    ]);
    store.set_labels(&descriptor.digest, &change).await.unwrap();
    let info = store.info(&descriptor.digest).await.unwrap().unwrap();
    assert_eq!(
        info.labels,
        BTreeMap::from(
            [("c", "d"), ("e", "f")].map(|(key, value)| (key.to_owned(), value.to_owned()))
        )
    );

    lease.add_content(&descriptor.digest).await.unwrap();
    let resources = running.fake.state().resources.clone();
    assert_eq!(
        resources,
        [("content".to_owned(), descriptor.digest.to_string())]
    );
    let labels = running.fake.state().leases[lease.id()].clone();
    assert!(
        labels["containerd.io/gc.expire"].ends_with('Z'),
        "{labels:?}"
    );
    running.fake.state().leases.clear();
    lease.delete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_for_ever_is_refused() {
    let running = fake::start().await;
    let leases = running.client.leases();
    let error = leases.create("hydrate", Duration::MAX).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(running.fake.state().leases.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_blob_is_a_blob() {
    let running = fake::start().await;
    let store = running.client.content();
    let written = write(&store, b"");
    assert_eq!(written.await.unwrap(), Ingested::Written { bytes: 0 });
    assert!(store.blob(&layer(b""), 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_goes_on_where_it_stopped() {
    let running = fake::start().await;
    let store = running.client.content();
    let data = b"0123456789";
    let descriptor = layer(data);
    let reference = format!("layer-{}", descriptor.digest);
    let begin = |bytes: &[u8]| {
        let ingests = &mut running.fake.state().ingests;
        ingests.insert(reference.clone(), bytes.to_vec());
    };
    let opened = AtomicU64::new(99);
    let open = |offset| {
        opened.store(offset, Ordering::Relaxed);
        pieces(data, offset)
    };
    // What is there is wanted, less, or all; or it is rubbish, or too much.
    for (there, from) in [
        (&b"0123"[..], 4),
        (data, 10),
        (b"x", 0),
        (b"xxxxxxxxxx", 0),
        (b"xxxxxxxxxxxxxx", 0),
        (b"", 0),
    ] {
        begin(there);
        let written = store.ingest(&descriptor, &none(), open).await.unwrap();
        assert_eq!(written, Ingested::Written { bytes: 10 - from });
        assert_eq!(opened.load(Ordering::Relaxed), from);
        assert_eq!(running.fake.state().blobs.len(), 1);
        running.fake.state().blobs.clear();
    }
    assert!(running.fake.state().ingests.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_descriptor_says_is_committed() {
    let descriptor = layer(b"right");
    for wrong in [&b"wrong"[..], b"long one", b"lo", b""] {
        let running = fake::start().await;
        let store = running.client.content();
        let open = |offset| pieces(wrong, offset);
        let error = store.ingest(&descriptor, &none(), open).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(running.fake.state().blobs.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_told() {
    let running = fake::start().await;
    let store = running.client.content();
    let open = |_| {
        let pieces = [
            Ok(Bytes::from_static(b"ri")),
            Err(io::Error::other("the cable")),
        ];
        tokio_stream::iter(pieces)
    };
    let error = store.ingest(&layer(b"right"), &none(), open).await;
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::Source { source, .. } if source.to_string() == "the cable"));
    assert!(!error.is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_already_is_waited_for() {
    let running = fake::start().await;
    running.fake.state().locked = 1;
    let store = running.client.content();
    let written = write(&store, b"data");
    assert_eq!(written.await.unwrap(), Ingested::Written { bytes: 4 });
    assert_eq!(running.fake.state().locked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_blobs_are_told() {
    let running = fake::start().await;
    let store = running.client.content();
    let error = store.blob(&layer(b"gone"), 100).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    for there in [&b"rotten"[..], b"sho", b"much too long"] {
        let descriptor = layer(b"intact");
        let blob = (there.to_vec(), none());
        (running.fake.state().blobs).insert(descriptor.digest.to_string(), blob);
        let error = store.blob(&descriptor, 100).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    let error = store.blob(&layer(b"intact"), 3).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_have_targets() {
    let running = fake::start().await;
    let image = |name: &str, digest: &str| images::Image {
        name: name.to_owned(),
        target: Some(types::Descriptor {
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            digest: digest.to_owned(),
            size: 5,
            ..types::Descriptor::default()
        }),
        ..images::Image::default()
    };
    let good = Digest::of(b"index");
    for image in [
        image("good", &good.to_string()),
        image("bad", "sha256:1"),
        images::Image {
            target: None,
            ..image("none", "")
        },
    ] {
        running
            .fake
            .state()
            .images
            .insert(image.name.clone(), image);
    }
    let images = running.client.images();
    let found = images.get("good").await.unwrap();
    assert_eq!((found.target.digest, found.target.size), (good, 5));
    assert!(images.get("absent").await.unwrap_err().is_not_found());
    for name in ["bad", "none"] {
        let error = images.get(name).await.unwrap_err();
        assert!(matches!(error, Error::Nonsense { .. }), "{error}");
    }
    let list = images.list(&[]).await.unwrap();
    assert_eq!(list.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_home_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nobody.sock");
    let client = Client::new(&socket, "default").unwrap();
    let error = client.images().get("x").await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let store = client.content();
    let written = write(&store, b"x");
    let error = written.await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");

    let running = fake::start().await;
    for namespace in ["", "a\nb", "\u{e4}"] {
        let error = Client::new(&running.socket, namespace).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    let odd = Path::new(std::ffi::OsStr::new("/run/x"));
    assert_eq!(Client::new(odd, "moby").unwrap().namespace(), "moby");
}

#[tokio::test]
async fn a_name_stands_for_what_it_was_given_last() {
    let running = fake::start().await;
    let images = running.client.images();
    let labels = BTreeMap::from([("kept".to_owned(), "yes".to_owned())]);
    for data in [&b"one"[..], b"two"] {
        let target = layer(data);
        images.put("new:1", &target).await.unwrap();
        assert_eq!(images.get("new:1").await.unwrap().target, target);
        let mut state = running.fake.state();
        state
            .images
            .get_mut("new:1")
            .unwrap()
            .labels
            .extend(labels.clone());
    }
    // A change of the target leaves the rest alone.
    assert_eq!(images.get("new:1").await.unwrap().labels, labels);
}
