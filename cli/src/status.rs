//! `pontoon status`: all lazy layers of a running daemon, and what it has fetched and kept.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Serialize;

use crate::admin::Admin;
use crate::failure::Failure;
use crate::layers::{Holder, Layer, Report, State};
use crate::text::{self, count};

/// The exit codes.
const EXIT_CODES: &str = "\
Exit codes:
  0   the daemon answers and is ready
  1   it answers and is not ready
  64  the command line is wrong
  69  no daemon answers";

/// Show the lazy layers of a running daemon, its cache and its traffic
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Status {
    #[command(flatten)]
    admin: Admin,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. `docs/stargz.md` documents it: names stay, more may come.
#[derive(Debug, Serialize)]
struct Answer {
    /// The endpoint that was asked.
    admin: String,
    ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<String>,
    #[serde(flatten)]
    report: Report,
    cache: Cache,
    registry: Registry,
    peers: Peers,
    reads: Reads,
}

#[derive(Debug, Serialize)]
struct Cache {
    bytes: u64,
    pinned_bytes: u64,
    evicted_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Registry {
    requests: u64,
    retries: u64,
    blob_bytes: u64,
}

/// What came from other nodes, and went there.
#[derive(Debug, Serialize)]
struct Peers {
    /// Other nodes that are known.
    nodes: u64,
    chunks: u64,
    bytes: u64,
    given_bytes: u64,
    bans: u64,
}

#[derive(Debug, Serialize)]
struct Reads {
    ready: u64,
    waited: u64,
    failed: u64,
}

impl Status {
    pub(crate) async fn run(&self) -> Result<ExitCode, Failure> {
        let answer = self.ask().await?;
        crate::show(&match self.json {
            true => crate::json(&answer)?,
            false => answer.text(),
        })?;
        Ok(ExitCode::from(u8::from(!answer.ready)))
    }

    async fn ask(&self) -> Result<Answer, Failure> {
        let report = self.admin.report().await?;
        let not_ready = self.admin.not_ready().await?;
        let metrics = self.admin.metrics().await?;
        let value = |name: &str| metric(&metrics, name);
        Ok(Answer {
            admin: self.admin.place(),
            ready: not_ready.is_none(),
            not_ready,
            cache: Cache {
                bytes: report.cache_bytes,
                pinned_bytes: value("pontoon_cache_pinned_bytes"),
                evicted_bytes: value("pontoon_cache_evicted_bytes_total"),
            },
            registry: Registry {
                requests: value("pontoon_registry_requests_total"),
                retries: value("pontoon_registry_retries_total"),
                blob_bytes: value("pontoon_registry_blob_bytes_total"),
            },
            peers: Peers {
                nodes: value("pontoon_peer_nodes"),
                chunks: value("pontoon_lazy_peer_chunks_total"),
                bytes: value("pontoon_lazy_peer_bytes_total"),
                given_bytes: value("pontoon_peer_given_bytes_total"),
                bans: value("pontoon_peer_bans_total"),
            },
            reads: Reads {
                ready: value("pontoon_lazy_reads_total{result=\"ready\"}"),
                waited: value("pontoon_lazy_reads_total{result=\"waited\"}"),
                failed: value("pontoon_lazy_reads_total{result=\"failed\"}"),
            },
            report,
        })
    }
}

impl Peers {
    /// A line, if there is anything to tell.
    fn text(&self) -> String {
        if self.nodes + self.chunks + self.given_bytes == 0 {
            return String::new();
        }
        format!(
            "peers     {}, {} taken, {} given, {}\n",
            count(self.nodes, "node"),
            text::bytes(self.bytes),
            text::bytes(self.given_bytes),
            count(self.bans, "ban"),
        )
    }
}

impl Answer {
    fn text(&self) -> String {
        let lazy: Vec<&Layer> = self.lazy().collect();
        let (cache, registry, reads) = (&self.cache, &self.registry, &self.reads);
        let state = match &self.not_ready {
            None => "ready".to_owned(),
            Some(reason) => format!("not ready: {reason}"),
        };
        let mut text = format!("daemon    {state}, asked at {}\n", self.admin);
        if let Some(front_end) = &self.report.front_end {
            text.push_str(&format!(
                "front end {}: {}\n",
                front_end.name, front_end.why
            ));
        }
        text.push_str(&format!(
            "layers    {} lazy, {} unpacked by it, {} left to containerd\n",
            lazy.len(),
            sum(&self.report.unpacked),
            sum(&self.report.declined),
        ));
        text.push_str(&format!(
            "holder    {}\n",
            Holder::text(self.report.holder.as_ref())
        ));
        text.push_str(&format!(
            "cache     {} on disk, {} of them mounted, {} evicted\n",
            text::bytes(cache.bytes),
            text::bytes(cache.pinned_bytes),
            text::bytes(cache.evicted_bytes),
        ));
        text.push_str(&format!(
            "registry  {}, {}, {} of blobs\n",
            count(registry.requests, "request"),
            match registry.retries {
                1 => "1 retry".to_owned(),
                retries => format!("{retries} retries"),
            },
            text::bytes(registry.blob_bytes),
        ));
        text.push_str(&self.peers.text());
        text.push_str(&format!(
            "reads     {} from disk, {} after a fetch, {} failed\n",
            reads.ready, reads.waited, reads.failed
        ));
        if !lazy.is_empty() {
            let rows: Vec<[String; 6]> = lazy.into_iter().map(row).collect();
            let heads = [
                "IMAGE",
                "LAYER",
                "LOCAL",
                "SNAPSHOTS",
                "BACKGROUND",
                "ERRORS",
            ];
            text.push_str(&format!("\n{}", text::table(heads, &rows)));
        }
        for (what, counts) in [
            ("unpacked by it", &self.report.unpacked),
            ("left to containerd", &self.report.declined),
            ("brought by nobody", &self.report.refused),
        ] {
            if !counts.is_empty() {
                text.push_str(&format!("\n{what}, since the start:\n"));
            }
            for (reason, number) in counts {
                text.push_str(&format!("{number:>6}  {reason}\n"));
            }
        }
        text
    }

    fn lazy(&self) -> impl Iterator<Item = &Layer> {
        let layers = self.report.layers.iter();
        layers.filter(|layer| layer.state == State::Lazy)
    }
}

fn row(layer: &Layer) -> [String; 6] {
    let snapshots = layer.progress.as_ref().map(|progress| progress.snapshots);
    [
        layer.image.clone(),
        layer.short_digest(),
        layer.local(),
        snapshots.unwrap_or_default().to_string(),
        layer.background(),
        layer.remark(),
    ]
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// The value of a metric in OpenMetrics text, 0 if it is not there; `name` with its labels as they are printed.
fn metric(text: &str, name: &str) -> u64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        // A set of no labels may be written or not.
        let rest = rest.strip_prefix("{}").unwrap_or(rest);
        rest.strip_prefix(' ')?.parse().ok()
    };
    text.lines().find_map(value).unwrap_or(0)
}
