//! Images in nydus' form: which layers of a manifest are what, and where the bytes of their files are.
//!
//! All but a few layers of such an image hold data and have no files of their own. One, the *bootstrap layer*, says what
//! the tree of all of them is. So what is mounted is one lazy layer, the bootstrap's, with bytes in several blobs.
//!
//! Names and media types: nydus, `docs/nydus-design.md`; nydus-snapshotter, `pkg/converter/constant.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_cache::Key;
use pontoon_layer::rafs::Blob;
use pontoon_layer::{Digest, FormatError};
use pontoon_source::{Descriptor, Manifest, Reference, Registry};
use tokio::task::JoinSet;

use crate::anywhere::Place;
use crate::reason::{self, Refusal};

/// The media type of a layer of data.
const MEDIA_TYPE: &str = "application/vnd.oci.image.layer.nydus.blob.v1";
/// What ends the media type of a layer that is encrypted as a whole.
const ENCRYPTED: &str = "+encrypted";
/// That it is one, and that its chunks are encrypted; containerd makes labels of these.
const BLOB: &str = "containerd.io/snapshot/nydus-blob";
const ENCRYPTED_BLOB: &str = "containerd.io/snapshot/nydus-encrypted-blob";
const BOOTSTRAP: &str = "containerd.io/snapshot/nydus-bootstrap";
/// The version of RAFS.
const VERSION: &str = "containerd.io/snapshot/nydus-fs-version";
const VERSION_READ: &str = "6";

/// What a layer of a manifest is.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// A layer with files of its own.
    Layer,
    /// Data of an image in nydus' form.
    Data,
    /// The tree of such an image.
    Bootstrap(Arc<Bootstrap>),
}

/// A bootstrap layer, as its manifest has it.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    /// Under which the data of its files is cached.
    pub(crate) key: Key,
    pub(crate) descriptor: Descriptor,
    /// The layers of data, in the manifest's order.
    pub(crate) data: Vec<Descriptor>,
}

fn says(annotations: &BTreeMap<String, String>, name: &str) -> bool {
    annotations.get(name).is_some_and(|value| value == "true")
}

/// Whether annotations, or the labels that containerd makes of them, are those of a layer in nydus' form.
pub(crate) fn is_named(annotations: &BTreeMap<String, String>) -> bool {
    says(annotations, BLOB) || says(annotations, BOOTSTRAP)
}

fn is_data(descriptor: &Descriptor) -> bool {
    descriptor.media_type.starts_with(MEDIA_TYPE) || says(&descriptor.annotations, BLOB)
}

/// Whether `descriptor` is the tree of an image in nydus' form: the layer that says so, or, where none does, the one right
/// behind the data. BuildKit drops annotations of a base image's layers and keeps their media types.
fn is_bootstrap(manifest: &Manifest, descriptor: &Descriptor) -> bool {
    let layers = &manifest.layers;
    if layers
        .iter()
        .any(|layer| says(&layer.annotations, BOOTSTRAP))
    {
        return says(&descriptor.annotations, BOOTSTRAP);
    }
    let last = layers.iter().rposition(is_data);
    let behind = last.and_then(|last| layers.get(last.saturating_add(1)));
    behind.is_some_and(|layer| layer.digest == descriptor.digest)
}

/// What `descriptor` is in `manifest`.
pub(crate) fn role(manifest: &Manifest, descriptor: &Descriptor) -> Role {
    if is_bootstrap(manifest, descriptor) {
        let data: Vec<Descriptor> = manifest
            .layers
            .iter()
            .filter(|layer| is_data(layer))
            .cloned()
            .collect();
        return Role::Bootstrap(Arc::new(Bootstrap {
            key: key(descriptor, &data),
            descriptor: descriptor.clone(),
            data,
        }));
    }
    if is_data(descriptor) {
        return Role::Data;
    }
    Role::Layer
}

/// Another manifest may have the same bootstrap and other data, with other sizes: that is another layer.
fn key(bootstrap: &Descriptor, data: &[Descriptor]) -> Key {
    let mut text = "nydus 1\n".to_owned();
    for layer in data {
        text.push_str(&format!("{} {}\n", layer.digest, layer.size));
    }
    Key::new(bootstrap.digest.clone(), Digest::of(text.as_bytes()))
}

