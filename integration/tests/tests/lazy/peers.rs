//! Several nodes that start the same image, each in a network namespace of its own.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use pontoon_integration::full;
use pontoon_rig::cluster::{Cluster, SNAPSHOTTER};
use pontoon_rig::containerd::{Pull, Version};
use pontoon_rig::digest::sha256;
use pontoon_rig::fleet::{Fleet, Setup};
use pontoon_rig::gate::{Link, Request};
use pontoon_rig::image::{Conversion, Converted, bulky, bulky_content, convert};
use pontoon_rig::plugin::Kind;
use pontoon_rig::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// MiB of the larger files of an image.
const MEGABYTES: usize = 24;

/// What reads all of an image, and prints a digest of it.
const READ: &str = "cat /large/* /small/* | sha256sum";

/// A registry's link that all nodes share: slow enough that it matters who asks.
fn link() -> Link {
    Link::new(200, 5)
}

fn setup(nodes: usize, config: &str) -> Setup {
    Setup {
        nodes,
        version: Version::V2_3,
        kind: Kind::Pontoon("pontoon-stargz".into()),
        config: config.into(),
        link: link(),
        mbit_per_second: None,
        log_level: "debug",
    }
}

/// An image that nobody else has.
struct Image {
    converted: Converted,
    reference: String,
    digest: String,
}

impl Image {
    fn publish(fleet: &Fleet, seed: u64) -> Self {
        let dir = fleet.subdir(&format!("image-{seed}")).unwrap();
        let image = bulky(&dir, seed, MEGABYTES).unwrap();
        let converted = convert(&image, Conversion::Estargz).unwrap();
        let name = format!("bulky-{seed}");
        let reference = fleet.site.push_converted(&converted, &name, "1").unwrap();
        let content: Vec<u8> = bulky_content(seed, MEGABYTES)
            .into_iter()
            .flat_map(|(_, bytes)| bytes)
            .collect();
        let digest = sha256(&content).replace("sha256:", "");
        Self {
            converted,
            reference,
            digest,
        }
    }

    fn size(&self) -> u64 {
        self.converted.image.size().unwrap()
    }

    fn pull(&self, fleet: &Fleet, cluster: &Cluster) {
        let pull = Pull {
            reference: &self.reference,
            snapshotter: SNAPSHOTTER,
            hosts: Some(fleet.site.hosts_dir()),
            user: None,
        };
        cluster.containerd.pull(&pull).unwrap();
    }

    /// A container that reads all of the image.
    fn reader(&self, cluster: &Cluster) -> Command {
        let mut command = cluster.containerd.ctr_command();
        command.args(["run", "--rm", "--snapshotter", SNAPSHOTTER]);
        command.args([&self.reference, "reader", "/bin/sh", "-c", READ]);
        command
    }

    fn read(&self, cluster: &Cluster) {
        self.check(self.start(cluster));
    }

    fn start(&self, cluster: &Cluster) -> Child {
        let mut reader = self.reader(cluster);
        reader.stdout(Stdio::piped()).stderr(Stdio::piped());
        reader.spawn().unwrap()
    }

    fn check(&self, reader: Child) {
        let output = reader.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        assert!(printed.starts_with(&self.digest), "{printed}{errors}");
    }
}

fn blob_bytes(fleet: &Fleet) -> u64 {
    fleet.site.gate.bytes_of(Request::is_blob)
}

/// Waits until `node` knows `others` other nodes.
fn wait_for_others(fleet: &Fleet, node: usize, others: usize) {
    let known = || {
        let told = fleet.peers(node)?;
        let peers = told["peers"].as_array().map_or(0, Vec::len);
        Ok((peers >= others).then_some(()))
    };
    wait::until("nodes that know each other", LIMIT, known).unwrap();
}

/// Waits until `node` has all of its layers.
fn wait_complete(fleet: &Fleet, node: usize) {
    let complete = || {
        let told = fleet.peers(node)?;
        let layers = told["layers"].as_array().cloned().unwrap_or_default();
        let is_complete = |layer: &serde_json::Value| layer["chunks_here"] == layer["chunks"];
        Ok((!layers.is_empty() && layers.iter().all(is_complete)).then_some(()))
    };
    let waited = wait::until("a node that has everything", LIMIT, complete);
    assert!(
        waited.is_ok(),
        "{}\n{}",
        fleet.peers(node).unwrap(),
        fleet.node(node).unwrap().plugin.log()
    );
}

