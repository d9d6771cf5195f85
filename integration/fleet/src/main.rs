//! Simulates fleets of nodes that start one image at once, and writes a table. `cargo xtask bench fleet` builds and runs it.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use pontoon_fleet::{Outcome, Peers, Scenario, simulate};
use serde::Serialize;

/// Simulates thousands of nodes that start one image at once, with the policy that decides in a node.
#[derive(Debug, Parser)]
#[command(name = "fleet")]
struct Arguments {
    /// Other numbers of nodes.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 1000, 10_000])]
    nodes: Vec<u32>,
    /// Another course of chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only rows with these names.
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
    /// The chunks of so many other nodes a node knows at every moment.
    #[arg(long, default_value_t = 16)]
    watched: usize,
    /// Chunks of the image, of 1 MiB each.
    #[arg(long, default_value_t = 128)]
    chunks: usize,
    /// Where the JSON goes; the table goes beside it with the ending `.md`.
    #[arg(long, default_value = "target/bench/fleet.json")]
    out: PathBuf,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    nodes: u32,
    outcome: Outcome,
    seconds: f64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is compared: a name, and what is different from a fleet where all is well.
fn variants(arguments: &Arguments, nodes: u32) -> Vec<(&'static str, Scenario)> {
    let usual = Scenario {
        seed: arguments.seed,
        chunks: arguments.chunks,
        nodes,
        watched: arguments.watched,
        ..Scenario::default()
    };
    let with = |change: &dyn Fn(&mut Scenario)| {
        let mut scenario = usual.clone();
        change(&mut scenario);
        scenario
    };
    vec![
        ("no peers", with(&|scenario| scenario.peers = Peers::Off)),
        (
            "peers, no waiting",
            with(&|scenario| scenario.peers = Peers::Impatient),
        ),
        ("peers", usual.clone()),
        (
            "peers, all within 10 ms",
            with(&|scenario| scenario.spread = Duration::from_millis(10)),
        ),
        (
            "peers, registry of 1 Gbit/s",
            with(&|scenario| scenario.registry_bytes_per_second = 125_000_000),
        ),
        (
            "peers, 1 in 1000 lies",
            with(&|scenario| scenario.liars = 0.001),
        ),
        (
            "peers, 1 in 50 lies",
            with(&|scenario| scenario.liars = 0.02),
        ),
    ]
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    let mut table = String::from(HEAD);
    print!("{table}");
    for nodes in &arguments.nodes {
        for (name, scenario) in variants(arguments, *nodes) {
            if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
                continue;
            }
            let began = Instant::now();
            let outcome = simulate(&scenario);
            let seconds = began.elapsed().as_secs_f64();
            let line = line(name, *nodes, &outcome)?;
            print!("{line}");
            table.push_str(&line);
            rows.push(Row {
                name: name.to_owned(),
                nodes: *nodes,
                outcome,
                seconds,
            });
        }
    }
    if let Some(folder) = arguments.out.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&arguments.out, serde_json::to_string_pretty(&rows)?)?;
    fs::write(arguments.out.with_extension("md"), table)?;
    println!("written to {} and beside it", arguments.out.display());
    Ok(())
}

const HEAD: &str = "\
| nodes | fleet | egress, images | ready, p50 / p90 / p99, s | all of it, p50 / p90 / p99, s | control a node, KiB, mean / most | messages | gave most, images | hedges / failures / busy a node | in vain | bans |
|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
";

fn line(name: &str, nodes: u32, outcome: &Outcome) -> Result<String, Box<dyn Error>> {
    let three = |[half, ninety, most]: [f64; 3]| format!("{half:.2} / {ninety:.2} / {most:.2}");
    let mut line = String::new();
    let (mean, most) = outcome.control_bytes;
    writeln!(
        line,
        "| {nodes} | {name} | {:.2} | {} | {} | {:.0} / {:.0} | {:.0} | {:.1} | {:.2} / {:.2} / {:.2} | {:.1} % | {} |",
        outcome.egress,
        three(outcome.ready),
        three(outcome.all),
        mean / 1024.0,
        most as f64 / 1024.0,
        outcome.control_messages,
        outcome.given_most,
        outcome.hedges,
        outcome.failures,
        outcome.busy,
        outcome.wasted * 100.0,
        outcome.bans,
    )?;
    Ok(line)
}
