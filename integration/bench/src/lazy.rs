//! `bench lazy`: from "pull" to the first useful line of real programs, over links as slow as real ones, on Pontoon
//! beside containerd's own way and whatever else there is.

mod floor;
mod measure;
mod memory;
mod node;
mod ordinary;
mod profile;
mod rivals;
mod store;
mod table;
mod timed;
mod timeline;
mod trees;
mod trips;
mod watch;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
use pontoon_rig::image::{Conversion, Workload, convert};
use pontoon_rig::plugin::find_binary;
use pontoon_rig::wait;
use serde::Serialize;

use measure::{Case, Record, Road, measure};
use node::{Column, Settings};
use store::{Form, Store};
use table::{Judged, Records};

/// What is measured, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Lazy {
    /// Only these workloads.
    #[arg(long, value_delimiter = ',', value_parser = workload)]
    only: Vec<Workload>,
    /// Only these links.
    #[arg(long, value_enum, value_delimiter = ',')]
    links: Vec<Road>,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Only these columns.
    #[arg(long, value_enum, value_delimiter = ',')]
    columns: Vec<Column>,
    /// How often each is measured; what is told is the median.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The folder with the rivals' programs. Without it, and for those that are not in it, there is no column.
    #[arg(long, env = "PONTOON_RIVALS")]
    rivals: Option<PathBuf>,
    /// A file with the configuration of our daemon.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where the JSON goes; the tables go beside it with the ending `.md`, and what went over the link in each
    /// measurement into the folder of the same name.
    #[arg(long, default_value = "target/bench/lazy.json")]
    out: PathBuf,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// From "pull" to the first useful line, second starts, memory and processor time.
    Starts,
    /// Reading all files, and looking at names and attributes; of the first workload.
    Trees,
    /// An ordinary gzip image through our plugin; of the first workload.
    Ordinary,
    /// Requests and round trips before the first byte of an image of ten layers.
    Trips,
    /// The daemon's memory when the images of all workloads are mounted.
    Memory,
}

/// How often an ordinary image is pulled in each way.
const ORDINARY_ROUNDS: u32 = 7;

/// The workload of that name.
pub(crate) fn workload(name: &str) -> Result<Workload, String> {
    let all = Workload::ALL;
    let found = all.into_iter().find(|workload| workload.name() == name);
    let names = all.map(Workload::name).join(", ");
    found.ok_or(format!("there are {names}"))
}

#[derive(Serialize)]
struct Report<'a> {
    machine: String,
    measurements: &'a [Record],
    goals: &'a [Judged],
}

/// Measures what `arguments` choose, and writes the report.
pub(crate) fn run(arguments: &Lazy) -> Result<(), Box<dyn Error>> {
    let workloads = chosen(&arguments.only, &Workload::ALL);
    let parts = chosen(&arguments.parts, Part::value_variants());
    let mut settings = Settings {
        rivals: arguments.rivals.clone(),
        ..Settings::default()
    };
    if let Some(path) = &arguments.config {
        settings.config = fs::read_to_string(path)?;
    }
    let mut columns = chosen(&arguments.columns, Column::value_variants());
    if !parts.contains(&Part::Starts) {
        columns = vec![Column::Overlayfs, Column::Cold];
    }
    let columns = possible(columns, &settings);
    let learned = tempfile::tempdir()?;
    let mut store = Store::start()?;
    for &workload in &workloads {
        prepare(&mut store, workload, &columns, &settings)?;
        for column in [Column::Cold, Column::OurNydus] {
            let form = column.form();
            let wanted = |learned: &Column| learned.is_learned() && learned.form() == form;
            if columns.iter().any(wanted) {
                let profile = profile::learn(&store, workload, column, &settings, learned.path())?;
                settings.profiles.insert((workload, form), profile);
            }
        }
    }
    let mut records = Records::default();
    let mut goals = Vec::new();
    let first = *workloads.first().ok_or("no workload")?;
    for part in parts {
        match part {
            Part::Starts => {
                records = starts(&store, &workloads, &columns, arguments, &settings)?;
                goals.extend(table::judge(&records));
            }
            Part::Trees => {
                let rounds = arguments.rounds;
                goals.extend(trees::measure(&store, first, rounds, &settings)?);
            }
            Part::Ordinary => {
                let rounds = arguments.rounds.max(ORDINARY_ROUNDS);
                goals.extend(ordinary::measure(&store, first, rounds, &settings)?);
            }
            Part::Trips => goals.extend(trips::measure(&settings)?),
            Part::Memory => goals.extend(memory::measure(&store, &workloads, &settings)?),
        }
    }
    write(&records, &goals, &arguments.out)
}