/// Why nothing of a layer is read that the manifest calls `descriptor`, if it says so itself.
pub(crate) fn check(descriptor: &Descriptor) -> Result<(), Refusal> {
    let annotations = &descriptor.annotations;
    let is_encrypted = descriptor.media_type.ends_with(ENCRYPTED);
    if is_encrypted || annotations.contains_key(ENCRYPTED_BLOB) {
        return Err(unsupported("an encrypted nydus image"));
    }
    match annotations.get(VERSION) {
        Some(version) if version != VERSION_READ => {
            let version: String = version.chars().take(16).collect();
            Err(unsupported(&format!("a RAFS v{version} image")))
        }
        _ => Ok(()),
    }
}

fn unsupported(what: &str) -> Refusal {
    refusal(FormatError::Unsupported {
        what: what.to_owned(),
    })
}

/// Why a bootstrap, or what belongs to it, cannot be used.
pub(crate) fn refusal(error: FormatError) -> Refusal {
    let refusal = Refusal::from(error);
    match refusal.reason {
        reason::MALFORMED | reason::BAD_TOC => Refusal {
            reason: reason::BAD_BOOTSTRAP,
            ..refusal
        },
        _ => refusal,
    }
}

/// Where the blobs of a bootstrap are, by their numbers; `None` for one that nobody has.
///
/// A blob is called by the digest of its layer, or, where a writer did not know that, by something else: then it is the
/// layer at its place. One that is no layer of the image belongs to a chunk dictionary, or is an ordinary gzip layer of
/// which the image's layer is the index: it is in the repository all the same.
pub(crate) async fn places(
    registry: &Registry,
    reference: &Reference,
    blobs: &[Blob],
    data: &[Descriptor],
) -> Result<Vec<Option<Place>>, Refusal> {
    let places = blobs.iter().map(|blob| named(blob, data).map(Place::of));
    let mut places: Vec<_> = places.collect();
    for (number, place) in elsewhere(registry, reference, blobs, &places).await? {
        if let Some(found) = places.get_mut(number) {
            *found = place;
        }
    }
    let taken = |layer: &Descriptor| {
        let mut places = places.iter().flatten();
        places.any(|place| place.digest == layer.digest)
    };
    let is_index = |layer: &Descriptor| {
        let mut indexes = blobs.iter().filter_map(|blob| blob.index_blob.as_ref());
        indexes.any(|index| index.digest == layer.digest)
    };
    let left: Vec<Place> = data
        .iter()
        .filter(|layer| !taken(layer) && !is_index(layer))
        .map(Place::of)
        .collect();
    let is_unnamed =
        |(blob, place): &(&Blob, &mut Option<Place>)| place.is_none() && blob.index_blob.is_none();
    let unnamed = blobs.iter().zip(&mut places).filter(is_unnamed);
    let unnamed: Vec<_> = unnamed.map(|(_, place)| place).collect();
    if unnamed.len() == left.len() {
        for (place, layer) in unnamed.into_iter().zip(left) {
            *place = Some(layer);
        }
    }
    for (blob, place) in blobs.iter().zip(&places) {
        if let Some(place) = place
            && place.size < blob.size
        {
            return Err(Refusal {
                detail: Some(format!(
                    "blob {} has {} bytes and the bootstrap says {}; push the image again",
                    place.digest, place.size, blob.size
                )),
                ..Refusal::new(reason::BAD_BOOTSTRAP)
            });
        }
    }
    Ok(places)
}

fn named<'a>(blob: &Blob, data: &'a [Descriptor]) -> Option<&'a Descriptor> {
    data.iter().find(|layer| layer.digest.hex() == blob.id)
}

