//! containerd's content store, images and leases by our client, and its layers by our unpacking, against its own.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use pontoon_containerd::{Client, ContentStore, Descriptor, Error, Ingested, Lease};
use pontoon_integration::{BUILTIN, Bench};
use pontoon_layer::Digest;
use pontoon_rig::containerd::Version;
use pontoon_rig::image::{self, LayerBuilder, Layout, Spec};
use pontoon_rig::tree::Tree;
use pontoon_unpack::{Expected, Options, directories, unpack};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_stream::{Stream, StreamExt};

/// Makes one test of a scenario for each containerd.
macro_rules! with_each_containerd {
    ($($scenario:ident),+ $(,)?) => {
        mod containerd_1_7 {
            $(#[test]
            fn $scenario() {
                super::$scenario(super::Version::V1_7);
            })+
        }
        mod containerd_2_3 {
            $(#[test]
            fn $scenario() {
                super::$scenario(super::Version::V2_3);
            })+
        }
    };
}

with_each_containerd!(
    writes_blobs_that_containerd_keeps,
    unpacks_as_containerd_does
);

/// More than a manifest or a configuration here has, in bytes.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

struct Connected {
    bench: Bench,
    runtime: Runtime,
    client: Client,
}

impl Connected {
    fn new(version: Version) -> Self {
        let bench = Bench::start(version, 1).unwrap();
        let runtime = Runtime::new().unwrap();
        let containerd = &bench.cluster.containerd;
        let client = {
            let _inside = runtime.enter();
            Client::new(&containerd.socket(), containerd.namespace()).unwrap()
        };
        Connected {
            bench,
            runtime,
            client,
        }
    }

    /// The layers of an image, the lowest first, and their diff IDs.
    fn layers(&self, reference: &str) -> Vec<(Descriptor, Digest)> {
        self.runtime.block_on(async {
            let store = self.client.content();
            let image = self.client.images().get(reference).await.unwrap();
            let manifest = document(&store, &image.target).await;
            let config = document(&store, &descriptor(&manifest["config"])).await;
            let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
            let layers = manifest["layers"].as_array().unwrap();
            let diff_ids = diff_ids.iter().map(|id| id.as_str().unwrap().parse());
            layers
                .iter()
                .map(descriptor)
                .zip(diff_ids.map(Result::unwrap))
                .collect()
        })
    }

    fn blob(&self, digest: &Digest) -> Vec<u8> {
        self.runtime.block_on(async {
            let pieces = self.client.content().read(digest, 0, 0).await.unwrap();
            let pieces: Vec<Bytes> = pieces.map(Result::unwrap).collect().await;
            pieces.concat()
        })
    }

    /// `length` bytes of a blob from `offset` on.
    fn part(&self, digest: &Digest, offset: u64, length: u64) -> Vec<u8> {
        self.runtime.block_on(async {
            let store = self.client.content();
            let pieces = store.read(digest, offset, length).await.unwrap();
            let pieces: Vec<Bytes> = pieces.map(Result::unwrap).collect().await;
            pieces.concat()
        })
    }

    /// The directories of the layers of an unpacked image, the lowest first.
    fn directories(&self, chain_id: &str) -> Vec<PathBuf> {
        let snapshots = ["snapshots", "--snapshotter", BUILTIN];
        let view = ["view", "--mounts", "a-view", chain_id];
        let containerd = &self.bench.cluster.containerd;
        let mounts = containerd
            .ctr(snapshots.iter().chain(&view))
            .unwrap()
            .stdout;
        let from = mounts.find("lowerdir=").unwrap() + "lowerdir=".len();
        let lower = mounts[from..].split(['"', ',', ' ', '\n', '\'']).next();
        // The collector may have been faster.
        let remove = snapshots.iter().chain(&["rm", "a-view"]);
        containerd.try_ctr(remove).unwrap();
        let mut lower: Vec<_> = lower.unwrap().split(':').map(PathBuf::from).collect();
        lower.reverse();
        lower
    }
}

async fn document(store: &ContentStore, descriptor: &Descriptor) -> Value {
    let bytes = store.blob(descriptor, DOCUMENT_BYTES_MAX).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn descriptor(value: &Value) -> Descriptor {
    Descriptor {
        media_type: value["mediaType"].as_str().unwrap().to_owned(),
        digest: value["digest"].as_str().unwrap().parse().unwrap(),
        size: value["size"].as_u64().unwrap(),
        annotations: BTreeMap::new(),
    }
}

/// `data` from `offset` on, in pieces that end in an error after `good` bytes.
fn pieces(data: &[u8], offset: u64, good: usize) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let end = good.min(data.len());
    let data_from = Bytes::copy_from_slice(&data[usize::try_from(offset).unwrap().min(end)..end]);
    let failure = (good < data.len()).then(|| Err(io::Error::other("cut")));
    let count = data_from.len();
    let pieces = (0..count).step_by(100_000).map(move |start| {
        let end = count.min(start + 100_000);
        Ok(data_from.slice(start..end))
    });
    tokio_stream::iter(pieces.chain(failure))
}

