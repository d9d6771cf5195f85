//! Medians, ratios and goals of what was measured.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use super::measure::{Record, Road};
use super::node::Column;
use crate::metadata::middle;
use crate::report::Goal;

/// One number of a record, where it has it.
pub(super) type Number = fn(&Record) -> Option<f64>;

/// The records of one run.
#[derive(Debug, Default)]
pub(super) struct Records(pub(super) Vec<Record>);

impl Records {
    /// The median of a number over the rounds.
    pub(super) fn median(
        &self,
        workload: &str,
        column: Column,
        road: Road,
        number: Number,
    ) -> Option<f64> {
        let of = |r: &&Record| r.workload == workload && r.column == column && r.road == road;
        let numbers: Vec<f64> = self.0.iter().filter(of).filter_map(number).collect();
        (!numbers.is_empty()).then(|| middle(numbers))
    }

    fn workloads(&self) -> Vec<&'static str> {
        let mut seen = Vec::new();
        for record in &self.0 {
            if !seen.contains(&record.workload) {
                seen.push(record.workload);
            }
        }
        seen
    }

    fn columns(&self, road: Road) -> BTreeSet<Column> {
        let of = self.0.iter().filter(|r| r.road == road);
        of.map(|r| r.column).collect()
    }

    fn roads(&self) -> BTreeSet<Road> {
        self.0.iter().map(|r| r.road).collect()
    }
}

/// A goal for one workload, and what came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Judged {
    pub(super) what: String,
    pub(super) unit: &'static str,
    pub(super) ours: f64,
    /// What it is compared with, and its value.
    pub(super) beside: Option<(String, f64)>,
    pub(super) goal: Goal,
    pub(super) met: bool,
}

impl Judged {
    /// `ours` beside `theirs`.
    pub(super) fn ratio(
        what: String,
        unit: &'static str,
        ours: f64,
        beside: (&str, f64),
        goal: Goal,
    ) -> Self {
        let ratio = ours / beside.1;
        let met = match goal {
            Goal::AtMost(bound) => ratio <= bound,
            Goal::AtLeast(bound) => ratio >= bound,
            Goal::ValueAtMost(bound) => ours <= bound,
            Goal::None => true,
        };
        Judged {
            what,
            unit,
            ours,
            beside: Some((beside.0.to_owned(), beside.1)),
            goal,
            met,
        }
    }

    /// `ours` alone, at most `most`.
    pub(super) fn value(what: String, unit: &'static str, ours: f64, most: f64) -> Self {
        Judged {
            what,
            unit,
            ours,
            beside: None,
            goal: Goal::ValueAtMost(most),
            met: ours <= most,
        }
    }

    /// `ours` alone, which is told and not judged.
    pub(super) fn told(what: String, unit: &'static str, ours: f64) -> Self {
        Judged {
            goal: Goal::None,
            ..Self::value(what, unit, ours, f64::INFINITY)
        }
    }
}

/// What every start is judged by.
pub(super) fn judge(records: &Records) -> Vec<Judged> {
    let mut rows = Vec::new();
    for road in records.roads() {
        for workload in records.workloads() {
            judge_start(records, workload, road, &mut rows);
        }
    }
    rows
}

fn judge_start(records: &Records, workload: &str, road: Road, rows: &mut Vec<Judged>) {
    let of = |column, number: Number| records.median(workload, column, road, number);
    let ready = |column| of(column, |r| Some(r.ready_s));
    let name = |what: &str| format!("{workload}, {}: {what}", road.title());
    let mut judge = |what: &str, ours: Option<f64>, beside: (&str, Option<f64>), bound| {
        if let (Some(ours), Some(theirs)) = (ours, beside.1) {
            let beside = (beside.0, theirs);
            rows.push(Judged::ratio(
                name(what),
                "s",
                ours,
                beside,
                Goal::AtMost(bound),
            ));
        }
    };
    let (cold, learned) = (ready(Column::Cold), ready(Column::Learned));
    let nothing = "ready, nothing learned";
    if road == Road::Slow {
        judge(nothing, cold, ("overlayfs", ready(Column::Overlayfs)), 0.4);
        let floor = ("what a start needs", ready(Column::Floor));
        judge("ready, order learned", learned, floor, 1.25);
    }
    let rivals = records.columns(road).into_iter();
    let rivals = rivals.filter(|column| column.rival().is_some());
    let times = rivals.filter_map(|column| Some((column.title(), ready(column)?)));
    if let Some((best, time)) = times.min_by(|a, b| a.1.total_cmp(&b.1)) {
        judge(nothing, cold, (best, Some(time)), 0.6);
    }
    let real = [Column::Nydus, Column::NydusDemand].map(ready);
    let better = real.into_iter().flatten().min_by(f64::total_cmp);
    let theirs = ("nydus, the better setting", better);
    judge(
        "ready, nydus image, nothing learned",
        ready(Column::OurNydus),
        theirs,
        0.6,
    );
    let second: Number = |r| r.second_s;
    let kernel = of(Column::Cold, |r| Some(f64::from(u8::from(r.erofs)))) == Some(1.0);
    let bound = if kernel { 1.05 } else { 1.25 };
    let theirs = ("overlayfs", of(Column::Overlayfs, second));
    judge("second start", of(Column::Cold, second), theirs, bound);
    let ours = records.columns(road).into_iter();
    for column in ours.filter(|column| column.daemon().is_some()) {
        if let Some(ours) = of(column, |r| Some(r.daemon.rss_anon_mb)) {
            let what = name(&format!("peak RssAnon, {}", column.title()));
            rows.push(Judged::value(what, "MB", ours, 40.0));
        }
    }
}