/// Where the repository has the blobs that have no place yet, by their numbers. It is asked for all at once.
async fn elsewhere(
    registry: &Registry,
    reference: &Reference,
    blobs: &[Blob],
    places: &[Option<Place>],
) -> Result<Vec<(usize, Option<Place>)>, Refusal> {
    let mut questions = JoinSet::new();
    for (number, (blob, place)) in (0..).zip(blobs.iter().zip(places)) {
        let digest = format!("sha256:{}", blob.id).parse::<Digest>();
        let (None, Ok(digest)) = (place, digest) else {
            continue;
        };
        let (registry, reference) = (registry.clone(), reference.clone());
        questions.spawn(async move {
            let size = registry.blob_size(&reference, &digest).await;
            (number, digest, size)
        });
    }
    let mut found = Vec::new();
    while let Some(answer) = questions.join_next().await {
        let (number, digest, size) = answer.map_err(|_| Refusal::new(reason::BUG))?;
        found.push(match size {
            Ok(size) => (number, Some(Place { digest, size })),
            Err(pontoon_source::Error::NotFound { .. }) => (number, None),
            Err(error) => return Err(error.into()),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str, annotations: &[(&str, &str)], size: u64) -> Descriptor {
        let annotations = annotations.iter();
        Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(format!("{media_type} {size}").as_bytes()),
            size,
            annotations: annotations
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
        }
    }

    fn manifest(layers: Vec<Descriptor>) -> Manifest {
        Manifest {
            digest: Digest::of(b"manifest"),
            media_type: String::new(),
            config: descriptor("config", &[], 1),
            layers,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_manifest_says_what_its_layers_are() {
        let data = descriptor(MEDIA_TYPE, &[(BLOB, "true")], 7);
        let boot = descriptor("application/tar+gzip", &[(BOOTSTRAP, "true")], 8);
        let ordinary = descriptor("application/tar+gzip", &[(BLOB, "false")], 9);
        let manifest = manifest(vec![data.clone(), boot.clone(), ordinary.clone()]);
        assert!(matches!(role(&manifest, &data), Role::Data));
        assert!(matches!(role(&manifest, &ordinary), Role::Layer));
        let Role::Bootstrap(bootstrap) = role(&manifest, &boot) else {
            panic!("it is the bootstrap");
        };
        assert_eq!(bootstrap.data, std::slice::from_ref(&data));
        assert!(is_named(&data.annotations) && is_named(&boot.annotations));
        assert!(!is_named(&ordinary.annotations));
    }

    #[test]
    fn where_no_layer_says_so_the_bootstrap_is_the_one_behind_the_data() {
        let data = descriptor(MEDIA_TYPE, &[], 7);
        let boot = descriptor("application/tar+gzip", &[], 8);
        let ordinary = descriptor("application/tar+gzip", &[], 9);
        let layers = [&data, &data, &boot, &ordinary].map(Clone::clone);
        let manifest = manifest(layers.into());
        assert!(matches!(role(&manifest, &data), Role::Data));
        assert!(matches!(role(&manifest, &boot), Role::Bootstrap(_)));
        assert!(matches!(role(&manifest, &ordinary), Role::Layer));
        let manifest = self::manifest(vec![boot.clone(), ordinary]);
        assert!(matches!(role(&manifest, &boot), Role::Layer));
    }

    #[test]
    fn other_data_makes_another_layer() {
        let boot = descriptor("tar", &[(BOOTSTRAP, "true")], 8);
        let data = |size| descriptor(MEDIA_TYPE, &[], size);
        let one = key(&boot, &[data(1)]);
        assert_eq!(one, key(&boot, &[data(1)]));
        assert_ne!(one, key(&boot, &[data(2)]));
        assert_ne!(one, key(&boot, &[data(1), data(1)]));
    }

    #[test]
    fn what_a_manifest_says_itself_is_refused_at_once() {
        let text = |descriptor: &Descriptor| {
            let refusal = check(descriptor).unwrap_err();
            assert_eq!(refusal.reason, reason::UNSUPPORTED);
            assert!(!refusal.transient);
            refusal.detail.unwrap()
        };
        check(&descriptor("tar", &[(VERSION, "6")], 1)).unwrap();
        check(&descriptor("tar", &[], 1)).unwrap();
        assert!(text(&descriptor("tar", &[(VERSION, "5")], 1)).contains("RAFS v5"));
        assert!(text(&descriptor("tar+encrypted", &[], 1)).contains("encrypted"));
        assert!(
            text(&descriptor(MEDIA_TYPE, &[(ENCRYPTED_BLOB, "true")], 1)).contains("encrypted")
        );
    }
}
