//! Converting images: `pontoon convert` beside the tools that others convert with, on real images.
//!
//! They take turns, each in an empty directory on the same filesystem, with the image in the page cache. What is told is
//! the median of each.

mod contest;
mod nerdctl;
mod program;
mod table;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use pontoon_rig::image::{Layout, Workload};
use pontoon_rig::wait;
use serde::Serialize;

use contest::{Contest, Rivals, Who};
use nerdctl::Nerdctl;
use program::Spent;
use table::Row;

/// What is measured, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Convert {
    /// Only these workloads' images.
    #[arg(long, value_delimiter = ',', value_parser = crate::lazy::workload, default_values = ["python", "node"])]
    only: Vec<Workload>,
    /// Only these formats.
    #[arg(long, value_enum, value_delimiter = ',')]
    formats: Vec<Contest>,
    /// How often each is measured; what is told is the median.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The folder with `nerdctl` and `nydus-image`. Without them, nydus images have no rival.
    #[arg(long, env = "PONTOON_RIVALS")]
    rivals: Option<PathBuf>,
    /// Where the JSON goes; the table goes beside it with the ending `.md`.
    #[arg(long, default_value = "target/bench/convert.json")]
    out: PathBuf,
}

/// One conversion.
#[derive(Debug, Clone, Serialize)]
struct Record {
    workload: &'static str,
    contest: Contest,
    who: Who,
    /// From the start of the first program to the end of the last one.
    seconds: f64,
    /// Of all processors together.
    cpu_seconds: f64,
    /// The most memory that one program had, in bytes, times how many there were at once.
    peak_bytes: u64,
    /// Bytes of all layers that came out.
    bytes: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    machine: String,
    measurements: &'a [Record],
    rows: &'a [Row],
}

/// Measures what `arguments` choose, and writes the report.
pub(crate) fn run(arguments: &Convert) -> Result<(), Box<dyn Error>> {
    use clap::ValueEnum as _;
    let contests = match arguments.formats.is_empty() {
        true => Contest::value_variants(),
        false => &arguments.formats[..],
    };
    let images = arguments.only.iter().map(|workload| {
        let image = workload.image()?;
        Ok((*workload, image))
    });
    let images = images.collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let mut rivals = Rivals {
        programs: arguments.rivals.clone(),
        nerdctl: None,
    };
    if let Some(programs) = &rivals.programs
        && contests.contains(&Contest::Nydus)
    {
        rivals.nerdctl = Nerdctl::start(programs)?;
    }
    let mut records = Vec::new();
    for round in 0..arguments.rounds {
        for (workload, image) in &images {
            for contest in contests {
                for who in [Who::Pontoon, Who::Rival] {
                    wait::check_interrupt()?;
                    let measured = measure(*contest, who, image, &mut rivals)?;
                    let Some((spent, bytes)) = measured else {
                        continue;
                    };
                    let record = Record {
                        workload: workload.name(),
                        contest: *contest,
                        who,
                        seconds: spent.wall.as_secs_f64(),
                        cpu_seconds: spent.cpu.as_secs_f64(),
                        peak_bytes: spent.peak_bytes,
                        bytes,
                    };
                    tell(round, &record);
                    records.push(record);
                }
            }
        }
    }
    write(&records, &arguments.out)
}

/// Converts once, and answers what that took and how many bytes came out. Nothing, if the rival is not there.
fn measure(
    contest: Contest,
    who: Who,
    image: &Layout,
    rivals: &mut Rivals,
) -> Result<Option<(Spent, u64)>, Box<dyn Error>> {
    let place = tempfile::tempdir_in(base()?)?;
    let Some(phases) = contest.phases(who, image, place.path(), rivals)? else {
        return Ok(None);
    };
    warm(image.dir())?;
    rustix::fs::sync();
    let mut spent = Spent::default();
    for programs in phases {
        spent = spent.and(program::run(programs)?);
    }
    let bytes = contest.bytes(who, place.path(), rivals)?;
    Ok(Some((spent, bytes)))
}

/// On the filesystem on which everything else of the benchmark is.
fn base() -> Result<PathBuf, Box<dyn Error>> {
    let base = pontoon_rig::checkout::rig_dir().join("run");
    fs::create_dir_all(&base)?;
    Ok(base)
}

/// Has the kernel read the image.
fn warm(dir: &Path) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            warm(&path)?;
        } else {
            std::io::copy(&mut fs::File::open(path)?, &mut std::io::sink())?;
        }
    }
    Ok(())
}

fn tell(round: u32, record: &Record) {
    eprintln!(
        "round {}: {}, {}, {}: {:.2} s, {:.2} s of processors, {:.1} MB, {:.0} MB of memory",
        round + 1,
        record.workload,
        record.contest.title(),
        record.contest.name(record.who),
        record.seconds,
        record.cpu_seconds,
        record.bytes as f64 / 1e6,
        record.peak_bytes as f64 / 1e6,
    );
}

fn write(records: &[Record], out: &Path) -> Result<(), Box<dyn Error>> {
    let machine = crate::machine()?;
    let rows = table::rows(records);
    let text = format!("{machine}\n\n{}", table::text(&rows));
    println!("{text}");
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    let report = Report {
        machine,
        measurements: records,
        rows: &rows,
    };
    fs::write(out, serde_json::to_string_pretty(&report)?)?;
    fs::write(out.with_extension("md"), text)?;
    println!("written to {0} and {0} with the ending .md", out.display());
    Ok(())
}
