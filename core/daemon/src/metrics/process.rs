//! What the daemon's process takes, read from /proc at each scrape.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Reads `/proc/self`.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = Some(&Unit::Bytes);
        let mut gauge = |name, help, unit, value: u64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        gauge(
            "process_resident_memory",
            "Memory in use, pages of files included",
            bytes,
            status_bytes(&status, "VmRSS:"),
        )?;
        gauge(
            "process_anonymous_memory",
            "Memory in use that no file backs",
            bytes,
            status_bytes(&status, "RssAnon:"),
        )?;
        let fds = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        gauge("process_open_fds", "Open file descriptors", None, fds)?;
        gauge(
            "process_threads",
            "Threads",
            None,
            status_number(&status, "Threads:"),
        )
    }
}

/// A line of proc_pid_status(5) in kB, as bytes.
fn status_bytes(status: &str, name: &str) -> u64 {
    status_number(status, name) * 1024
}

fn status_number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}
