//! The mirror for other clients: another containerd, without any plugin of ours, pulls what the first one has.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use bytes::Bytes;
use pontoon_containerd::{Client, Descriptor};
use pontoon_integration::BUILTIN;
use pontoon_layer::Digest;
use pontoon_rig::cluster::{Cluster, SNAPSHOTTER, Setup};
use pontoon_rig::command::{attempt, run};
use pontoon_rig::containerd::{self, Containerd, Pull, Version};
use pontoon_rig::gate::Request;
use pontoon_rig::hosts::{self, Host};
use pontoon_rig::image;
use pontoon_rig::plugin::Kind;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::site::{self, Site, Users};
use pontoon_rig::token::{PASSWORD, USER};

use crate::stage::LIMIT;

/// A node with the plugin and its mirror, and an ordinary image that it has pulled. The registry ends first.
struct Node {
    site: Site,
    cluster: Cluster,
    mirror: String,
    image: String,
    /// The same by digest.
    digest: String,
}

impl Node {
    /// `registries` are those whose content the mirror gives. `None` if the plugin under test is not ours.
    fn start(users: Users, registries: &[&str]) -> Option<Self> {
        if Kind::lazy_from_env() == Kind::Stargz {
            return None;
        }
        let sandbox = Sandbox::new().unwrap();
        let setup = site::Setup {
            users,
            tls: false,
            address: None,
        };
        let site = Site::start(&sandbox, setup).unwrap();
        let config = format!(
            "[registry]\nconfig_path = {:?}\n[mirror]\nlisten = \"127.0.0.1:0\"\ncontainerd = {:?}\nnamespace = {:?}\nregistries = {registries:?}\n",
            site.hosts_dir(),
            sandbox.path("containerd/c.sock"),
            sandbox.name(),
        );
        let cluster = Cluster::start_in(sandbox, Setup::lazy(Version::V2_3, &config)).unwrap();
        let log = cluster.plugin.log();
        let told = log
            .lines()
            .find(|line| line.contains("other clients on this node"))
            .unwrap();
        let address = told.split("address=").nth(1).unwrap();
        let mirror = address.split_whitespace().next().unwrap().to_owned();

        let dir = cluster.sandbox.subdir("odd").unwrap();
        let image = site
            .push(&image::odd(&dir).unwrap(), "team/odd", "1")
            .unwrap();
        let user = (users != Users::All).then(|| format!("{USER}:{PASSWORD}"));
        let pull = Pull {
            reference: &image,
            snapshotter: SNAPSHOTTER,
            hosts: Some(site.hosts_dir()),
            user: user.as_deref(),
        };
        cluster.containerd.pull(&pull).unwrap();
        let manifest = site.store().manifest("team/odd", "1").unwrap();
        let digest = format!("{}/team/odd@{}", site.host(), Digest::of(&manifest));
        Some(Node {
            site,
            cluster,
            mirror,
            image,
            digest,
        })
    }
}

/// A containerd of its own, which asks the mirror of a node first.
struct Other {
    containerd: Containerd,
    sandbox: Sandbox,
}

impl Other {
    fn start(version: Version, node: &Node) -> Self {
        let sandbox = Sandbox::new().unwrap();
        let setup = containerd::Setup {
            version,
            proxies: Vec::new(),
            concurrent_unpacks: 1,
            cri: None,
            namespace: None,
        };
        let host = Host {
            capabilities: vec!["pull".to_owned(), "resolve".to_owned()],
            ..Host::new(format!("http://{}", node.mirror))
        };
        let registry = format!("http://{}", node.site.host());
        let dir = sandbox.subdir("hosts").unwrap();
        hosts::write(&dir, node.site.host(), Some(&registry), &[host]).unwrap();
        Other {
            containerd: Containerd::start(&sandbox, &setup).unwrap(),
            sandbox,
        }
    }

    fn hosts(&self) -> std::path::PathBuf {
        self.sandbox.path("hosts")
    }

    fn pull(&self, reference: &str) -> bool {
        let hosts = self.hosts();
        let pull = pull(reference, &hosts);
        let mut command = self.containerd.transfer_pull_command(&pull);
        attempt(&mut command, LIMIT).unwrap().status.success()
    }
}

fn pull<'a>(reference: &'a str, hosts: &'a Path) -> Pull<'a> {
    Pull {
        reference,
        snapshotter: BUILTIN,
        hosts: Some(hosts),
        user: None,
    }
}