/// A table of one number: a row for each workload, a column for each column.
fn matrix(records: &Records, road: Road, what: &str, number: Number) -> String {
    let columns = records.columns(road);
    let titles: Vec<&str> = columns.iter().map(|column| column.title()).collect();
    let mut text = format!("| {what} | {} |\n|---|", titles.join(" | "));
    text.push_str(&"---:|".repeat(columns.len()));
    text.push('\n');
    let mut empty = true;
    for workload in records.workloads() {
        let _ = write!(text, "| {workload} |");
        for column in &columns {
            let value = records.median(workload, *column, road, number);
            empty &= value.is_none();
            let _ = write!(text, " {} |", value.map_or("-".to_owned(), figure));
        }
        text.push('\n');
    }
    text.push('\n');
    if empty { String::new() } else { text }
}

/// All tables.
pub(super) fn tables(records: &Records, judged: &[Judged]) -> String {
    let numbers: [(&str, Number); 8] = [
        ("ready, s", |r| Some(r.ready_s)),
        ("pulled, s", |r| Some(r.pull_s)),
        ("second start, s", |r| r.second_s),
        ("start with dropped caches, our daemon restarted, s", |r| {
            r.restarted_s
        }),
        ("MB over the link", |r| Some(r.bytes as f64 / 1e6)),
        ("link idle, s", |r| Some(r.idle_s)),
        ("requests", |r| Some(r.requests as f64)),
        ("connections", |r| Some(r.connections as f64)),
    ];
    let mut text = String::new();
    for road in records.roads() {
        let _ = writeln!(text, "### {}\n", road.title());
        for (what, number) in numbers {
            text.push_str(&matrix(records, road, what, number));
        }
        let taken: [(&str, Number); 2] = [
            ("processor time of the snapshotter, s", |r| {
                Some(r.daemon.cpu_s)
            }),
            ("peak RssAnon of the snapshotter, MB", |r| {
                Some(r.daemon.rss_anon_mb)
            }),
        ];
        for (what, number) in taken {
            text.push_str(&matrix(records, road, what, number));
        }
    }
    text.push_str("### Goals\n\n| what | unit | Pontoon | beside | ratio | goal | met |\n");
    text.push_str("|---|---|---:|---:|---:|---:|---|\n");
    for row in judged {
        let beside = row.beside.as_ref();
        let ratio = beside.map_or("-".to_owned(), |b| format!("{:.2}x", row.ours / b.1));
        let beside = beside.map_or("-".to_owned(), |b| format!("{} ({})", figure(b.1), b.0));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {beside} | {ratio} | {} | {} |",
            row.what,
            row.unit,
            figure(row.ours),
            row.goal,
            match row.goal {
                Goal::None => "",
                _ if row.met => "yes",
                _ => "NO",
            },
        );
    }
    text
}

fn figure(value: f64) -> String {
    crate::report::number(value)
}

#[cfg(test)]
mod tests {
    use super::super::watch::Taken;
    use super::*;

    fn record(column: Column, road: Road, ready_s: f64) -> Record {
        Record {
            workload: "python",
            column,
            road,
            pull_s: 1.0,
            ready_s,
            idle_s: 0.0,
            requests: 1,
            connections: 1,
            bytes: 1,
            erofs: false,
            image_bytes: 1,
            daemon: Taken::default(),
            second_s: (road == Road::Fast).then_some(1.0),
            restarted_s: None,
        }
    }

    #[test]
    fn medians_are_judged_beside_the_best_rival_and_the_full_pull() {
        let slow = |column, ready| record(column, Road::Slow, ready);
        let records = Records(vec![
            slow(Column::Overlayfs, 10.0),
            slow(Column::Cold, 90.0),
            slow(Column::Cold, 3.0),
            slow(Column::Cold, 2.0),
            slow(Column::Stargz, 8.0),
            slow(Column::Soci, 4.0),
        ]);
        let judged = judge(&records);
        let find = |beside: &str| {
            let mut rows = judged.iter();
            rows.find(|row| row.beside.as_ref().is_some_and(|b| b.0 == beside))
        };
        let full = find("overlayfs").expect("a full pull");
        assert!(full.met && full.ours == 3.0 && full.beside == Some(("overlayfs".into(), 10.0)));
        let best = find("SOCI").expect("the best rival");
        assert!(!best.met && find("stargz-snapshotter").is_none());
        // Nothing was learned, and nothing needs to be judged.
        assert!(find("what a start needs").is_none());
        let text = tables(&records, &judged);
        assert!(
            text.contains("| python | 10.0 | 3.00 | 8.00 | 4.00 |"),
            "{text}"
        );
        assert!(
            text.contains("| 3.00 | 4.00 (SOCI) | 0.75x | ≤ 0.6x | NO |"),
            "{text}"
        );
    }

    #[test]
    fn second_starts_are_judged_by_what_serves_them() {
        let fast = |column, second_s, erofs| Record {
            second_s: Some(second_s),
            erofs,
            ..record(column, Road::Fast, 1.0)
        };
        for (erofs, met) in [(true, false), (false, true)] {
            let records = Records(vec![
                fast(Column::Overlayfs, 1.0, false),
                fast(Column::Cold, 1.2, erofs),
            ]);
            let judged = judge(&records);
            let row = judged.iter().find(|row| row.what.ends_with("second start"));
            assert_eq!(row.map(|row| row.met), Some(met));
        }
    }
}
