//! What a start read, in order, as it is kept and handed from node to node. Pure.
//!
//! A profile is JSON, so that people can read it (`docs/stargz.md` documents it):
//! ```text
//! {"version":1,"image":"registry/name:tag",
//!  "layers":[{"blob":"sha256:..","toc":"sha256:.."}, ..],   the lazy layers, the lowest first
//!  "order":[[0,17,3],[1,5,1], ..]}                          layer, first chunk, how many
//! ```
//! It is advice. A wrong one has bytes fetched that nobody reads, and no other harm is in it: chunks that do not exist are
//! passed over, and what is fetched is verified as ever. So it needs no signature, and may come from anywhere.

use std::collections::{HashMap, HashSet};

use pontoon_cache::Key;
use pontoon_layer::Digest;
use serde::{Deserialize, Serialize};

/// The form. Others are refused.
const VERSION: u32 = 1;

/// The largest profile, in bytes.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// The most layers: those of an image.
const LAYERS_MAX: usize = 1000;

/// The most entries of the order, and the most chunks in them.
const RUNS_MAX: usize = 65_536;
const CHUNKS_MAX: u64 = 262_144;

/// The most entries that are written: each has at most 26 bytes, and a quarter of a profile is for what is not its order,
/// such as a thousand layers with two digests each.
const RUNS_WRITTEN_MAX: usize = (BYTES_MAX - BYTES_MAX / 4) / 26;

/// The longest name of an image, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// A recording that has so many hundredths of the chunks of an older one is of a whole start, and takes its place.
const WHOLE_PERCENT: usize = 75;

/// Chunks that follow each other in a layer: the layer, the first chunk, how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run(pub(crate) u32, pub(crate) u32, pub(crate) u32);

/// What a start read, in order: chunks of lazy layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    version: u32,
    /// The image that was started, for people.
    pub(crate) image: String,
    layers: Vec<LayerName>,
    order: Vec<Run>,
}

/// The digests that stand for a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LayerName {
    blob: String,
    toc: String,
}

impl LayerName {
    fn of(key: &Key) -> Self {
        LayerName {
            blob: key.blob.to_string(),
            toc: key.toc.to_string(),
        }
    }

    fn key(&self) -> Result<Key, String> {
        let digest = |text: &str| text.parse().map_err(|error| format!("{text:?}: {error}"));
        Ok(Key::new(digest(&self.blob)?, digest(&self.toc)?))
    }
}

/// The name of the profile of an image with these lazy layers, the lowest first.
pub(crate) fn name(layers: &[Key]) -> String {
    let mut text = "profile\n".to_owned();
    for key in layers {
        text.push_str(&format!("{} {}\n", key.blob, key.toc));
    }
    Digest::of(text.as_bytes()).hex()
}

impl Profile {
    /// A profile of `layers`, the lowest first, in which these chunks were read: layer and chunk, in order.
    pub(crate) fn new(
        image: &str,
        layers: &[Key],
        chunks: impl IntoIterator<Item = (u32, u32)>,
    ) -> Self {
        let mut image = image.to_owned();
        while image.len() > NAME_BYTES_MAX {
            image.pop();
        }
        Profile {
            version: VERSION,
            image,
            layers: layers.iter().map(LayerName::of).collect(),
            order: runs(chunks),
        }
    }

