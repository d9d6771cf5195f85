//! `pontoon fsck`: finds and repairs what contradicts itself in a root.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use pontoon_cache::{Cache, Config, Scrubbed};
use pontoon_overlay::{Finding, FsckReport};
use serde_json::json;

use crate::failure::chain;

/// The exit codes, which are those of fsck(8).
const EXIT_CODES: &str = "\
Exit codes:
  0   nothing is wrong
  1   everything that was wrong is repaired or, with --scrub, dropped
  4   something is wrong and not repaired
  8   the root could not be checked: it is in use, unreadable or not there
  64  the command line is wrong";

/// Check the snapshots below a root that no daemon uses
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Fsck {
    /// The root of the daemon, which must be stopped
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Repair what is wrong. Snapshots that are whole are never touched
    #[arg(long)]
    repair: bool,
    /// Also read all that lazy layers have on the disk, and drop what the disk has changed: it is fetched again
    #[arg(long)]
    scrub: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What was found.
struct Checked {
    snapshots: FsckReport,
    /// Only if that was asked for.
    cache: Option<Scrubbed>,
}

impl Fsck {
    pub(crate) fn run(&self) -> ExitCode {
        let checked = match self.check() {
            Ok(checked) => checked,
            Err(error) => {
                eprintln!("pontoon fsck: {}", chain(&*error));
                return ExitCode::from(8);
            }
        };
        let text = if self.json {
            json(&checked)
        } else {
            text(&checked)
        };
        if let Err(error) = io::stdout().lock().write_all(text.as_bytes()) {
            eprintln!("pontoon fsck: writing the report failed: {error}");
            return ExitCode::from(8);
        }
        ExitCode::from(exit_code(&checked))
    }

    fn check(&self) -> Result<Checked, Box<dyn Error>> {
        // The engine makes a root that is missing; a mistyped one is nothing to check.
        if !self.root.is_dir() {
            let root = self.root.display();
            return Err(format!("root {root} is no directory; give the daemon's root").into());
        }
        let snapshots = pontoon_overlay::fsck(&self.root, self.repair)?;
        let cache = self.scrub.then(|| self.scrub()).transpose()?;
        Ok(Checked { snapshots, cache })
    }

    fn scrub(&self) -> Result<Scrubbed, Box<dyn Error>> {
        let cache = self.root.join(pontoon_remote::CACHE);
        if !cache.is_dir() {
            // Its daemon is not one that fetches anything, or has not done so yet.
            return Ok(Scrubbed::default());
        }
        let cache = Cache::open(&cache, Config::default())?;
        cache.scrub().map_err(|error| {
            let error = chain(&error);
            format!("{error}; mend that and run this again: not every layer is checked").into()
        })
    }
}

fn exit_code(checked: &Checked) -> u8 {
    let findings = &checked.snapshots.findings;
    let of_snapshots = match findings.iter().all(|finding| finding.repaired) {
        true if findings.is_empty() => 0,
        true => 1,
        false => 4,
    };
    let of_cache = match checked.cache.unwrap_or_default() {
        found if found.failed_layers > 0 => 4,
        found if found.dropped_chunks + found.removed_layers > 0 => 1,
        _ => 0,
    };
    of_snapshots.max(of_cache)
}

fn text(checked: &Checked) -> String {
    let mut text = text_of_snapshots(&checked.snapshots);
    if let Some(found) = &checked.cache {
        text.push_str(&format!(
            "{} cached layers, {} chunks and {} bytes verified, {} chunks dropped, {} layers removed\n",
            found.layers, found.chunks, found.bytes, found.dropped_chunks, found.removed_layers
        ));
        if found.failed_layers > 0 {
            text.push_str(&format!(
                "{} layers could not be noted as checked: make space on the disk, or mend it, and run this again\n",
                found.failed_layers
            ));
        }
    }
    text
}

fn text_of_snapshots(report: &FsckReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text.push_str(&format!("{}: {finding}\n", state(finding)));
    }
    let wrong = report.findings.len();
    let repaired = report
        .findings
        .iter()
        .filter(|finding| finding.repaired)
        .count();
    let repairable = report
        .findings
        .iter()
        .filter(|finding| finding.repairable)
        .count();
    text.push_str(&format!(
        "{} snapshots, {wrong} findings, {repaired} repaired",
        report.snapshots
    ));
    if repairable > repaired {
        text.push_str(&format!(
            "; --repair would repair {}",
            repairable - repaired
        ));
    }
    text.push('\n');
    text
}

fn state(finding: &Finding) -> &'static str {
    match (finding.repaired, finding.repairable) {
        (true, _) => "repaired",
        (false, true) => "repairable",
        (false, false) => "not repairable",
    }
}

fn json(checked: &Checked) -> String {
    let report = &checked.snapshots;
    let finding = |finding: &Finding| {
        json!({
            "object": finding.object,
            "problem": finding.problem,
            "remedy": finding.remedy,
            "repairable": finding.repairable,
            "repaired": finding.repaired,
        })
    };
    let findings: Vec<_> = report.findings.iter().map(finding).collect();
    let mut report = json!({ "snapshots": report.snapshots, "findings": findings });
    if let Some(found) = &checked.cache {
        report["cache"] = json!({
            "layers": found.layers,
            "verified_chunks": found.chunks,
            "verified_bytes": found.bytes,
            "dropped_chunks": found.dropped_chunks,
            "removed_layers": found.removed_layers,
            "failed_layers": found.failed_layers,
        });
    }
    format!("{report}\n")
}