fn told(fleet: &Fleet, nodes: usize) -> String {
    let metric = |node, name: &str| fleet.metric(node, name).unwrap_or_default();
    let lines = (0..nodes).map(|node| {
        format!(
            "node {node}: {} bytes of blobs, {} bytes from peers, {} late\n",
            metric(node, "pontoon_registry_blob_bytes_total"),
            metric(node, "pontoon_lazy_peer_bytes_total"),
            metric(node, "pontoon_lazy_late_peers_total"),
        )
    });
    lines.collect()
}

#[test]
fn nodes_that_start_together_ask_the_registry_for_an_image_once() {
    let nodes = if full() { 8 } else { 4 };
    let fleet = Fleet::start(setup(nodes, "")).unwrap();
    (0..nodes).for_each(|node| wait_for_others(&fleet, node, nodes - 1));
    let image = Image::publish(&fleet, 1);
    let before = blob_bytes(&fleet);
    thread::scope(|scope| {
        for cluster in fleet.nodes() {
            let (fleet, image) = (&fleet, &image);
            scope.spawn(move || {
                image.pull(fleet, cluster);
                image.read(cluster);
            });
        }
    });
    (0..nodes).for_each(|node| wait_complete(&fleet, node));
    let (bytes, size) = (blob_bytes(&fleet) - before, image.size());
    println!(
        "{bytes} bytes of blobs for {nodes} nodes, of {size}\n{}",
        told(&fleet, nodes)
    );
    assert!(
        bytes * 10 <= size * 13,
        "{bytes} bytes of blobs for {size}\n{}",
        told(&fleet, nodes)
    );
}

#[test]
fn a_late_node_reads_from_the_others_alone_even_if_the_registry_is_gone() {
    let mut fleet = Fleet::new(setup(3, "")).unwrap();
    fleet.start_node(0).unwrap();
    fleet.start_node(1).unwrap();
    let image = Image::publish(&fleet, 2);
    for node in [0, 1] {
        image.pull(&fleet, fleet.node(node).unwrap());
        wait_complete(&fleet, node);
    }
    fleet.start_node(2).unwrap();
    wait_for_others(&fleet, 2, 2);
    let before = blob_bytes(&fleet);
    let late = fleet.node(2).unwrap();
    image.pull(&fleet, late);
    fleet.site.gate.down().unwrap();
    image.read(late);
    wait_complete(&fleet, 2);
    // Tables of contents come from the registry, and what came before anybody was found.
    let (bytes, size) = (blob_bytes(&fleet) - before, image.size());
    assert!(bytes < size / 5, "{bytes} of {size}\n{}", told(&fleet, 3));
    assert_eq!(
        fleet
            .metric(2, "pontoon_lazy_reads_total{result=\"failed\"}")
            .unwrap(),
        0
    );
}

#[test]
fn nodes_that_are_killed_under_a_read_break_nothing() {
    let config = "[background]\nenabled = false\n";
    let nodes = 4;
    let mut fleet = Fleet::start(setup(nodes, config)).unwrap();
    (0..nodes).for_each(|node| wait_for_others(&fleet, node, nodes - 1));
    let image = Image::publish(&fleet, 3);
    for node in 0..nodes {
        image.pull(&fleet, fleet.node(node).unwrap());
    }
    for node in [0, 1] {
        image.read(fleet.node(node).unwrap());
    }
    let readers: Vec<Child> = [2, 3]
        .into_iter()
        .map(|node| image.start(fleet.node(node).unwrap()))
        .collect();
    let some = || {
        let bytes = fleet.metric(2, "pontoon_lazy_peer_bytes_total")?;
        Ok((bytes > 1 << 20).then_some(()))
    };
    wait::until("bytes of other nodes", LIMIT, some).unwrap();
    for node in [0, 1] {
        fleet.node_mut(node).unwrap().plugin.kill().unwrap();
    }
    readers.into_iter().for_each(|reader| image.check(reader));
    for node in [2, 3] {
        let failed = "pontoon_lazy_reads_total{result=\"failed\"}";
        assert_eq!(fleet.metric(node, failed).unwrap(), 0);
    }
    println!("{}", told(&fleet, nodes));
}
