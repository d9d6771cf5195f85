//! What the labels of an extraction say about where its layer is.
//!
//! containerd sets the names with `cri.`, whoever pulls (`pkg/snapshotters/annotations.go`); `ctr-remote` those of
//! stargz-snapshotter (`fs/source/source.go`).

use std::collections::BTreeMap;

use pontoon_layer::Digest;
use pontoon_snapshot::Labels;
use pontoon_source::Reference;

use crate::nydus;
use crate::reason::{BAD_LABELS, NO_LABELS, Refusal};

const IMAGE: [&str; 2] = [
    "containerd.io/snapshot/cri.image-ref",
    "containerd.io/snapshot/remote/stargz.reference",
];
const LAYER: [&str; 2] = [
    "containerd.io/snapshot/cri.layer-digest",
    "containerd.io/snapshot/remote/stargz.digest",
];
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const PREFETCH: &str = "containerd.io/snapshot/remote/stargz.prefetch";

/// An image, as far as it is known before its manifest is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Image {
    pub(crate) reference: Reference,
    /// The digest of its manifest. Without it the tag is resolved.
    pub(crate) manifest: Option<Digest>,
}

/// The layer that is to be extracted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) image: Image,
    pub(crate) layer: Digest,
    /// All labels: the layer's annotations are among them.
    pub(crate) annotations: BTreeMap<String, String>,
    /// How many bytes of the blob to prefetch if the layer does not say.
    pub(crate) prefetch_bytes: Option<u64>,
}

/// Whether the labels are those of a layer in nydus' form, which containerd cannot unpack.
pub(crate) fn is_nydus(labels: &Labels) -> bool {
    let annotations = labels
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    nydus::is_named(&annotations.collect())
}

impl Wanted {
    pub(crate) fn read(labels: &Labels) -> Result<Self, Refusal> {
        let first = |names: [&str; 2]| names.into_iter().find_map(|name| labels.get(name));
        let (Some(reference), Some(layer)) = (first(IMAGE), first(LAYER)) else {
            return Err(Refusal::new(NO_LABELS));
        };
        let reference = Reference::parse(reference)
            .map_err(|error| Refusal::new(BAD_LABELS).because(&error))?;
        let digest = |text: &str| {
            text.parse::<Digest>()
                .map_err(|error| Refusal::new(BAD_LABELS).because(&error))
        };
        Ok(Wanted {
            image: Image {
                reference,
                manifest: labels.get(MANIFEST).map(digest).transpose()?,
            },
            layer: digest(layer)?,
            annotations: labels
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            prefetch_bytes: labels.get(PREFETCH).and_then(|bytes| bytes.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(pairs: &[(&str, &str)]) -> Result<Wanted, Refusal> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        Wanted::read(&Labels::new(pairs).unwrap())
    }

    #[test]
    fn both_families_of_labels_are_understood() {
        let cri = read(&[
            (IMAGE[0], "localhost:5000/a:1"),
            (LAYER[0], DIGEST),
            (MANIFEST, DIGEST),
        ])
        .unwrap();
        assert_eq!(cri.image.reference.to_string(), "localhost:5000/a:1");
        assert_eq!(cri.image.manifest, Some(DIGEST.parse().unwrap()));
        let stargz = read(&[
            (IMAGE[1], "localhost:5000/a:1"),
            (LAYER[1], DIGEST),
            (PREFETCH, "10485760"),
        ])
        .unwrap();
        assert_eq!(stargz.image.reference, cri.image.reference);
        assert_eq!(stargz.image.manifest, None);
        assert_eq!(stargz.layer, cri.layer);
        assert_eq!(stargz.prefetch_bytes, Some(10 << 20));
    }

    #[test]
    fn labels_that_say_nothing_are_told_from_labels_that_make_no_sense() {
        assert_eq!(read(&[]).unwrap_err().reason, NO_LABELS);
        assert_eq!(read(&[(IMAGE[0], "a")]).unwrap_err().reason, NO_LABELS);
        for (image, layer) in [("A B", DIGEST), ("localhost/a", "sha256:1")] {
            let refusal = read(&[(IMAGE[0], image), (LAYER[0], layer)]).unwrap_err();
            assert_eq!(refusal.reason, BAD_LABELS);
            assert!(refusal.detail.is_some());
        }
    }
}
