//! Chunks from another node, beside bare TLS exchanges of the same sizes.
//!
//! Both ends are in this process, over loopback, in runtimes of their own. What bare TLS gives lies in memory; what a node gives
//! lies in a cache whose pages are in memory. Nobody looks at what comes.

mod bare;
mod node;
mod table;

use std::error::Error;
use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_rig::wait;
use serde::Serialize;
use tokio::runtime::Runtime;

use table::Row;

/// Requests at once, where there are several.
const MANY: usize = 16;

/// What is measured, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Peers {
    /// How often each is measured; what is told is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each measurement takes, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    time: u64,
    /// Where the JSON goes; the table goes beside it with the ending `.md`.
    #[arg(long, default_value = "target/bench/peers.json")]
    out: PathBuf,
}

/// Who gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Who {
    Pontoon,
    Bare,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Record {
    who: Who,
    /// Bytes of one exchange.
    bytes: usize,
    /// Exchanges at once.
    at_once: usize,
    p50_ms: f64,
    p99_ms: f64,
    mib_per_second: f64,
    /// Of both ends.
    cpu_seconds_per_gib: f64,
}

/// The result of one exchange.
type Exchange = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send>>;

/// Something that gives chunk after chunk of one size.
trait Source: Send + Sync {
    /// Gets chunk number `number`, or one that is as good.
    fn get(&self, number: usize) -> Exchange;
}

#[derive(Serialize)]
struct Report<'a> {
    machine: String,
    measurements: &'a [Record],
    rows: &'a [Row],
}

/// Measures, and writes the report.
pub(crate) fn run(arguments: &Peers) -> Result<(), Box<dyn Error>> {
    let (giving, taking) = (runtime()?, runtime()?);
    let mut records = Vec::new();
    for bytes in [64 << 10, 1 << 20] {
        let node = node::Node::start(&giving, bytes)?;
        let bare = bare::Bare::start(&giving, bytes)?;
        let sides: [(Who, Arc<dyn Source>); 2] =
            [(Who::Pontoon, Arc::new(node)), (Who::Bare, Arc::new(bare))];
        for at_once in [1, MANY] {
            // Connections are made before anything is measured.
            for (_, source) in &sides {
                exchange(&taking, source, at_once, Duration::from_millis(200))?;
            }
            for _ in 0..arguments.rounds {
                for (who, source) in &sides {
                    wait::check_interrupt()?;
                    let time = Duration::from_millis(arguments.time);
                    let spent = exchange(&taking, source, at_once, time)?;
                    records.push(spent.record(*who, bytes, at_once));
                }
            }
        }
    }
    let rows = table::rows(&records);
    let machine = crate::machine()?;
    let text = format!("{machine}\n\n{}", table::text(&rows));
    println!("{text}");
    if let Some(folder) = arguments.out.parent() {
        fs::create_dir_all(folder)?;
    }
    let report = Report {
        machine,
        measurements: &records,
        rows: &rows,
    };
    fs::write(&arguments.out, serde_json::to_string_pretty(&report)?)?;
    fs::write(arguments.out.with_extension("md"), text)?;
    Ok(())
}

/// As many threads as the machine has processors, as the daemon's.
fn runtime() -> Result<Runtime, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime)
}

/// What a measurement took.
struct Spent {
    /// Of each exchange, sorted.
    times: Vec<Duration>,
    wall: Duration,
    cpu: Duration,
}

/// Exchanges for so long, `at_once` at a time.
fn exchange(
    runtime: &Runtime,
    source: &Arc<dyn Source>,
    at_once: usize,
    time: Duration,
) -> Result<Spent, Box<dyn Error>> {
    let (begun, cpu) = (Instant::now(), cpu_time());
    let end = begun + time;
    let tasks: Vec<_> = (0..at_once)
        .map(|lane| {
            let source = Arc::clone(source);
            runtime.spawn(async move {
                let (mut times, mut number) = (Vec::new(), lane);
                while Instant::now() < end {
                    let asked = Instant::now();
                    source
                        .get(number)
                        .await
                        .map_err(|error| error.to_string())?;
                    times.push(asked.elapsed());
                    number += at_once;
                }
                Ok::<_, String>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(runtime.block_on(task)??);
    }
    times.sort_unstable();
    Ok(Spent {
        times,
        wall: begun.elapsed(),
        cpu: cpu_time().saturating_sub(cpu),
    })
}

/// What this process has used of the processors.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Spent {
    fn record(&self, who: Who, bytes: usize, at_once: usize) -> Record {
        let part = |part: f64| {
            let at = (self.times.len() as f64 * part) as usize;
            let time = self.times.get(at.min(self.times.len().saturating_sub(1)));
            time.map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
        };
        let mib = (self.times.len() * bytes) as f64 / f64::from(1 << 20);
        Record {
            who,
            bytes,
            at_once,
            p50_ms: part(0.50),
            p99_ms: part(0.99),
            mib_per_second: mib / self.wall.as_secs_f64(),
            cpu_seconds_per_gib: self.cpu.as_secs_f64() / (mib / 1024.0),
        }
    }
}
