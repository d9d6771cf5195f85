//! The wall time of `ctr images pull` of a real image of several layers, from a registry on loopback.
//!
//! One containerd has both snapshotters: Pontoon as a proxy plugin and its own overlayfs. They take turns, and
//! before each pull the image, its content and its snapshots are gone.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use pontoon_rig::cluster::{Cluster, SNAPSHOTTER, Setup};
use pontoon_rig::containerd::Version;
use pontoon_rig::image;
use pontoon_rig::plugin;
use pontoon_rig::registry::Registry;

use crate::metadata::middle;
use crate::report::{Comparison, Goal, Side};

/// The median of `rounds`, for layers unpacked one by one and four at a time.
pub(crate) fn measure(rounds: usize) -> Result<Vec<Comparison>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for (what, concurrent_unpacks) in [("serially", 1), ("in parallel", 4)] {
        let mut times: BTreeMap<Side, Vec<f64>> = BTreeMap::new();
        let plugin = plugin::Setup {
            log_level: "info",
            ..plugin::Setup::default()
        };
        let setup = Setup {
            concurrent_unpacks,
            plugin,
            ..Setup::new(Version::V2_3)
        };
        let cluster = Cluster::start(setup)?;
        let registry = Registry::start(&cluster.sandbox)?;
        let reference = registry.push(&image::debian()?, "bench", "latest")?;
        // The first round fills the page cache for both.
        for round in 0..=rounds {
            for (side, snapshotter) in [
                (Side::Pontoon, SNAPSHOTTER),
                (Side::Containerd, "overlayfs"),
            ] {
                let time = pull(&cluster, &reference, snapshotter)?;
                if round > 0 {
                    times.entry(side).or_default().push(time);
                }
            }
        }
        let row = Comparison::new(format!("pull of a Debian image, unpacked {what}"), "s");
        rows.push(
            times
                .into_iter()
                .fold(row, |row, (side, times)| row.with(side, middle(times)))
                .goal(Goal::AtMost(1.03)),
        );
    }
    Ok(rows)
}

fn pull(cluster: &Cluster, reference: &str, snapshotter: &str) -> Result<f64, Box<dyn Error>> {
    // Nothing of the last round is written back during this one.
    rustix::fs::sync();
    let start = Instant::now();
    cluster.containerd.ctr([
        "images",
        "pull",
        "--plain-http",
        "--snapshotter",
        snapshotter,
        reference,
    ])?;
    let time = start.elapsed().as_secs_f64();
    cluster
        .containerd
        .ctr(["images", "rm", "--sync", reference])?;
    let left = cluster.snapshots_of(snapshotter)?;
    if !left.is_empty() {
        return Err(format!("{snapshotter} still has {left:?} after the image is gone").into());
    }
    Ok(time)
}