/// With the registry only for what the tag stands for; and without it, by digest.
#[test]
fn a_plain_containerd_pulls_from_the_mirror() {
    // As containerd names them, without the port.
    let Some(node) = Node::start(Users::All, &["127.0.0.1"]) else {
        return;
    };
    for version in Version::ALL {
        let other = Other::start(version, &node);
        let gate = &node.site.gate;
        let (requests, blobs) = (gate.requests(), gate.count(Request::is_blob));
        let hosts = other.hosts();
        let mut command = other
            .containerd
            .transfer_pull_command(&pull(&node.image, &hosts));
        run(&mut command, LIMIT).unwrap();
        assert_eq!(gate.count(Request::is_blob), blobs, "{version:?}");
        assert!(
            gate.requests() > requests,
            "{version:?}: a tag is the registry's to tell"
        );
    }
    node.site.gate.down().unwrap();
    for version in Version::ALL {
        let other = Other::start(version, &node);
        assert!(
            !other.pull(&node.image),
            "{version:?}: nobody can tell what a tag stands for"
        );
        assert!(other.pull(&node.digest), "{version:?}");
        let cat = ["/bin/cat", "/data/kept"];
        let kept = other
            .containerd
            .run(BUILTIN, &[], &node.digest, "reader", &cat);
        assert_eq!(kept.unwrap().stdout.trim_end(), "kept", "{version:?}");
    }
    // What is not there is not found, and nothing else happens.
    let absent = Other::start(Version::V2_3, &node);
    let digest = format!("{}/team/odd@{}", node.site.host(), Digest::of(b"absent"));
    assert!(!absent.pull(&digest));
    assert!(
        !node.cluster.plugin.log().contains(" ERROR "),
        "{}",
        node.cluster.plugin.log()
    );
}

/// Whoever knows a digest gets it without credentials, which is what the page about the mirror says; a name is of no use to
/// him. An operator can keep a registry out of it.
#[test]
fn a_private_image_is_found_by_digest_only() {
    let user = Users::Basic;
    for (registries, is_given) in [(&[][..], true), (&["public.example"][..], false)] {
        let Some(node) = Node::start(user, registries) else {
            return;
        };
        let other = Other::start(Version::V2_3, &node);
        assert!(!other.pull(&node.image));
        assert_eq!(other.pull(&node.digest), is_given, "{registries:?}");
    }
}

/// More than sockets and windows of HTTP/2 hold.
const LARGE: usize = 64 << 20;

/// A blob in containerd that nothing refers to, kept by a lease that ends with the test.
async fn put(node: &Node, bytes: &Bytes) -> Digest {
    let containerd = &node.cluster.containerd;
    let client = Client::new(&containerd.socket(), containerd.namespace()).unwrap();
    let lease = client.leases().create("test", LIMIT * 10).await.unwrap();
    let descriptor = Descriptor {
        media_type: "application/octet-stream".to_owned(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        annotations: BTreeMap::new(),
    };
    let whole = |offset: u64| {
        let rest = bytes.slice(offset as usize..);
        let pieces = rest.chunks(1 << 20).map(Bytes::copy_from_slice);
        tokio_stream::iter(pieces.map(io::Result::Ok).collect::<Vec<_>>())
    };
    let store = lease.client().content();
    store
        .ingest(&descriptor, &BTreeMap::new(), whole)
        .await
        .unwrap();
    descriptor.digest
}

/// Asks the mirror for a part of a blob, and leaves the answer unread.
fn ask(node: &Node, digest: &Digest, range: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&node.mirror).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let host = &node.mirror;
    let request = format!(
        "GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: {host}\r\nrange: bytes={range}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The body of an answer of `length` bytes.
fn body(stream: TcpStream, length: usize) -> Vec<u8> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let mut whole = vec![0; length];
    reader.read_exact(&mut whole).unwrap();
    whole
}

/// All of them are read over one connection to containerd.
#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let Some(node) = Node::start(Users::All, &[]) else {
        return;
    };
    let bytes = Bytes::from(image::noise(5, LARGE));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let digest = runtime.block_on(put(&node, &bytes));
    let mut idle: Vec<TcpStream> = (0..8).map(|_| ask(&node, &digest, "0-")).collect();
    for stream in &mut idle {
        // It has begun.
        stream.read_exact(&mut [0]).unwrap();
    }
    assert!(body(ask(&node, &digest, "0-"), LARGE) == bytes);
    let middle = body(ask(&node, &digest, "5000001-8999999"), 3_999_999);
    assert!(middle == bytes[5_000_001..9_000_000]);
}
