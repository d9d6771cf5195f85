//! Where the time goes between the begin of a pull and the first useful line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::measure::Measured;

/// The length of a step of the profile of the link.
const STEP: Duration = Duration::from_millis(100);

/// Every request with its times and bytes, and how busy the link was, as text.
pub(super) fn text(measured: &Measured) -> String {
    let Measured {
        record,
        began,
        pulled,
        ready,
        journal,
    } = measured;
    let ms = |at: Instant| at.saturating_duration_since(*began).as_millis();
    let mut text = format!(
        "{} on {}, {}: pulled after {} ms, ready after {} ms, link idle {:.0} ms of them\n\n",
        record.workload,
        record.column.title(),
        record.road.title(),
        ms(*pulled),
        ms(*ready),
        record.idle_s * 1000.0,
    );
    // Writing to a string cannot fail.
    let _ = writeln!(text, "connection asked first last (ms) bytes request");
    let mut names = BTreeMap::new();
    for t in journal.transfers.iter().filter(|t| t.asked <= *ready) {
        let (first, last) = (t.first.map_or(0, ms), t.last.map_or(0, ms));
        let mut words = t.request.rsplit('/');
        let digest = words.next().unwrap_or_default();
        let kind = words.next().unwrap_or_default();
        let count = names.len();
        let name = *names.entry(digest.to_owned()).or_insert(count);
        let range = t.range.as_deref().unwrap_or("all");
        let range = range.trim_start_matches("bytes=");
        let _ = writeln!(
            text,
            "{:>3} {:>6} {first:>6} {last:>6} {:>9} {kind} #{name} {range}",
            t.connection,
            ms(t.asked),
            t.bytes,
        );
    }
    let _ = writeln!(
        text,
        "\nThe link, per cent busy in each {} ms:",
        STEP.as_millis()
    );
    let mut from = *began;
    while from < *ready {
        let busy = journal.busy_between(from, from + STEP);
        let percent = 100.0 * busy.as_secs_f64() / STEP.as_secs_f64();
        let _ = write!(text, "{percent:.0} ");
        from += STEP;
    }
    text.push('\n');
    text
}
