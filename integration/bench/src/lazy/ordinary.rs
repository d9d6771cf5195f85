//! An ordinary gzip image through the lazy plugin, beside containerd's own pull: as it comes, where containerd unpacks,
//! and with `[unpack] self = true`, where the plugin does.

use std::error::Error;

use pontoon_rig::image::Workload;

use super::measure::Road;
use super::node::{Column, Node, Settings, drop_caches};
use super::store::{Form, Store};
use super::table::Judged;
use super::timed;
use crate::metadata::middle;
use crate::report::Goal;

/// Round trips that finding out that an image is ordinary may take.
const TRIPS: u32 = 4;

/// The part of the configuration that has the plugin unpack.
const SELF: &str = "[unpack]\nself = true\n";

/// The medians of `rounds` pulls of the plain image of `workload`, in turns.
pub(super) fn measure(
    store: &Store,
    workload: Workload,
    rounds: u32,
    settings: &Settings,
) -> Result<Vec<Judged>, Box<dyn Error>> {
    let own = Settings {
        config: format!("{}\n{SELF}", settings.config),
        rivals: settings.rivals.clone(),
        ..Settings::default()
    };
    let ways = [
        (Column::Overlayfs, settings),
        (Column::Cold, settings),
        (Column::Cold, &own),
    ];
    let mut times = [const { Vec::new() }; 3];
    for round in 0..rounds {
        for (times, (column, settings)) in times.iter_mut().zip(ways) {
            times.push(pull(store, workload, column, settings)?);
        }
        let last = times.each_ref().map(|times| times.last().copied());
        eprintln!(
            "round {}: {} as an ordinary image: {last:?}",
            round + 1,
            workload.name()
        );
    }
    let [containerd, plugin, own] = times.map(middle);
    let trips = (Road::Fast.link().round_trip * TRIPS).as_secs_f64();
    let name = |what: &str| {
        format!(
            "{}, gzip, {}: pull {what}",
            workload.name(),
            Road::Fast.title()
        )
    };
    let beside = "containerd and 4 round trips";
    Ok(vec![
        Judged::ratio(
            name("through the plugin"),
            "s",
            plugin,
            (beside, containerd + trips),
            Goal::AtMost(1.03),
        ),
        Judged::ratio(
            name("with [unpack] self = true"),
            "s",
            own,
            ("containerd", containerd),
            Goal::AtMost(0.8),
        ),
    ])
}

fn pull(
    store: &Store,
    workload: Workload,
    column: Column,
    settings: &Settings,
) -> Result<f64, Box<dyn Error>> {
    let image = store.image(workload, Form::Plain)?;
    let node = Node::start(column, store, workload, settings)?;
    drop_caches(settings)?;
    image.warm()?;
    store.wire.set_link(Road::Fast.link());
    let pulled = timed::run(&mut node.pull(&image.reference), None)?;
    Ok((pulled.line - pulled.began).as_secs_f64())
}