    /// Reads a profile in the form in which it is handed on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > BYTES_MAX {
            return Err(format!("it has more than {BYTES_MAX} bytes"));
        }
        let profile: Profile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if profile.version != VERSION {
            return Err(format!(
                "it has form {}, and this Pontoon knows {VERSION}",
                profile.version
            ));
        }
        if profile.layers.is_empty() || profile.layers.len() > LAYERS_MAX {
            return Err(format!("it has {} layers", profile.layers.len()));
        }
        if profile.order.len() > RUNS_MAX || profile.chunks() > CHUNKS_MAX {
            return Err(format!(
                "its order is longer than {RUNS_MAX} entries or {CHUNKS_MAX} chunks"
            ));
        }
        if profile.image.len() > NAME_BYTES_MAX || profile.image.contains(char::is_control) {
            return Err("the name of its image is none".to_owned());
        }
        profile.keys()?;
        Ok(profile)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // A struct of numbers and texts can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn keys(&self) -> Result<Vec<Key>, String> {
        self.layers.iter().map(LayerName::key).collect()
    }

    /// The image that was started, for people.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The layers, the lowest first.
    pub fn layer_keys(&self) -> Vec<Key> {
        // What was read has keys.
        self.keys().unwrap_or_default()
    }

    /// The chunks that were read, in order: the number of the layer, and that of the chunk in its table.
    pub fn order(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.order.iter().flat_map(|Run(layer, first, count)| {
            (*first..first.saturating_add(*count)).map(|chunk| (*layer, chunk))
        })
    }

    /// What it is called: see [`name`].
    pub(crate) fn name(&self) -> String {
        name(&self.layer_keys())
    }

    /// How many layers it is of.
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// How many chunks were read.
    pub(crate) fn chunks(&self) -> u64 {
        self.order.iter().map(|run| u64::from(run.2)).sum()
    }

    /// The chunks of the layer `key` below `chunks`, each with its place in the order of all layers.
    pub(crate) fn steps(&self, key: &Key, chunks: u32) -> Vec<(u64, u32)> {
        let wanted = LayerName::of(key);
        let Some(layer) = self.layers.iter().position(|layer| *layer == wanted) else {
            return Vec::new();
        };
        let mut steps = Vec::new();
        for (place, Run(of, first, count)) in (0..).zip(&self.order) {
            let end = first.saturating_add(*count).min(chunks);
            if usize::try_from(*of) == Ok(layer) {
                steps.extend((*first..end).map(|chunk| (place, chunk)));
            }
        }
        steps
    }

    /// This profile, which is newer, and `old` in one.
    ///
    /// If it has most of what the old one has, it is of a whole start, and the old one is dropped: what an image no longer
    /// reads is forgotten. If not, something was in the kernel's caches already, and not seen: then the old order stays,
    /// and what is new comes behind it.
    pub(crate) fn after(self, old: Profile) -> Profile {
        if old.layers != self.layers {
            return self;
        }
        let before: HashSet<(u32, u32)> = old.order().collect();
        let again = self.order().filter(|chunk| before.contains(chunk)).count();
        if again.saturating_mul(100) >= before.len().saturating_mul(WHOLE_PERCENT) {
            return self;
        }
        let new = self.order().filter(|chunk| !before.contains(chunk));
        Profile {
            order: runs(old.order().chain(new)),
            ..self
        }
    }
}

/// Joins chunks that follow each other. The order ends where it is too long.
fn runs(chunks: impl IntoIterator<Item = (u32, u32)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (layer, chunk) in chunks.into_iter().take(CHUNKS_MAX as usize) {
        if let Some(Run(of, first, count)) = runs.last_mut()
            && *of == layer
            && first.checked_add(*count) == Some(chunk)
        {
            *count += 1;
        } else if runs.len() < RUNS_WRITTEN_MAX {
            runs.push(Run(layer, chunk, 1));
        } else {
            break;
        }
    }
    runs
}

