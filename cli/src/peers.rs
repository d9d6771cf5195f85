//! `pontoon peers`: other nodes that layers are exchanged with, and what makes this one a member.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use pontoon_peer::PeerId;
use pontoon_peer::admission::ClusterKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::Admin;
use crate::failure::Failure;
use crate::text;

/// The exit codes.
const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   the daemon takes no part among other nodes, or a key cannot be used
  64  the command line is wrong
  69  no daemon answers";

/// Show other nodes that layers are exchanged with, and let nodes in
///
/// `docs/peers.md` says how to begin.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Peers {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the other nodes that the daemon knows, and what it takes from them
    Show {
        #[command(flatten)]
        admin: Admin,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Print the daemon's own id, for the others' allow-list or for a token
    Id {
        #[command(flatten)]
        admin: Admin,
    },
    /// Print a token that makes a node a member of the cluster
    ///
    /// What is printed goes into the node's `token_file`. The cluster's public key, which all nodes have as `cluster_key`, is
    /// told on standard error. Asks no daemon.
    Token {
        /// The cluster's secret key; made if it is not there. No node needs it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The id of the node, as `pontoon peers id` prints it there
        id: PeerId,
        /// For how long it is a member
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
    },
}

/// What the daemon tells.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    enabled: bool,
    reason: Option<String>,
    id: String,
    listen: String,
    https: Option<String>,
    zone: String,
    off_seconds: Option<u64>,
    layers: Vec<Layer>,
    peers: Vec<Other>,
    asked: Traffic,
    given: Traffic,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Layer {
    blob: String,
    nodes: u64,
    chunks_elsewhere: u64,
    chunks_here: u64,
    chunks: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Other {
    id: String,
    address: Option<String>,
    connected: bool,
    seen_seconds: u64,
    zone: String,
    received_bytes: u64,
    ms_per_mib: Option<u64>,
    outstanding_bytes: u64,
    banned_seconds: Option<u64>,
    ban_reason: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Traffic {
    chunks: u64,
    bytes: u64,
    busy: u64,
}

impl Peers {
    pub(crate) async fn run(&self) -> Result<ExitCode, Failure> {
        match &self.verb {
            Verb::Show { admin, json } => {
                let body = admin.peers().await?;
                crate::show(&match json {
                    true => crate::json(&parse::<Value>(admin, &body)?)?,
                    false => table(&parse(admin, &body)?),
                })?;
            }
            Verb::Id { admin } => {
                let told: Told = parse(admin, &admin.peers().await?)?;
                if !told.enabled {
                    let reason = told.reason.unwrap_or_default();
                    return Err(Failure::new(
                        1,
                        format!("this daemon takes no part among other nodes: {reason}"),
                    ));
                }
                crate::show(&format!("{}\n", told.id))?;
            }
            Verb::Token { key, id, days } => {
                let failed = |error| Failure::new(1, crate::failure::chain(&error));
                let key = ClusterKey::open(key).map_err(failed)?;
                let time = Duration::from_secs(u64::from(*days) * 24 * 60 * 60);
                let token = key.token(*id, SystemTime::now() + time);
                eprintln!("cluster_key = \"{}\"", key.public());
                crate::show(&format!("{token}\n"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn parse<T: serde::de::DeserializeOwned>(admin: &Admin, body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| admin.broken(&format!("its answer makes no sense ({error})")))
}

fn table(told: &Told) -> String {
    if !told.enabled {
        let reason = told.reason.as_deref().unwrap_or("it does not say why");
        return format!("off: {reason}\n");
    }
    let mut text = format!("this node  {}\n", told.id);
    text.push_str(&format!(
        "listens    {}, chunks {}\n",
        told.listen,
        told.https.as_deref().unwrap_or("given to nobody"),
    ));
    text.push_str(&format!(
        "taken      {} of chunks in {}\n",
        text::bytes(told.asked.bytes),
        text::count(told.asked.chunks, "chunk"),
    ));
    text.push_str(&format!(
        "given      {} of chunks in {}\n",
        text::bytes(told.given.bytes),
        text::count(told.given.chunks, "chunk"),
    ));
    if let Some(seconds) = told.off_seconds {
        text.push_str(&format!(
            "nobody is asked for {seconds} s: too many nodes were banned\n"
        ));
    }
    if told.peers.is_empty() {
        text.push_str("\nno other node was met yet: see bootstrap and the admission in [peer]\n");
    } else {
        let heads = [
            "NODE", "ADDRESS", "ZONE", "SEEN", "TAKEN", "MS/MIB", "STATE",
        ];
        let rows: Vec<[String; 7]> = told.peers.iter().map(Other::row).collect();
        text.push_str(&format!("\n{}", text::table(heads, &rows)));
    }
    if !told.layers.is_empty() {
        let heads = ["LAYER", "HERE", "ELSEWHERE", "NODES"];
        let rows: Vec<[String; 4]> = told.layers.iter().map(Layer::row).collect();
        text.push_str(&format!("\n{}", text::table(heads, &rows)));
    }
    text
}

impl Other {
    fn row(&self) -> [String; 7] {
        let seen = match self.connected {
            true => "now".to_owned(),
            false => format!("{} s ago", self.seen_seconds),
        };
        let state = match (self.banned_seconds, &self.ban_reason) {
            (Some(seconds), reason) => format!(
                "banned for {seconds} s: {}",
                reason.as_deref().unwrap_or_default()
            ),
            (None, _) => String::new(),
        };
        [
            self.id.clone(),
            self.address.clone().unwrap_or_default(),
            self.zone.clone(),
            seen,
            text::bytes(self.received_bytes),
            self.ms_per_mib.map(|ms| ms.to_string()).unwrap_or_default(),
            state,
        ]
    }
}

impl Layer {
    fn row(&self) -> [String; 4] {
        let digest = self
            .blob
            .split_once(':')
            .map_or(&*self.blob, |(_, hex)| hex);
        let share = |chunks: u64| format!("{chunks} of {}", text::count(self.chunks, "chunk"));
        [
            digest.chars().take(12).collect(),
            share(self.chunks_here),
            share(self.chunks_elsewhere),
            self.nodes.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_shown() {
        let told = serde_json::json!({
            "enabled": true, "id": "me", "listen": "0.0.0.0:7001", "https": "0.0.0.0:7002",
            "layers": [{"blob": "sha256:0123456789abcdef", "nodes": 2, "chunks": 9, "chunks_here": 1, "chunks_elsewhere": 9}],
            "peers": [
                {"id": "good", "address": "10.0.0.2:7002", "connected": true, "received_bytes": 2_000_000, "ms_per_mib": 12},
                {"id": "bad", "banned_seconds": 600, "ban_reason": "chunk 3: wrong"},
            ],
            "asked": {"chunks": 2, "bytes": 2_000_000}, "more": "in later versions",
        });
        let text = table(&serde_json::from_value(told).unwrap());
        for part in [
            "me",
            "10.0.0.2:7002",
            "2.0 MB of chunks in 2 chunks",
            "banned for 600 s: chunk 3: wrong",
            "0123456789ab  1 of 9 chunks  9 of 9 chunks  2",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let off = serde_json::json!({"enabled": false, "reason": "because"});
        assert_eq!(
            table(&serde_json::from_value(off).unwrap()),
            "off: because\n"
        );
    }
}
