//! Manifests and indexes, as the OCI image specification and Docker's registry have them.

use std::collections::BTreeMap;

use pontoon_containerd::Descriptor;
use serde::Deserialize;

/// The largest document that is read, in bytes: what registries take.
pub(crate) const BYTES_MAX: u64 = 4 << 20;

/// More entries than this no document has.
const ENTRIES_MAX: usize = 1000;

/// What refers to what keeps it from collection (containerd, `docs/garbage-collection.md`).
const KEEPS: &str = "containerd.io/gc.ref.content";

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// What a document lists.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// Manifests, or indexes.
    Index(Vec<Descriptor>),
    /// The parts of one image.
    Manifest {
        config: Descriptor,
        /// The lowest first.
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Document {
    /// Reads a verified document; the error says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let raw: RawDocument =
            serde_json::from_slice(bytes).map_err(|error| format!("it is no manifest: {error}"))?;
        match (raw.manifests, raw.config, raw.layers) {
            (Some(entries), None, None) => Ok(Document::Index(descriptors(entries)?)),
            (None, Some(config), Some(layers)) => Ok(Document::Manifest {
                config: descriptor(config)?,
                layers: descriptors(layers)?,
            }),
            _ => Err("it is neither an image manifest nor an index".to_owned()),
        }
    }

    /// What it refers to, in containerd's order.
    pub(crate) fn children(&self) -> Vec<&Descriptor> {
        match self {
            Document::Index(entries) => entries.iter().collect(),
            Document::Manifest { config, layers } => {
                std::iter::once(config).chain(layers).collect()
            }
        }
    }

    /// The labels of a document that keep what it refers to, as containerd names them (`core/images/mediatypes.go`,
    /// `ChildGCLabels`, and `core/images/handlers.go`, `SetChildrenMappedLabels`). Empty if `labels` already do.
    pub(crate) fn missing_labels(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let children = self.children();
        let kept = |child: &&Descriptor| {
            let digest = child.digest.to_string();
            labels
                .iter()
                .any(|(name, value)| name.starts_with(KEEPS) && *value == digest)
        };
        if children.iter().all(kept) {
            return BTreeMap::new();
        }
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        let label = |child: &Descriptor| {
            let kind = kind(&child.media_type);
            let count = counts.entry(kind).or_default();
            let number = match (kind, *count) {
                ("config", 0) => String::new(),
                (_, number) => number.to_string(),
            };
            *count += 1;
            let name = match kind {
                "" => format!("{KEEPS}.{number}"),
                "config" => format!("{KEEPS}.config{number}"),
                kind => format!("{KEEPS}.{kind}.{number}"),
            };
            (name, child.digest.to_string())
        };
        children.into_iter().map(label).collect()
    }
}

/// How containerd calls what a document refers to.
fn kind(media_type: &str) -> &'static str {
    match media_type {
        config if CONFIGS.contains(&config) => "config",
        manifest if MANIFESTS.contains(&manifest) => "m",
        layer if is_layer(layer) => "l",
        _ => "",
    }
}

/// Whether it is a document that lists others.
pub(crate) fn is_document(media_type: &str) -> bool {
    INDEXES.contains(&media_type) || MANIFESTS.contains(&media_type)
}

/// Whether it is a layer of a root filesystem, and not what else images carry (attestations, for example).
pub(crate) fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

/// Whether it is a layer that its registry does not have and that nobody pushes.
pub(crate) fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

fn descriptors(raw: Vec<RawDescriptor>) -> Result<Vec<Descriptor>, String> {
    if raw.len() > ENTRIES_MAX {
        return Err(format!("it lists more than {ENTRIES_MAX} things"));
    }
    raw.into_iter().map(descriptor).collect()
}

fn descriptor(raw: RawDescriptor) -> Result<Descriptor, String> {
    let digest = raw
        .digest
        .parse()
        .map_err(|error| format!("{:.80?}: {error}", raw.digest))?;
    Ok(Descriptor {
        media_type: raw.media_type,
        digest,
        size: raw.size,
        annotations: raw.annotations.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(media_type: &str, digit: char) -> String {
        let digest = digit.to_string().repeat(64);
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":1}}"#)
    }

    fn manifest() -> Document {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{},{}]}}"#,
            entry(CONFIGS[0], '0'),
            entry(layer, '1'),
            entry("application/vnd.in-toto+json", '2'),
            entry(layer, '3'),
        );
        Document::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn labels_are_named_as_containerd_names_them() {
        let labels = manifest().missing_labels(&BTreeMap::new());
        let named: Vec<(&str, &str)> = labels
            .iter()
            .map(|(name, digest)| (name.as_str(), &digest[7..8]))
            .collect();
        let expected = [
            ("containerd.io/gc.ref.content.0", "2"),
            ("containerd.io/gc.ref.content.config", "0"),
            ("containerd.io/gc.ref.content.l.0", "1"),
            ("containerd.io/gc.ref.content.l.1", "3"),
        ];
        assert_eq!(named, expected);
        let text = format!(
            r#"{{"manifests":[{},{}]}}"#,
            entry(MANIFESTS[1], '4'),
            entry("", '5')
        );
        let index = Document::parse(text.as_bytes()).unwrap();
        let labels = index.missing_labels(&BTreeMap::new());
        let names: Vec<&str> = labels.keys().map(String::as_str).collect();
        let expected = [
            "containerd.io/gc.ref.content.0",
            "containerd.io/gc.ref.content.m.0",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn what_is_kept_already_needs_no_labels() {
        let manifest = manifest();
        let mut labels = manifest.missing_labels(&BTreeMap::new());
        // Older versions of containerd name them otherwise.
        let config = labels
            .remove("containerd.io/gc.ref.content.config")
            .unwrap();
        assert_eq!(manifest.missing_labels(&labels).len(), 4);
        labels.insert("containerd.io/gc.ref.content.9".to_owned(), config);
        assert!(manifest.missing_labels(&labels).is_empty());
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let both = format!(
            r#"{{"manifests":[],"layers":[],"config":{}}}"#,
            entry("", '1')
        );
        let short = r#"{"manifests":[{"digest":"sha256:1","size":1}]}"#;
        let negative = entry("", '1').replace("\"size\":1", "\"size\":-1");
        let negative = format!(r#"{{"manifests":[{negative}]}}"#);
        let many = vec![entry("", '1'); ENTRIES_MAX + 1].join(",");
        let many = format!(r#"{{"manifests":[{many}]}}"#);
        for text in ["", "[]", "{}", &both, short, &negative, &many] {
            assert!(Document::parse(text.as_bytes()).is_err(), "{text:.100}");
        }
    }
}