fn writes_blobs_that_containerd_keeps(version: Version) {
    let connected = Connected::new(version);
    let bench = &connected.bench;
    let (layout, odd) = bench.publish("odd", image::odd).unwrap();
    bench.pull(BUILTIN, &odd).unwrap();
    let layers = connected.layers(&odd);
    let layer = &layers[0].0;
    let data = layout.blob(&layer.digest.to_string()).unwrap();
    let containerd = &bench.cluster.containerd;
    // As after a lazy pull: the image is there, and a layer's blob is not.
    let remove = ["content", "rm", &layer.digest.to_string()];
    containerd.ctr(remove).unwrap();
    bench.collect_garbage().unwrap();

    connected.runtime.block_on(async {
        let leases = connected.client.leases();
        let lifetime = Duration::from_secs(600);
        let lease = leases.create("test", lifetime).await.unwrap();
        let store = lease.client().content();
        let labels = BTreeMap::from([("pontoon".to_owned(), "was here".to_owned())]);
        assert!(!store.has(&layer.digest).await.unwrap());

        let cut = |offset| pieces(&data, offset, data.len() / 2);
        let error = store.ingest(layer, &labels, cut).await.unwrap_err();
        assert!(matches!(error, Error::Source { .. }), "{error}");
        let wrong = Descriptor {
            digest: Digest::of(b"something else"),
            ..layer.clone()
        };
        let whole = |offset| pieces(&data, offset, usize::MAX);
        let error = store.ingest(&wrong, &labels, whole).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(!store.has(&layer.digest).await.unwrap());

        // The transfer that was cut is closed a moment later; what it wrote is not written again.
        let written = store.ingest(layer, &labels, whole).await.unwrap();
        let Ingested::Written { bytes } = written else {
            panic!("{written:?}");
        };
        assert!(bytes <= layer.size, "{bytes}");
        let again = store.ingest(layer, &labels, whole).await.unwrap();
        assert_eq!(again, Ingested::Present);
        let info = store.info(&layer.digest).await.unwrap().unwrap();
        assert_eq!(
            (info.size, &info.labels["pontoon"][..]),
            (layer.size, "was here")
        );

        shares_with_another_namespace(&connected, layer, whole).await;
        keeps_while_there_is_a_lease(&connected, lease, layer).await;
    });
    assert_eq!(connected.blob(&layer.digest), data);
    assert_eq!(connected.part(&layer.digest, 100, 50), data[100..150]);
    let exported = bench.cluster.sandbox.path("exported.tar");
    let export = ["images", "export", &exported.to_string_lossy(), &odd];
    containerd.ctr(export).unwrap();
    bench.check_empties().unwrap();
}

/// Another namespace that names a blob has it: nothing is sent again.
async fn shares_with_another_namespace<S: Stream<Item = io::Result<Bytes>>>(
    connected: &Connected,
    layer: &Descriptor,
    open: impl Fn(u64) -> S,
) {
    let socket = connected.bench.cluster.containerd.socket();
    let leases = Client::new(&socket, "elsewhere").unwrap().leases();
    let lifetime = Duration::from_secs(600);
    let lease = leases.create("test", lifetime).await.unwrap();
    let store = lease.client().content();
    assert!(!store.has(&layer.digest).await.unwrap());
    let none = BTreeMap::new();
    let shared = store.ingest(layer, &none, open).await.unwrap();
    assert_eq!(shared, Ingested::Written { bytes: 0 });
    assert!(store.has(&layer.digest).await.unwrap());
    lease.delete().await.unwrap();
}

/// What nothing refers to is kept by the lease, and goes with it; the manifest keeps `layer`.
async fn keeps_while_there_is_a_lease(connected: &Connected, lease: Lease, layer: &Descriptor) {
    let store = lease.client().content();
    let loose = Descriptor {
        digest: Digest::of(b"loose"),
        size: 5,
        ..layer.clone()
    };
    let open = |offset| pieces(b"loose", offset, usize::MAX);
    store.ingest(&loose, &BTreeMap::new(), open).await.unwrap();
    let change = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    store.set_labels(&loose.digest, &change).await.unwrap();
    let info = store.info(&loose.digest).await.unwrap().unwrap();
    assert_eq!(info.labels["a"], "b");
    connected.bench.collect_garbage().unwrap();
    assert!(store.has(&loose.digest).await.unwrap());
    lease.add_content(&layer.digest).await.unwrap();
    lease.delete().await.unwrap();
    connected.bench.collect_garbage().unwrap();
    let store = connected.client.content();
    assert!(!store.has(&loose.digest).await.unwrap());
    assert!(store.has(&layer.digest).await.unwrap());
}

