//! One measurement: a fresh node pulls an image and starts it.

use std::error::Error;
use std::time::{Duration, Instant};

use pontoon_rig::gate::Link;
use pontoon_rig::image::Workload;
use pontoon_rig::wire::Journal;
use serde::Serialize;

use super::node::{Column, Daemon, Node, Settings, drop_caches};
use super::store::Store;
use super::timed;
use super::watch::{Taken, Watch};

/// A link between node and registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Road {
    /// 100 Mbit/s, 20 ms.
    Slow,
    /// 1 Gbit/s, 1 ms.
    Fast,
}

impl Road {
    pub(super) fn link(self) -> Link {
        match self {
            Road::Slow => Link::new(100, 20),
            Road::Fast => Link::new(1000, 1),
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Road::Slow => "100 Mbit/s, 20 ms",
            Road::Fast => "1 Gbit/s, 1 ms",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) workload: Workload,
    pub(super) column: Column,
    pub(super) road: Road,
}

/// What came of one measurement. Times are in seconds, from the begin of the pull where nothing
/// else is said.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Record {
    pub(super) workload: &'static str,
    pub(super) column: Column,
    pub(super) road: Road,
    /// The end of the pull.
    pub(super) pull_s: f64,
    /// The workload's first useful line.
    pub(super) ready_s: f64,
    /// For how much of the time until then the link carried nothing.
    pub(super) idle_s: f64,
    /// Requests until then.
    pub(super) requests: usize,
    /// Connections until then.
    pub(super) connections: usize,
    /// Bytes that came over the link until then.
    pub(super) bytes: u64,
    /// Whether the kernel's own EROFS serves the image.
    pub(super) erofs: bool,
    /// The size of the image in the registry.
    pub(super) image_bytes: u64,
    /// What the snapshotter took until then.
    pub(super) daemon: Taken,
    /// From the begin of a second start to its line, once nothing is fetched any more.
    pub(super) second_s: Option<f64>,
    /// The same after the page cache was dropped, and our daemon started anew.
    pub(super) restarted_s: Option<f64>,
}

/// A measurement and what went over the link until the workload was ready.
pub(super) struct Measured {
    pub(super) record: Record,
    pub(super) began: Instant,
    pub(super) pulled: Instant,
    pub(super) ready: Instant,
    pub(super) journal: Journal,
}

/// For how long nothing may come before the link counts as idle.
const QUIET: Duration = Duration::from_millis(700);

/// How long it may take until then.
const QUIET_LIMIT: Duration = Duration::from_mins(1);

/// Measures `case`.
pub(super) fn measure(
    store: &Store,
    case: Case,
    settings: &Settings,
) -> Result<Measured, Box<dyn Error>> {
    let Case {
        workload,
        column,
        road,
    } = case;
    let image = store.image(workload, column.form())?;
    let mut node = Node::start(column, store, workload, settings)?;
    let watch = Watch::start(node.sandbox.dir());
    drop_caches(settings)?;
    image.warm()?;
    store.wire.set_link(road.link());
    store.wire.turn_page();
    let pull = timed::run(&mut node.pull(&image.reference), None);
    let pull = pull.map_err(|error| node.explain(error))?;
    let mut start = node.run(&image.reference, "first");
    let started = timed::run(&mut start, Some(workload.line()));
    let started = started.map_err(|error| node.explain(error))?;
    // What came after the line is cut off below.
    let journal = store.wire.journal();
    let daemon = watch.taken();
    let (began, pulled, ready) = (pull.began, pull.line, started.line);
    let seconds = |until: Instant| (until - began).as_secs_f64();
    let busy = journal.busy_between(began, ready).as_secs_f64();
    let before = |at: Instant| at <= ready;
    let mut record = Record {
        workload: workload.name(),
        column,
        road,
        pull_s: seconds(pulled),
        ready_s: seconds(ready),
        idle_s: seconds(ready) - busy,
        requests: journal.transfers.iter().filter(|t| before(t.asked)).count(),
        connections: journal.connections,
        bytes: journal.bytes,
        erofs: node.has_erofs()?,
        image_bytes: image.bytes,
        daemon,
        second_s: None,
        restarted_s: None,
    };
    // It makes no difference to these how the image came.
    if road == Road::Fast {
        later_starts(store, workload, &mut node, settings, &mut record)?;
    }
    Ok(Measured {
        record,
        began,
        pulled,
        ready,
        journal,
    })
}

fn later_starts(
    store: &Store,
    workload: Workload,
    node: &mut Node,
    settings: &Settings,
    record: &mut Record,
) -> Result<(), Box<dyn Error>> {
    quiet(store)?;
    let reference = store
        .image(workload, record.column.form())?
        .reference
        .clone();
    let start = |node: &Node, id: &str| {
        let moments = timed::run(&mut node.run(&reference, id), Some(workload.line()))?;
        Ok::<f64, Box<dyn Error>>((moments.line - moments.began).as_secs_f64())
    };
    record.second_s = Some(start(node, "second")?);
    match &mut node.daemon {
        Daemon::None => {}
        Daemon::Ours(plugin) => {
            plugin.restart()?;
            node.wait_connected()?;
        }
        // What is in memory and what is not is theirs to decide; a start of their daemons takes care of them itself.
        Daemon::Rival(_) => return Ok(()),
    }
    drop_caches(settings)?;
    record.restarted_s = Some(start(node, "restarted")?);
    Ok(())
}

/// Waits until nothing comes over the link any more, if that is soon.
pub(super) fn quiet(store: &Store) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    loop {
        let busy = store.wire.journal().busy;
        let last = busy.last().map_or(began, |(_, end)| *end);
        if last.max(began).elapsed() > QUIET || began.elapsed() > QUIET_LIMIT {
            return Ok(());
        }
        pontoon_rig::wait::check_interrupt()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}