/// Measures starts, in turns: what the machine does meanwhile hits all alike.
fn starts(
    store: &Store,
    workloads: &[Workload],
    columns: &[Column],
    arguments: &Lazy,
    settings: &Settings,
) -> Result<Records, Box<dyn Error>> {
    let timelines = arguments.out.with_extension("");
    fs::create_dir_all(&timelines)?;
    let roads = chosen(&arguments.links, Road::value_variants());
    let mut records = Records::default();
    for round in 0..arguments.rounds {
        for &road in &roads {
            for &workload in workloads {
                for &column in columns {
                    wait::check_interrupt()?;
                    let case = Case {
                        workload,
                        column,
                        road,
                    };
                    let measured = measure(store, case, settings)?;
                    tell(round, &measured.record);
                    let name = format!("{}-{column:?}-{road:?}-{round}.txt", workload.name());
                    let path = timelines.join(name.to_lowercase());
                    fs::write(path, timeline::text(&measured))?;
                    records.0.push(measured.record);
                }
            }
        }
    }
    Ok(records)
}

fn chosen<T: Copy>(wanted: &[T], all: &[T]) -> Vec<T> {
    if wanted.is_empty() { all } else { wanted }.to_vec()
}

/// Those of `columns` for which everything is there; of the others it is said what is missing.
fn possible(mut columns: Vec<Column>, settings: &Settings) -> Vec<Column> {
    columns.retain(|column| {
        let missing = match (column.foreign(), &settings.rivals) {
            (Some(_), None) => Some("--rivals DIR".to_owned()),
            (Some(rival), Some(dir)) => rival.missing(dir).map(str::to_owned),
            (None, _) => None,
        };
        let ours = || {
            let daemon = column.daemon()?;
            if find_binary(daemon).is_err() {
                return Some(daemon.to_owned());
            }
            let lacks = column.is_learned() && !profile::is_there();
            lacks.then(|| "`pontoon profile`".to_owned())
        };
        let missing = missing.or_else(ours);
        if let Some(what) = &missing {
            eprintln!("no column {}: {what} is missing", column.title());
        }
        missing.is_none()
    });
    columns
}

/// Makes the images that `columns` need and stores them.
fn prepare(
    store: &mut Store,
    workload: Workload,
    columns: &[Column],
    settings: &Settings,
) -> Result<(), Box<dyn Error>> {
    let plain = workload.image()?;
    store.push(workload, Form::Plain, &plain)?;
    let converted = convert(&plain, Conversion::Estargz)?;
    store.push(workload, Form::Estargz, &converted.image)?;
    let wanted = |form| columns.iter().any(|column| column.form() == form);
    if wanted(Form::Floor) {
        floor::store(store, workload, &plain, settings)?;
    }
    let mut theirs = vec![Form::Nydus, Form::Soci];
    theirs.retain(|form| wanted(*form));
    if theirs.is_empty() {
        return Ok(());
    }
    rivals::convert(store, workload, &theirs, settings)
}

fn tell(round: u32, record: &Record) {
    eprintln!(
        "round {}: {}, {}, {}: ready after {:.2} s (pulled after {:.2} s), {:.1} MB",
        round + 1,
        record.workload,
        record.road.title(),
        record.column.title(),
        record.ready_s,
        record.pull_s,
        record.bytes as f64 / 1e6,
    );
}

fn write(records: &Records, goals: &[Judged], out: &Path) -> Result<(), Box<dyn Error>> {
    let machine = crate::machine()?;
    let text = format!("{machine}\n\n{}", table::tables(records, goals));
    println!("{text}");
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    let report = Report {
        machine,
        measurements: &records.0,
        goals,
    };
    fs::write(out, serde_json::to_string_pretty(&report)?)?;
    fs::write(out.with_extension("md"), text)?;
    println!("written to {0} and {0} with the ending .md", out.display());
    Ok(())
}
