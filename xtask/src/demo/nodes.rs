//! Several nodes start one image at once.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::containerd::{Pull, Version};
use pontoon_rig::fleet::{Fleet, Setup};
use pontoon_rig::gate::{Link, Request};
use pontoon_rig::image::{self, Conversion};
use pontoon_rig::plugin::Kind;
use pontoon_rig::{Error, Result, wait};

use super::{LAZY_PLUGIN, Show};

/// The registry's link, which all nodes share: megabits a second, and milliseconds of a round trip.
const LINK: (u64, u64) = (200, 10);

/// What each node is sent at most, in megabits a second.
const NODE_MBIT: u32 = 1000;

/// How long nodes may take to find each other, and to have all of an image.
const LIMIT: Duration = Duration::from_secs(300);

/// What became of a node.
struct Ready {
    pull: Duration,
    start: Duration,
}

/// Starts `nodes` nodes, then one image on all of them, and shows where its bytes came from.
pub(super) fn present(show: &mut Show, target: &Path, nodes: usize) -> Result<()> {
    let kind = Kind::Pontoon(target.join(LAZY_PLUGIN).to_string_lossy().into_owned());
    let what = format!(
        "Start {nodes} nodes, each in a network namespace with a containerd and {LAZY_PLUGIN}, and one registry of {} Mbit/s",
        LINK.0
    );
    let fleet = show.step(&what, || {
        Fleet::start(Setup {
            nodes,
            version: Version::V2_3,
            kind,
            config: String::new(),
            link: Link::new(LINK.0, LINK.1),
            mbit_per_second: Some(NODE_MBIT),
            log_level: "info",
        })
    })?;
    show.step("Wait until they know each other", || {
        (0..nodes).try_for_each(|node| know_each_other(&fleet, node, nodes - 1))
    })?;
    let (image, reference) = show.step("Push a Debian image with Python, as eStargz", || {
        let image = image::convert(&image::debian()?, Conversion::Estargz)?;
        let reference = fleet.site.push_converted(&image, "debian", "demo")?;
        Ok((image, reference))
    })?;
    let bytes = || fleet.site.gate.bytes_of(Request::is_blob);
    let before = bytes();
    let ready = show.step("Pull and start it on all of them at once", || {
        start_everywhere(&fleet, &reference)
    })?;
    let by_then = bytes() - before;
    show.step("Wait until all of them have all of it", || {
        (0..nodes).try_for_each(|node| complete(&fleet, node))
    })?;
    let all = bytes() - before;
    Show::tell(&table(&fleet, &ready)?);
    let size = image.image.size()?;
    let share = |bytes: u64| bytes as f64 / size as f64;
    println!(
        "\nThe registry sent {:.1} MB of blobs until all had started, {:.1} MB in all: {:.2} times the image of {:.1} MB, for {nodes} nodes.",
        by_then as f64 / 1e6,
        all as f64 / 1e6,
        share(all),
        size as f64 / 1e6,
    );
    Ok(())
}

fn know_each_other(fleet: &Fleet, node: usize, others: usize) -> Result<()> {
    wait::until("nodes that know each other", LIMIT, || {
        let told = fleet.peers(node)?;
        let known = told["peers"].as_array().map_or(0, Vec::len);
        Ok((known >= others).then_some(()))
    })
}

fn complete(fleet: &Fleet, node: usize) -> Result<()> {
    wait::until("a node that has all of the image", LIMIT, || {
        let told = fleet.peers(node)?;
        let layers = told["layers"].as_array().cloned().unwrap_or_default();
        let mut layers = layers.iter();
        let all = layers.all(|layer| layer["chunks_here"] == layer["chunks"]);
        Ok(all.then_some(()))
    })
}

fn start_everywhere(fleet: &Fleet, reference: &str) -> Result<Vec<Ready>> {
    thread::scope(|scope| {
        let starts: Vec<_> = fleet
            .nodes()
            .map(|cluster| {
                scope.spawn(|| {
                    let began = Instant::now();
                    cluster.containerd.pull(&Pull {
                        reference,
                        snapshotter: SNAPSHOTTER,
                        hosts: Some(fleet.site.hosts_dir()),
                        user: None,
                    })?;
                    let pull = began.elapsed();
                    let containerd = &cluster.containerd;
                    containerd.run(SNAPSHOTTER, &[], reference, "first", &[])?;
                    let start = began.elapsed() - pull;
                    Ok(Ready { pull, start })
                })
            })
            .collect();
        let joined = starts.into_iter().map(|start| {
            let panicked = |_| Error::unexpected("starting a container", "a thread panicked");
            start.join().map_err(panicked)?
        });
        joined.collect()
    })
}

fn table(fleet: &Fleet, ready: &[Ready]) -> Result<String> {
    let mut text = format!(
        "{:<6} {:>8} {:>10} {:>16} {:>16} {:>16}",
        "node", "pull", "first run", "of the registry", "of other nodes", "given to others"
    );
    for (node, ready) in ready.iter().enumerate() {
        let megabytes = |name: &str| {
            let bytes = fleet.metric(node, name)?;
            Ok::<_, Error>(format!("{:.1} MB", bytes as f64 / 1e6))
        };
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f32());
        text.push_str(&format!(
            "\n{node:<6} {:>8} {:>10} {:>16} {:>16} {:>16}",
            seconds(ready.pull),
            seconds(ready.start),
            megabytes("pontoon_registry_blob_bytes_total")?,
            megabytes("pontoon_lazy_peer_bytes_total")?,
            megabytes("pontoon_peer_given_bytes_total")?,
        ));
    }
    Ok(text)
}
