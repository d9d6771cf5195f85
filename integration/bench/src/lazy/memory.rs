//! The daemon's memory when many images are mounted.

use std::error::Error;
use std::time::Duration;

use pontoon_rig::gate::Link;
use pontoon_rig::image::Workload;

use super::measure::quiet;
use super::node::{Column, Node, Settings};
use super::store::{Form, Store};
use super::table::Judged;
use super::timed;
use super::watch::Watch;

/// What was needed for a moment is given back within this time.
const SETTLED: Duration = Duration::from_secs(2);

/// What one more GB of images may cost, in MB.
const MORE: f64 = 20.0;

/// Mounts the images of all `workloads` on one node, one after the other, and compares its memory with one image's.
pub(super) fn measure(
    store: &Store,
    workloads: &[Workload],
    settings: &Settings,
) -> Result<Vec<Judged>, Box<dyn Error>> {
    let [first, .., last] = workloads else {
        eprintln!("memory of further images: there is only one");
        return Ok(Vec::new());
    };
    let node = Node::start(Column::Cold, store, *first, settings)?;
    let watch = Watch::start(node.sandbox.dir());
    store.wire.set_link(Link::default());
    let (mut one, mut bytes) = (0.0, 0);
    let mut roots = Vec::new();
    for workload in workloads {
        let image = store.image(*workload, Form::Estargz)?;
        timed::run(&mut node.pull(&image.reference), None)?;
        roots.push(node.mount(&image.reference)?);
        quiet(store)?;
        std::thread::sleep(SETTLED);
        if workload == first {
            one = watch.now_mb();
        } else {
            bytes += image.bytes;
        }
        if workload == last {
            break;
        }
    }
    let more = (watch.now_mb() - one) / (bytes as f64 / 1e9);
    for root in &roots {
        node.unmount(root)?;
    }
    let count = workloads.len();
    let what = format!("RssAnon for each further GB (compressed), {count} images mounted");
    Ok(vec![Judged::value(what, "MB", more, MORE)])
}
