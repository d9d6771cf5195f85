//! The memory of the daemons: anonymous pages in use, which is what a node cannot give to anybody else.

use std::error::Error;
use std::fs;

use crate::Sides;
use crate::report::Comparison;

/// `RssAnon` of both, in MB (10^6 bytes).
pub(crate) fn row(what: &str, sides: &mut Sides) -> Result<Comparison, Box<dyn Error>> {
    let mut row = Comparison::new(what.to_owned(), "MB");
    for (side, plugin) in sides.iter_mut() {
        row = row.with(*side, rss_anon_mb(plugin.process()?.pid())?);
    }
    Ok(row)
}

fn rss_anon_mb(pid: u32) -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("the process has no RssAnon")?
        .parse()?;
    Ok(kib * 1024.0 / 1e6)
}
