//! What was measured, as a table for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

/// Who was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// The daemon of this repository.
    Pontoon,
    /// containerd's own overlayfs snapshotter.
    Containerd,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Side::Pontoon => "pontoon",
            Side::Containerd => "containerd",
        })
    }
}

/// One row: the same measurement of both sides in one run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    what: String,
    unit: &'static str,
    more_is_better: bool,
    values: BTreeMap<Side, f64>,
    /// Pontoon's value divided by containerd's.
    ratio: Option<f64>,
    /// What the ratio shall be.
    goal: Option<Goal>,
}

/// A bound for a ratio.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// The ratio is at most this.
    AtMost(f64),
    /// The ratio is at least this.
    AtLeast(f64),
    /// Pontoon's own value is at most this, in the row's unit.
    ValueAtMost(f64),
    /// It is told and not judged.
    None,
}

impl Comparison {
    /// A row without values, in which less is better.
    pub(crate) fn new(what: String, unit: &'static str) -> Self {
        Comparison {
            what,
            unit,
            more_is_better: false,
            values: BTreeMap::new(),
            ratio: None,
            goal: None,
        }
    }

    /// Says that more is better.
    pub(crate) fn more_is_better(mut self) -> Self {
        self.more_is_better = true;
        self
    }

    /// Adds a side's value.
    pub(crate) fn with(mut self, side: Side, value: f64) -> Self {
        self.values.insert(side, value);
        if let (Some(ours), Some(theirs)) = (
            self.values.get(&Side::Pontoon),
            self.values.get(&Side::Containerd),
        ) {
            self.ratio = Some(ours / theirs);
        }
        self
    }

    /// Sets the goal.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// What the row is of.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// A side's value.
    pub(crate) fn value(&self, side: Side) -> Option<f64> {
        self.values.get(&side).copied()
    }

    /// Whether the goal is met; `None` without a goal.
    pub(crate) fn met(&self) -> Option<bool> {
        let ours = self.values.get(&Side::Pontoon).copied().unwrap_or(f64::NAN);
        let ratio = self.ratio.unwrap_or(f64::NAN);
        self.goal.map(|goal| match goal {
            Goal::AtMost(bound) => ratio <= bound,
            Goal::AtLeast(bound) => ratio >= bound,
            Goal::ValueAtMost(bound) => ours <= bound,
            Goal::None => true,
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtMost(bound) => write!(f, "≤ {bound}x"),
            Goal::AtLeast(bound) => write!(f, "≥ {bound}x"),
            Goal::ValueAtMost(bound) => write!(f, "≤ {bound}"),
            Goal::None => f.write_str("none"),
        }
    }
}

/// The rows as a Markdown table.
pub(crate) fn table(rows: &[Comparison]) -> String {
    let mut text = String::from(
        "| what | unit | Pontoon | containerd | ratio | goal | met |\n|---|---|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let value = |side| row.value(side).map_or("-".to_owned(), number);
        let met = row.met().map_or("", |met| if met { "yes" } else { "NO" });
        let ratio = row
            .ratio
            .map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
        let goal = row.goal.map_or(String::new(), |goal| goal.to_string());
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {ratio} | {goal} | {met} |",
            row.what,
            row.unit,
            value(Side::Pontoon),
            value(Side::Containerd),
        );
    }
    text
}

pub(crate) fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_ours_over_theirs_and_is_judged_by_its_goal() {
        let row = Comparison::new("list".into(), "ms")
            .with(Side::Pontoon, 10.0)
            .with(Side::Containerd, 40.0)
            .goal(Goal::AtMost(0.5));
        assert_eq!(row.met(), Some(true));
        assert!(table(&[row]).contains("| list | ms | 10.0 | 40.0 | 0.25x | ≤ 0.5x | yes |"));
        let slow = Comparison::new("cycles".into(), "1/s")
            .with(Side::Pontoon, 800.0)
            .with(Side::Containerd, 400.0)
            .goal(Goal::AtLeast(3.0));
        assert_eq!(slow.met(), Some(false));
    }

    #[test]
    fn a_row_without_the_rival_has_no_ratio_and_misses_its_goal() {
        let row = Comparison::new("x".into(), "ms")
            .with(Side::Pontoon, 1.0)
            .goal(Goal::AtMost(1.0));
        assert_eq!(row.met(), Some(false));
    }
}