/// Two layers as umoci makes them: directories that did not change are not listed.
fn without_parents(dir: &Path) -> pontoon_rig::Result<Layout> {
    let mut base = LayerBuilder::new();
    base.dir("tmp", 0o1777, 0, 0)?;
    base.dir("opt", 0o755, 0, 0)?;
    base.xattrs(&[("user.kept", b"yes")])?;
    // Not set-group-ID: containerd lets that leak into directories that no layer lists.
    base.dir("opt/app", 0o750, 5, 6)?;
    base.file("opt/app/conf", 0o600, 5, 6, b"1\n")?;
    base.dir("usr", 0o755, 0, 0)?;
    base.dir("usr/lib", 0o711, 7, 8)?;
    base.symlink("lib", "usr/lib")?;
    base.file("not-a-dir", 0o644, 0, 0, b"")?;
    let mut top = LayerBuilder::new();
    top.file("tmp/x", 0o644, 0, 0, b"x")?;
    top.file("opt/app/more/y", 0o644, 5, 6, b"y")?;
    top.file("lib/z", 0o644, 0, 0, b"z")?;
    top.file("not-a-dir/now", 0o644, 0, 0, b"")?;
    top.symlink("here", "opt/app")?;
    top.file("here/through", 0o644, 0, 0, b"t")?;
    top.symlink("far", "../../made/by/link")?;
    top.file("far/w", 0o644, 0, 0, b"w")?;
    top.hardlink("opt/linked", "here/through", 0o644, 0, 0)?;
    top.whiteout("opt/app/conf")?;
    top.opaque("usr/lib")?;
    let spec = Spec {
        command: vec!["/none".to_owned()],
        environment: Vec::new(),
    };
    Layout::write(dir, &spec, &[base.finish()?, top.finish()?])
}

fn unpacks_as_containerd_does(version: Version) {
    let connected = Connected::new(version);
    for name in ["odd", "parents"] {
        let make = match name {
            "odd" => image::odd,
            _ => without_parents,
        };
        let (layout, reference) = connected.bench.publish(name, make).unwrap();
        connected.bench.pull(BUILTIN, &reference).unwrap();
        let chain = layout.chain_ids().unwrap();
        let theirs = connected.directories(chain.last().unwrap());
        let layers = connected.layers(&reference);
        assert_eq!(theirs.len(), layers.len());
        let mut below: Vec<PathBuf> = Vec::new();
        for (their, (descriptor, diff_id)) in theirs.iter().zip(&layers) {
            let blob = connected.blob(&descriptor.digest);
            let target = connected.bench.cluster.sandbox.subdir("unpacked").unwrap();
            let ours = target.join(descriptor.digest.hex());
            std::fs::create_dir(&ours).unwrap();
            let look = |path: &Path| directories(&below, path);
            let options = Options {
                expected: Expected {
                    digest: Some(descriptor.digest.clone()),
                    size: Some(descriptor.size),
                    diff_id: Some(diff_id.clone()),
                },
                below: &look,
                ..Options::new()
            };
            unpack(&blob[..], &ours, &options).unwrap();
            same(&ours, their, name);
            below.insert(0, their.clone());
        }
    }
    connected.bench.check_empties().unwrap();
}

/// Fails unless both directories are the same, except for times that are those of the unpacking.
fn same(ours: &Path, theirs: &Path, name: &str) {
    let (mut left, mut right) = (Tree::read(ours).unwrap(), Tree::read(theirs).unwrap());
    for path in entries(ours) {
        let stat = std::fs::symlink_metadata(ours.join(&path)).unwrap();
        let whiteout = stat.file_type().is_char_device() && stat.rdev() == 0;
        let recent = std::fs::symlink_metadata(theirs.join(&path)).is_ok_and(|stat| {
            stat.modified().unwrap().elapsed().unwrap() < Duration::from_secs(600)
        });
        // containerd changes the times of directories that it has copied from below.
        if whiteout || stat.is_dir() && recent {
            left.forget_time(&path);
            right.forget_time(&path);
        }
    }
    let differences = left.differences(&right);
    assert!(differences.is_empty(), "{name}: {differences:#?}");
    assert_eq!(opaque(ours), opaque(theirs), "{name}");
}

fn entries(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(root).unwrap().to_path_buf());
            if std::fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

fn opaque(root: &Path) -> Vec<PathBuf> {
    let mut value = [0; 8];
    let mut paths = entries(root);
    paths.retain(|path| {
        let path = root.join(path);
        rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut value[..]) == Ok(1)
    });
    paths
}
