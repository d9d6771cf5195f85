//! What a daemon tells of its layers (`GET /layers`), and how people see it.
//!
//! The form is that of `core/remote`'s report. What a newer daemon adds is passed over; what an older one leaves out
//! has a default, so that either may be upgraded first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::text;

/// All layers that a daemon knows of.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Report {
    /// Who serves trees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) front_end: Option<FrontEnd>,
    pub(crate) layers: Vec<Layer>,
    /// How often a layer was left to containerd since the daemon's start, by reason.
    #[serde(default)]
    pub(crate) declined: BTreeMap<String, u64>,
    /// How often nobody could bring a layer, by reason.
    #[serde(default)]
    pub(crate) refused: BTreeMap<String, u64>,
    /// How often an ordinary layer was unpacked by the daemon, by why it is not lazy.
    #[serde(default)]
    pub(crate) unpacked: BTreeMap<String, u64>,
    /// Bytes of decompressed data on disk.
    #[serde(default)]
    pub(crate) cache_bytes: u64,
    /// Who keeps the connection when the daemon ends. Nobody, if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<Holder>,
}

/// The process that keeps connections when no daemon serves them.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Holder {
    /// The process. It is started when there is something to keep.
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    /// How many connections it keeps.
    #[serde(default)]
    pub(crate) kept: u64,
    /// How often it was lost since the daemon's start.
    #[serde(default)]
    pub(crate) lost: u64,
}

impl Holder {
    /// What becomes of containers when the daemon ends.
    pub(crate) fn text(holder: Option<&Self>) -> String {
        match holder {
            None => "none: containers on lazy layers end with the daemon".to_owned(),
            Some(Holder {
                pid: Some(pid),
                kept,
                ..
            }) => {
                format!("process {pid} keeps {}", text::count(*kept, "connection"))
            }
            Some(Holder { kept: 0, .. }) => "not needed: nothing is mounted".to_owned(),
            Some(_) => "lost: containers on lazy layers end with the daemon".to_owned(),
        }
    }
}

/// Who serves trees.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct FrontEnd {
    /// `erofs` or `fuse`.
    pub(crate) name: String,
    pub(crate) why: String,
}

/// A layer.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Layer {
    /// The image that it was pulled with, or one of them.
    pub(crate) image: String,
    /// The digest of its blob.
    pub(crate) digest: String,
    pub(crate) state: State,
    /// Why it is not lazy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What exactly happened, if that says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    /// When that was decided, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) decided: Option<u64>,
    /// How far it is, if it is lazy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<Progress>,
}

/// What a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its bytes come when they are read.
    Lazy,
    /// The daemon unpacked it.
    Unpacked,
    /// It was left to containerd.
    Declined,
    /// Nobody can bring it, so the pull failed.
    Refused,
    /// The daemon knows nothing of it.
    #[serde(other)]
    Unknown,
}

/// How far a lazy layer is.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Progress {
    /// Bytes of its blob.
    #[serde(default)]
    pub(crate) blob_bytes: u64,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    /// How many of them are here.
    pub(crate) local_bytes: u64,
    /// The same in percent.
    pub(crate) percent: f64,
    /// How many snapshots have it.
    #[serde(default)]
    pub(crate) snapshots: u64,
    /// Its directory below the mount, if it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) number: Option<u32>,
    /// What is doing in the background.
    #[serde(default)]
    pub(crate) background: String,
    /// Compressed bytes that came for it since it was opened.
    #[serde(default)]
    pub(crate) fetched_bytes: u64,
    /// The last failure, also if it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
}

impl Layer {
    /// One that the daemon knows nothing of.
    pub(crate) fn unknown(image: &str, digest: String) -> Self {
        let reason =
            "the daemon was not asked for it since its start, or another snapshotter has it";
        Layer {
            image: image.to_owned(),
            digest,
            state: State::Unknown,
            reason: Some(reason.to_owned()),
            detail: None,
            decided: None,
            progress: None,
        }
    }

    /// Its digest, as short as Docker shows one.
    pub(crate) fn short_digest(&self) -> String {
        self.digest.chars().take("sha256:".len() + 12).collect()
    }

    /// In a word.
    pub(crate) fn state(&self) -> &'static str {
        match self.state {
            State::Lazy => "lazy",
            State::Unpacked => "unpacked",
            State::Declined => "containerd",
            State::Refused => "refused",
            State::Unknown => "unknown",
        }
    }

    /// How much of it is here.
    pub(crate) fn local(&self) -> String {
        match (&self.progress, self.state) {
            (Some(progress), _) => format!(
                "{:.1} % of {}",
                progress.percent,
                text::bytes(progress.bytes)
            ),
            (None, State::Unpacked | State::Declined) => "all".to_owned(),
            (None, _) => String::new(),
        }
    }

    /// What is doing in the background, if that is anything.
    pub(crate) fn background(&self) -> String {
        match &self.progress {
            Some(progress) if progress.background != "idle" => progress.background.clone(),
            _ => String::new(),
        }
    }

    /// Why it is not lazy, or what went wrong last.
    pub(crate) fn remark(&self) -> String {
        if let Some(progress) = &self.progress {
            let error = progress.last_error.as_deref();
            return error.map_or(String::new(), |error| format!("last error: {error}"));
        }
        let reason = self.reason.clone().unwrap_or_default();
        match &self.detail {
            Some(detail) => format!("{reason}: {detail}"),
            None => reason,
        }
    }
}
