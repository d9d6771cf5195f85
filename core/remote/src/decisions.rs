//! What became of the layers that were asked for, and why. The latter survives a restart, as long as their snapshots do.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pontoon_layer::Digest;
use pontoon_overlay::SnapshotId;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::reason::Refusal;

/// So many layers are remembered.
const LAYERS_MAX: usize = 4096;

/// So much of what exactly happened, in characters.
const DETAIL_MAX: usize = 1024;

/// A larger file is not ours.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// What became of a layer that is not lazy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decision {
    pub(crate) image: String,
    pub(crate) layer: String,
    /// Unpacked here, or left to containerd.
    pub(crate) unpacked: bool,
    /// Nobody can bring it.
    #[serde(default)]
    pub(crate) refused: bool,
    /// Why it is not lazy.
    pub(crate) reason: String,
    pub(crate) detail: Option<String>,
    /// In seconds since 1970.
    pub(crate) when: u64,
    /// Its snapshot: what was decided is of no interest when that is removed.
    snapshot: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Decisions {
    /// Where they are kept.
    path: PathBuf,
    /// Where snapshots are.
    snapshots: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    layers: BTreeMap<(String, String), Decision>,
    counts: Counts,
    /// Something has changed since they were kept.
    changed: bool,
}

/// How many layers were asked for, by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lazy.
    pub lazy: u64,
    /// Unpacked here, by why they are not lazy.
    pub unpacked: BTreeMap<&'static str, u64>,
    /// Left to containerd, by why.
    pub declined: BTreeMap<&'static str, u64>,
    /// Brought by nobody, so that the pull failed, by why.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Decisions {
    /// Those that the file `path` has of snapshots that are still among `snapshots`.
    pub(crate) fn open(path: PathBuf, snapshots: PathBuf) -> Self {
        let kept = read(&path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "it is not known any more why layers are not lazy");
            Vec::new()
        });
        let decisions = Decisions {
            path,
            snapshots,
            state: Mutex::default(),
        };
        let known = kept.into_iter().take(LAYERS_MAX);
        let known = known.filter(|decision| decisions.has_snapshot(decision));
        let known =
            known.map(|decision| ((decision.image.clone(), decision.layer.clone()), decision));
        decisions.lock().layers = known.collect();
        decisions
    }

    fn has_snapshot(&self, decision: &Decision) -> bool {
        // It comes from a file, and becomes a part of a path.
        decision.snapshot.bytes().all(|byte| byte.is_ascii_digit())
            && !decision.snapshot.is_empty()
            && self.snapshots.join(&decision.snapshot).exists()
    }

    /// Writes what has changed to disk.
    pub(crate) fn keep(&self) -> io::Result<()> {
        if !std::mem::take(&mut self.lock().changed) {
            return Ok(());
        }
        let mut all = self.all();
        all.retain(|decision| self.has_snapshot(decision));
        let kept = serde_json::to_vec(&all)
            .map_err(io::Error::other)
            .and_then(|bytes| durable::write(&self.path, &bytes));
        if kept.is_err() {
            self.lock().changed = true;
        }
        kept
    }

    /// A layer is lazy.
    pub(crate) fn lazy(&self, image: &str, layer: &Digest) {
        let mut state = self.lock();
        state.counts.lazy += 1;
        let key = (image.to_owned(), layer.to_string());
        state.changed |= state.layers.remove(&key).is_some();
    }

    /// A layer is not, and is in the snapshot `id`, if in any.
    pub(crate) fn ordinary(
        &self,
        image: &str,
        layer: &Digest,
        unpacked: bool,
        why: &Refusal,
        id: SnapshotId,
    ) {
        let mut state = self.lock();
        let counts = match (unpacked, why.is_final) {
            (true, _) => &mut state.counts.unpacked,
            (false, true) => &mut state.counts.refused,
            (false, false) => &mut state.counts.declined,
        };
        *counts.entry(why.reason).or_default() += 1;
        let detail = why.detail.as_deref();
        let decision = Decision {
            image: image.to_owned(),
            layer: layer.to_string(),
            unpacked,
            refused: why.is_final && !unpacked,
            reason: why.reason.to_owned(),
            detail: detail.map(|detail| detail.chars().take(DETAIL_MAX).collect()),
            when: now(),
            snapshot: id.to_string(),
        };
        let key = (decision.image.clone(), decision.layer.clone());
        state.layers.insert(key, decision);
        state.changed = true;
        if state.layers.len() > LAYERS_MAX {
            let oldest = state
                .layers
                .iter()
                .min_by_key(|(_, decision)| decision.when);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                state.layers.remove(&key);
            }
        }
    }

    /// Nothing is known of where the layer is.
    pub(crate) fn unknown(&self, why: &Refusal) {
        let counts = &mut self.lock().counts;
        let counts = match why.is_final {
            true => &mut counts.refused,
            false => &mut counts.declined,
        };
        *counts.entry(why.reason).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    pub(crate) fn all(&self) -> Vec<Decision> {
        self.lock().layers.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Vec<Decision>> {
    let bytes = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        metadata => metadata?.len(),
    };
    if bytes > FILE_BYTES_MAX {
        return Err(io::Error::other("it is too large"));
    }
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let (path, snapshots) = (directory.path().join("a"), directory.path().join("s"));
        let entry = |snapshot: &str| {
            format!(
                r#"{{"image":"a","layer":"{snapshot}","unpacked":true,"reason":"r","detail":null,"when":1,"snapshot":"{snapshot}"}}"#
            )
        };
        fs::create_dir_all(snapshots.join("7")).unwrap();
        for (text, known) in [
            (String::new(), 0),
            ("{}".to_owned(), 0),
            (format!("[{}]", entry("7")), 1),
            // It is removed, or is none.
            (format!("[{}, {}]", entry("7"), entry("8")), 1),
            (format!("[{}, {}]", entry(""), entry("../s/7")), 0),
        ] {
            fs::write(&path, &text).unwrap();
            let decisions = Decisions::open(path.clone(), snapshots.clone());
            assert_eq!(decisions.all().len(), known, "{text}");
        }
    }
}
