//! Manifests and indexes, as far as we need them: <https://github.com/opencontainers/image-spec>, and Docker's v2.2,
//! which has the same fields.
//!
//! `oci-spec` would bring builders, its own digest type and no limits for what is a hundred lines here.

use std::collections::BTreeMap;

use pontoon_layer::Digest;
use serde::Deserialize;

use crate::error::{Error, Result};

/// The largest manifest or index, in bytes; containerd's limit is the same.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// More layers than any image can be mounted with.
const LAYERS_MAX: usize = 1000;

/// Entries of an index.
const ENTRIES_MAX: usize = 1000;

/// What we say we understand; the order is a preference.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// What a manifest says about a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Of what kind it is.
    pub media_type: String,
    /// What it is called.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// What else is said about it.
    pub annotations: BTreeMap<String, String>,
}

/// An image of one platform. Verified: its bytes have the digest that was asked for.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its own digest; not the one that was asked for if that was an index.
    pub digest: Digest,
    /// Of what kind it is.
    pub media_type: String,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What else is said about it.
    pub annotations: BTreeMap<String, String>,
}

/// Which machines an image is for, in Go's words: `linux`, `amd64`, and `v7` for some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Architecture.
    pub architecture: String,
    /// Variant of the architecture, if one is asked for.
    pub variant: Option<String>,
}

impl Platform {
    /// That of the machine we run on.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "loongarch64" => ("loong64", None),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            other => (other, None),
        };
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well `offered` suits: lower is better, `None` if it does not run here.
    fn rank(&self, offered: &RawPlatform) -> Option<u8> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        match (&self.variant, offered.variant.as_deref()) {
            (Some(own), Some(offered)) if own == offered => Some(0),
            // An older variant runs on a newer machine: `v6` on `v7`.
            (Some(own), Some(offered)) if offered < own.as_str() => Some(2),
            (Some(_), Some(_)) => None,
            (_, None) => Some(1),
            // `v8` is what every arm64 has; what asks for more than the base comes last.
            (None, Some("v1" | "v8")) => Some(1),
            (None, Some(_)) => Some(3),
        }
    }
}

/// What a manifest's bytes turned out to be.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    /// An index, and the digest of the manifest in it that suits.
    Index(Digest),
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
    #[serde(default)]
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// Reads the verified bytes of a manifest or index called `object`.
pub(crate) fn parse(
    object: &str,
    digest: &Digest,
    bytes: &[u8],
    platform: &Platform,
) -> Result<Document> {
    let unsupported = |reason: &str| Error::Unsupported {
        object: object.to_owned(),
        reason: reason.to_owned(),
    };
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(|error| Error::Unsupported {
        object: object.to_owned(),
        reason: format!("it is no manifest: {error}; push the image again"),
    })?;
    if raw.schema_version != 2 {
        return Err(unsupported(
            "it is not of schema version 2; push it again with a tool of this decade",
        ));
    }
    match (raw.manifests, raw.config, raw.layers) {
        (Some(entries), None, None) => choose(object, entries, platform).map(Document::Index),
        (None, Some(config), Some(layers)) => {
            if layers.len() > LAYERS_MAX {
                return Err(Error::TooLarge {
                    object: object.to_owned(),
                    limit: LAYERS_MAX as u64,
                    unit: "layers",
                });
            }
            let layers = layers.into_iter().map(|layer| descriptor(object, layer));
            Ok(Document::Manifest(Manifest {
                digest: digest.clone(),
                media_type: raw.media_type,
                config: descriptor(object, config)?,
                layers: layers.collect::<Result<_>>()?,
                annotations: raw.annotations.unwrap_or_default(),
            }))
        }
        // One document that reads as both is how scanners and runtimes are made to see different images.
        _ => Err(unsupported(
            "it is neither an image manifest nor an index, or both at once",
        )),
    }
}

fn descriptor(object: &str, raw: RawDescriptor) -> Result<Descriptor> {
    Ok(Descriptor {
        digest: digest(object, &raw.digest)?,
        media_type: raw.media_type,
        size: raw.size,
        annotations: raw.annotations.unwrap_or_default(),
    })
}

