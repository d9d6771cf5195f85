//! Measures Pontoon against containerd's own overlayfs snapshotter, both in the same run.
//!
//! `cargo xtask bench snapshots` builds everything first; see `docs/benchmarks.md` for what the rows mean.

mod caller;
mod convert;
mod layers;
mod lazy;
mod memory;
mod metadata;
mod peers;
mod report;
mod unpack;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use pontoon_rig::plugin::{Kind, Plugin, Setup};
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::wait;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use metadata::{Effort, Subject};
use report::{Comparison, Goal, Side};

#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Metadata rates, memory, writing layers and unpacking a real image.
    Snapshots(Snapshots),
    /// Real programs' way from "pull" to their first useful line, over slow links.
    Lazy(lazy::Lazy),
    /// Converting images into what can be pulled lazily, beside the tools of others.
    Convert(convert::Convert),
    /// Chunks from another node, beside bare TLS.
    Peers(peers::Peers),
}

#[derive(Debug, clap::Args)]
struct Snapshots {
    /// Fewer rounds and snapshots: to see that it runs, not to quote.
    #[arg(long)]
    quick: bool,
    /// Only the rows of these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Where the JSON goes; the table goes beside it with the ending `.md`.
    #[arg(long, default_value = "target/bench/snapshots.json")]
    out: PathBuf,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Metadata,
    Layers,
    Unpack,
}

const FULL: Effort = Effort {
    rounds: 5,
    cycles: 200,
    concurrent: Duration::from_secs(3),
    populations: &[10, 1_000, 10_000],
};

const QUICK: Effort = Effort {
    rounds: 2,
    cycles: 20,
    concurrent: Duration::from_millis(300),
    populations: &[10, 100],
};

fn main() -> ExitCode {
    for signal in [SIGINT, SIGTERM] {
        // Without it everything works but the cleaning up after Ctrl-C.
        let _ = signal_hook::flag::register(signal, wait::interrupt_flag());
    }
    let measured = match Arguments::parse().benchmark {
        Benchmark::Snapshots(arguments) => snapshots(&arguments),
        Benchmark::Lazy(arguments) => lazy::run(&arguments),
        Benchmark::Convert(arguments) => convert::run(&arguments),
        Benchmark::Peers(arguments) => peers::run(&arguments),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn snapshots(arguments: &Snapshots) -> Result<(), Box<dyn Error>> {
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut rows = Vec::new();
    if wanted(Part::Metadata) {
        let effort = if arguments.quick { QUICK } else { FULL };
        rows.extend(with_both(|sides| metadata_rows(sides, effort))?);
    }
    if wanted(Part::Layers) {
        let rounds = if arguments.quick { 1 } else { 5 };
        rows.extend(with_both(|sides| layers::measure(sides, rounds))?);
    }
    if wanted(Part::Unpack) {
        rows.extend(unpack::measure(if arguments.quick { 1 } else { 7 })?);
    }
    write(&rows, &arguments.out)
}

/// Both daemons, each with its root on the same filesystem, and nothing else in front of them.
type Sides = [(Side, Plugin); 2];

fn with_both<T>(
    measure: impl FnOnce(&mut Sides) -> Result<T, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    let (ours, theirs) = (Sandbox::new()?, Sandbox::new()?);
    let start = |sandbox: &Sandbox, kind| {
        Plugin::start(
            sandbox,
            Setup {
                kind,
                log_level: "info",
                ..Setup::default()
            },
        )
    };
    let mut sides = [
        (
            Side::Pontoon,
            start(&ours, Kind::Pontoon("pontoon-overlayfs".into()))?,
        ),
        (Side::Containerd, start(&theirs, Kind::Oracle)?),
    ];
    measure(&mut sides)
}

fn metadata_rows(sides: &mut Sides, effort: Effort) -> Result<Vec<Comparison>, Box<dyn Error>> {
    let idle = memory::row("RssAnon, idle", sides)?.goal(Goal::ValueAtMost(15.0));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let measured = runtime.block_on(async {
        let mut subjects = Vec::new();
        for (side, plugin) in sides.iter() {
            subjects.push(Subject::connect(*side, plugin.socket()).await?);
        }
        metadata::measure(&mut subjects, effort).await
    })?;
    let most = effort.populations.iter().max().copied().unwrap_or_default();
    let full = memory::row(&format!("RssAnon, at {most}"), sides)?.goal(Goal::ValueAtMost(25.0));
    let growth = growth(&measured, effort.populations);
    let mut rows: Vec<Comparison> = measured.into_iter().map(with_goal).collect();
    rows.extend(growth);
    rows.extend([idle, full]);
    Ok(rows)
}

/// How Prepare slows down from the smallest number of snapshots to the largest, each side against itself.
fn growth(rows: &[Comparison], populations: &[usize]) -> Option<Comparison> {
    let (least, most) = (populations.iter().min()?, populations.iter().max()?);
    let find = |count| {
        rows.iter()
            .find(|row| row.what() == format!("prepare, p50, at {count}"))
    };
    let (few, many) = (find(least)?, find(most)?);
    let what = format!("prepare at {most} / prepare at {least}");
    let row = Comparison::new(what, "x").goal(Goal::ValueAtMost(1.2));
    Some(
        [Side::Pontoon, Side::Containerd]
            .into_iter()
            .fold(row, |row, side| match (many.value(side), few.value(side)) {
                (Some(many), Some(few)) => row.with(side, many / few),
                _ => row,
            }),
    )
}

/// The goals of the project for each kind of row.
fn with_goal(row: Comparison) -> Comparison {
    let what = row.what().to_owned();
    if what.starts_with("list") && what.ends_with("10000") {
        row.goal(Goal::AtMost(0.5))
    } else if what.starts_with("cycles, 8") {
        row.goal(Goal::AtLeast(3.0))
    } else if what.starts_with("cycles") {
        row.goal(Goal::AtLeast(1.0))
    } else if what.contains("8 callers") || what.starts_with("list") {
        row
    } else {
        row.goal(Goal::AtMost(1.0))
    }
}

#[derive(Serialize)]
struct Report<'a> {
    machine: String,
    rows: &'a [Comparison],
}

fn write(rows: &[Comparison], out: &Path) -> Result<(), Box<dyn Error>> {
    let machine = machine()?;
    let text = format!("{machine}\n\n{}", report::table(rows));
    println!("{text}");
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(
        out,
        serde_json::to_string_pretty(&Report { machine, rows })?,
    )?;
    fs::write(out.with_extension("md"), text)?;
    println!(
        "written to {} and {}",
        out.display(),
        out.with_extension("md").display()
    );
    Ok(())
}

/// The machine in a few words: cores, memory, kernel.
fn machine() -> Result<String, Box<dyn Error>> {
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    let gib = kib.unwrap_or_default() / (1 << 20);
    Ok(format!("{cores} cores, {gib} GiB, Linux {}", kernel.trim()))
}
