//! `pontoon fsck`: finds and repairs what contradicts itself in a root.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use pontoon_overlay::{Finding, FsckReport};
use serde_json::json;

use crate::failure::chain;

/// The exit codes, which are those of fsck(8).
const EXIT_CODES: &str = "\
Exit codes:
  0   nothing is wrong
  1   everything that was wrong is repaired
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
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl Fsck {
    pub(crate) fn run(&self) -> ExitCode {
        let report = match self.check() {
            Ok(report) => report,
            Err(error) => {
                eprintln!("pontoon fsck: {}", chain(&*error));
                return ExitCode::from(8);
            }
        };
        let text = if self.json {
            json(&report)
        } else {
            text(&report)
        };
        if let Err(error) = io::stdout().lock().write_all(text.as_bytes()) {
            eprintln!("pontoon fsck: writing the report failed: {error}");
            return ExitCode::from(8);
        }
        ExitCode::from(exit_code(&report))
    }

    fn check(&self) -> Result<FsckReport, Box<dyn Error>> {
        // The engine makes a root that is missing; a mistyped one is nothing to check.
        if !self.root.is_dir() {
            let root = self.root.display();
            return Err(format!("root {root} is no directory; give the daemon's root").into());
        }
        Ok(pontoon_overlay::fsck(&self.root, self.repair)?)
    }
}

fn exit_code(report: &FsckReport) -> u8 {
    let findings = &report.findings;
    match findings.iter().all(|finding| finding.repaired) {
        true if findings.is_empty() => 0,
        true => 1,
        false => 4,
    }
}

fn text(report: &FsckReport) -> String {
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

fn json(report: &FsckReport) -> String {
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
    let report = json!({ "snapshots": report.snapshots, "findings": findings });
    format!("{report}\n")
}