fn digest(object: &str, text: &str) -> Result<Digest> {
    text.parse().map_err(|_| Error::Unsupported {
        object: object.to_owned(),
        reason: format!("it names a blob by {text:.80?}, which is no digest that we can check"),
    })
}

fn choose(object: &str, entries: Vec<RawDescriptor>, platform: &Platform) -> Result<Digest> {
    if entries.len() > ENTRIES_MAX {
        return Err(Error::TooLarge {
            object: object.to_owned(),
            limit: ENTRIES_MAX as u64,
            unit: "manifests",
        });
    }
    let ranked = entries.iter().filter_map(|entry| match &entry.platform {
        Some(offered) => Some((platform.rank(offered)?, entry)),
        // A list of one that does not say what it is for, as some tools make.
        None if entries.len() == 1 => Some((u8::MAX, entry)),
        None => None,
    });
    let best = ranked.min_by_key(|(rank, _)| *rank);
    let (_, best) = best.ok_or_else(|| Error::Unsupported {
        object: object.to_owned(),
        reason: format!(
            "it has no image for {}/{}",
            platform.os, platform.architecture
        ),
    })?;
    digest(object, &best.digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(text: &str) -> Result<Document> {
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: "arm".to_owned(),
            variant: Some("v7".to_owned()),
        };
        parse("x", &SHA.parse().unwrap(), text.as_bytes(), &platform)
    }

    fn entry(digit: char, platform: &str) -> String {
        let digest = digit.to_string().repeat(64);
        format!(r#"{{"digest":"sha256:{digest}","size":1,"platform":{platform}}}"#)
    }

    #[test]
    fn a_manifest_is_read() {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{SHA}","size":3}},"annotations":null,
            "layers":[{{"mediaType":"m","digest":"{SHA}","size":5,"annotations":{{"a":"b"}}}}]}}"#
        );
        let Document::Manifest(manifest) = read(&text).unwrap() else {
            panic!("an index");
        };
        assert_eq!(manifest.config.size, 3);
        assert_eq!(manifest.layers[0].annotations["a"], "b");
    }

    #[test]
    fn the_nearest_platform_of_an_index_is_chosen() {
        let index = |entries: &[String]| {
            format!(
                r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
                entries.join(",")
            )
        };
        let amd64 = entry('1', r#"{"os":"linux","architecture":"amd64"}"#);
        let v6 = entry('2', r#"{"os":"linux","architecture":"arm","variant":"v6"}"#);
        let v7 = entry('3', r#"{"os":"linux","architecture":"arm","variant":"v7"}"#);
        let v8 = entry('4', r#"{"os":"linux","architecture":"arm","variant":"v8"}"#);
        let attestation = entry('5', r#"{"os":"unknown","architecture":"unknown"}"#);
        let chosen = |entries: &[String]| match read(&index(entries)) {
            Ok(Document::Index(digest)) => Some(digest.to_string().remove(7)),
            _ => None,
        };
        assert_eq!(
            chosen(&[amd64.clone(), v6.clone(), v7, v8.clone()]),
            Some('3')
        );
        assert_eq!(chosen(&[amd64.clone(), v8.clone(), v6]), Some('2'));
        assert_eq!(chosen(&[amd64, v8, attestation]), None);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let both = format!(
            r#"{{"schemaVersion":2,"manifests":[],"layers":[],"config":{{"digest":"{SHA}","size":1}}}}"#
        );
        for text in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"config":{"digest":"x","size":1},"layers":[]}"#,
            both.as_str(),
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let layer = format!(r#"{{"digest":"{SHA}","size":1}}"#);
        let layers = vec![layer.as_str(); LAYERS_MAX + 1].join(",");
        let text = format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layers}]}}"#);
        assert!(matches!(read(&text), Err(Error::TooLarge { .. })));
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_survived(bytes: Vec<u8>, text in "[\\[\\]{}:,0-9a-zA-Z\"]{0,100}") {
            let _ = read(&String::from_utf8_lossy(&bytes));
            let _ = read(&text);
            let _ = read(&format!(r#"{{"schemaVersion":2,{text}}}"#));
        }
    }
}
