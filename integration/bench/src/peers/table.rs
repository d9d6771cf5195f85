//! The medians, side by side.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Record, Who};
use crate::metadata::middle;
use crate::report::number;

/// How many times as long as bare TLS 64 KiB may take, alone.
const TIME_GOAL: f64 = 3.0;

/// Seconds of processors that a GiB may take, of both ends.
const CPU_GOAL: f64 = 1.5;

/// One value of both sides.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    what: String,
    unit: &'static str,
    ours: f64,
    bare: f64,
    /// What is the goal, and whether it is met.
    goal: Option<(String, bool)>,
}

/// A name, a unit, and what it is of a measurement.
type Value = (&'static str, &'static str, fn(&Record) -> f64);

/// What is told of each size and number of exchanges at once.
const VALUES: [Value; 4] = [
    ("p50", "ms", |record| record.p50_ms),
    ("p99", "ms", |record| record.p99_ms),
    ("throughput", "MiB/s", |record| record.mib_per_second),
    ("processors", "s/GiB", |record| record.cpu_seconds_per_gib),
];

/// The rows of `records`, in their order.
pub(super) fn rows(records: &[Record]) -> Vec<Row> {
    let mut kinds: Vec<(usize, usize)> = Vec::new();
    for record in records {
        let kind = (record.bytes, record.at_once);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let mut rows = Vec::new();
    for (bytes, at_once) in kinds {
        for (name, unit, value) in VALUES {
            let median = |who| {
                let of = records.iter().filter(|record| {
                    (record.who, record.bytes, record.at_once) == (who, bytes, at_once)
                });
                middle(of.map(value).collect())
            };
            let (ours, bare) = (median(Who::Pontoon), median(Who::Bare));
            rows.push(Row {
                what: format!("{} KiB, {at_once} at once, {name}", bytes >> 10),
                unit,
                ours,
                bare,
                goal: goal((bytes, at_once), name, ours, bare),
            });
        }
    }
    rows
}

fn goal(kind: (usize, usize), name: &str, ours: f64, bare: f64) -> Option<(String, bool)> {
    match (kind, name) {
        ((65_536, 1), "p50") => Some((format!("≤ {TIME_GOAL}x"), ours <= TIME_GOAL * bare)),
        ((1_048_576, at_once), "processors") if at_once > 1 => {
            Some((format!("≤ {CPU_GOAL}"), ours <= CPU_GOAL))
        }
        _ => None,
    }
}

/// The rows as a Markdown table.
pub(super) fn text(rows: &[Row]) -> String {
    let mut text = String::from(
        "| what | unit | Pontoon | bare TLS | ratio | goal | met |\n|---|---|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let (goal, met) = match &row.goal {
            Some((goal, is_met)) => (goal.as_str(), if *is_met { "yes" } else { "NO" }),
            None => ("", ""),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2}x | {goal} | {met} |",
            row.what,
            row.unit,
            number(row.ours),
            number(row.bare),
            row.ours / row.bare,
        );
    }
    text
}
