//! The medians, side by side.

use std::fmt::Write as _;

use serde::Serialize;

use super::Record;
use super::contest::{Contest, Who};
use crate::metadata::middle;
use crate::report::number;

/// How many times as fast we shall be.
const SPEED_GOAL: f64 = 2.0;

/// How many times as large what comes out may be.
const SIZE_GOAL: f64 = 1.01;

/// Medians of one side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Side {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) megabytes: f64,
    pub(super) peak_megabytes: f64,
}

/// A workload in a format.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) workload: &'static str,
    pub(super) contest: Contest,
    pub(super) ours: Side,
    pub(super) theirs: Option<Side>,
    /// Their time by ours, and whether that is the goal.
    pub(super) speed: Option<(f64, bool)>,
    /// Our bytes by theirs, and whether that is the goal.
    pub(super) size: Option<(f64, bool)>,
}

/// A row for each workload and format of `records`, in their order.
pub(super) fn rows(records: &[Record]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for record in records {
        let (workload, contest) = (record.workload, record.contest);
        if (rows.iter()).any(|row| (row.workload, row.contest) == (workload, contest)) {
            continue;
        }
        let side = |who| side(records, workload, contest, who);
        let Some(ours) = side(Who::Pontoon) else {
            continue;
        };
        let theirs = side(Who::Rival);
        let speed = theirs.map(|theirs| theirs.seconds / ours.seconds);
        let size = theirs.map(|theirs| ours.megabytes / theirs.megabytes);
        rows.push(Row {
            workload,
            contest,
            ours,
            theirs,
            speed: speed.map(|speed| (speed, speed >= SPEED_GOAL)),
            size: size.map(|size| (size, size <= SIZE_GOAL)),
        });
    }
    rows
}

fn side(records: &[Record], workload: &str, contest: Contest, who: Who) -> Option<Side> {
    let found: Vec<&Record> = (records.iter())
        .filter(|record| (record.workload, record.contest, record.who) == (workload, contest, who))
        .collect();
    let median = |value: fn(&Record) -> f64| middle(found.iter().map(|r| value(r)).collect());
    (!found.is_empty()).then(|| Side {
        seconds: median(|record| record.seconds),
        cpu_seconds: median(|record| record.cpu_seconds),
        megabytes: median(|record| record.bytes as f64 / 1e6),
        peak_megabytes: median(|record| record.peak_bytes as f64 / 1e6),
    })
}

/// The rows as a Markdown table.
pub(super) fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "Goals: {SPEED_GOAL} times as fast, {SIZE_GOAL} times as large at most.\n\n\
         | image | format | who | wall s | processors s | MB | memory MB | as fast | as large | met |\n\
         |---|---|---|---:|---:|---:|---:|---:|---:|---|\n"
    );
    for row in rows {
        let times = |ratio: Option<(f64, bool)>| {
            ratio.map_or("-".to_owned(), |(ratio, _)| format!("{ratio:.2}x"))
        };
        let met = match (row.speed, row.size) {
            (Some((_, true)), Some((_, true))) => "yes",
            (None, _) | (_, None) => "",
            _ => "NO",
        };
        let judged = (times(row.speed), times(row.size), met);
        line(&mut text, row, Who::Pontoon, row.ours, judged);
        if let Some(theirs) = row.theirs {
            let none = (String::new(), String::new(), "");
            line(&mut text, row, Who::Rival, theirs, none);
        }
    }
    text
}

fn line(text: &mut String, row: &Row, who: Who, side: Side, judged: (String, String, &str)) {
    let (speed, size, met) = judged;
    let _ = writeln!(
        text,
        "| {} | {} | {} | {} | {} | {} | {} | {speed} | {size} | {met} |",
        row.workload,
        row.contest.title(),
        row.contest.name(who),
        number(side.seconds),
        number(side.cpu_seconds),
        number(side.megabytes),
        number(side.peak_megabytes),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(who: Who, seconds: f64, bytes: u64) -> Record {
        Record {
            workload: "python",
            contest: Contest::Nydus,
            who,
            seconds,
            cpu_seconds: 2.0 * seconds,
            peak_bytes: 30_000_000,
            bytes,
        }
    }

    #[test]
    fn medians_are_judged_by_both_goals() {
        let records = [
            record(Who::Pontoon, 1.0, 101_000_000),
            record(Who::Pontoon, 9.0, 101_000_000),
            record(Who::Pontoon, 2.0, 101_000_000),
            record(Who::Rival, 4.0, 100_000_000),
        ];
        let rows = rows(&records);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].speed, Some((2.0, true)));
        assert_eq!(rows[0].size, Some((1.01, true)));
        let text = text(&rows);
        let ours =
            "| python | nydus | pontoon convert | 2.00 | 4.00 | 101 | 30.0 | 2.00x | 1.01x | yes |";
        assert!(text.contains(ours), "{text}");
        assert!(text.contains("| nerdctl | 4.00 |"), "{text}");
    }

    #[test]
    fn without_a_rival_nothing_is_judged() {
        let rows = rows(&[record(Who::Pontoon, 1.0, 1)]);
        assert_eq!((rows[0].speed, rows[0].size), (None, None));
        assert!(text(&rows).ends_with("| - | - |  |\n"));
    }
}