/// First uses of several layers, each with its number, in one order: layer and chunk.
pub(crate) fn merge(uses: HashMap<u32, Vec<(u64, u32)>>) -> Vec<(u32, u32)> {
    let of_layer = |(layer, uses): (u32, Vec<(u64, u32)>)| {
        uses.into_iter()
            .map(move |(number, chunk)| (number, layer, chunk))
    };
    let mut all: Vec<(u64, u32, u32)> = uses.into_iter().flat_map(of_layer).collect();
    all.sort_unstable();
    all.into_iter()
        .map(|(_, layer, chunk)| (layer, chunk))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(Digest::of(text.as_bytes()), Digest::of(b"toc"))
    }

    fn profile(chunks: &[(u32, u32)]) -> Profile {
        let layers = [key("lower"), key("upper")];
        Profile::new("localhost/a:1", &layers, chunks.iter().copied())
    }

    #[test]
    fn a_profile_is_read_as_it_was_written() {
        let profile = profile(&[(0, 5), (0, 6), (1, 0), (0, 7), (1, 1)]);
        assert_eq!(
            profile.order,
            [Run(0, 5, 2), Run(1, 0, 1), Run(0, 7, 1), Run(1, 1, 1)]
        );
        let read = Profile::decode(&profile.encode()).unwrap();
        assert_eq!(read, profile);
        assert_eq!(read.name(), name(&[key("lower"), key("upper")]));
        assert_ne!(read.name(), name(&[key("upper"), key("lower")]));
        assert_eq!(read.steps(&key("lower"), 7), [(0, 5), (0, 6)]);
        assert_eq!(read.steps(&key("upper"), 9), [(1, 0), (3, 1)]);
        assert_eq!(read.steps(&key("other"), 9), []);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let good = String::from_utf8(profile(&[(0, 1)]).encode()).unwrap();
        Profile::decode(good.as_bytes()).unwrap();
        let digest = Digest::of(b"lower").to_string();
        for (text, other) in [
            ("\"version\":1", "\"version\":2"),
            (&*digest, "sha256:12"),
            ("[0,1,1]", "[0,1]"),
            ("[0,1,1]", "[0,-1,1]"),
            ("[0,1,1]", "[0,1,262145]"),
            ("localhost", "local\\u0007host"),
        ] {
            let bad = good.replace(text, other);
            assert_ne!(bad, good);
            Profile::decode(bad.as_bytes()).unwrap_err();
        }
        for bytes in [&b""[..], b"{}", &[0xff], &vec![b' '; BYTES_MAX + 1]] {
            Profile::decode(bytes).unwrap_err();
        }
        let many = vec!["[0,1,1]"; RUNS_MAX + 1].join(",");
        Profile::decode(good.replace("[0,1,1]", &many).as_bytes()).unwrap_err();
    }

    #[test]
    fn hostile_numbers_name_no_chunk() {
        let good = String::from_utf8(profile(&[(0, 1)]).encode()).unwrap();
        let hostile = good.replace(
            "[0,1,1]",
            "[0,4294967295,9],[4294967295,0,9],[0,4294967290,200]",
        );
        let profile = Profile::decode(hostile.as_bytes()).unwrap();
        assert_eq!(profile.steps(&key("lower"), 100), []);
    }

    #[test]
    fn the_longest_profile_can_be_read_again() {
        let scattered = (0..u32::MAX).step_by(2).map(|chunk| (1, u32::MAX - chunk));
        let layers: Vec<Key> = (0..LAYERS_MAX)
            .map(|layer| key(&layer.to_string()))
            .collect();
        let profile = Profile::new(&"n".repeat(5000), &layers, scattered);
        assert_eq!(Profile::decode(&profile.encode()).unwrap(), profile);
        assert!(profile.chunks() > 10_000);
    }

    #[test]
    fn a_whole_start_takes_the_place_of_an_old_one() {
        let old = profile(&[(0, 0), (0, 2), (0, 4), (1, 7)]);
        let new = profile(&[(1, 7), (0, 4), (0, 2), (0, 9)]);
        assert_eq!(new.clone().after(old), new);
    }

    #[test]
    fn what_only_part_of_a_start_read_comes_behind() {
        let old = profile(&[(0, 0), (0, 2), (0, 4), (1, 7)]);
        let new = profile(&[(1, 3), (0, 2)]);
        let both = new.after(old);
        assert_eq!(both, profile(&[(0, 0), (0, 2), (0, 4), (1, 7), (1, 3)]));
    }

    #[test]
    fn uses_of_all_layers_come_in_one_order() {
        let uses = HashMap::from([(0, vec![(1, 7), (4, 8)]), (1, vec![(2, 0), (3, 5)])]);
        assert_eq!(merge(uses), [(0, 7), (1, 0), (1, 5), (0, 8)]);
    }
}
