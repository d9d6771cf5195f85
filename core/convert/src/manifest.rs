//! What the indexes of a layout lead to.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::layout::{self, Descriptor, Source};

/// Media types (OCI image specification, and Docker's before it).
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What layers can be converted from.
pub(crate) const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    LAYER_GZIP,
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// The annotation that says that something is no image but about one: BuildKit's.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Indexes inside each other, at most.
const DEPTH_MAX: usize = 4;

/// Manifests and indexes of a layout, at most.
const DOCUMENTS_MAX: usize = 1000;

/// Bytes of them, at most: all are in memory at the same time, and take many times that there.
const DOCUMENTS_BYTES_MAX: u64 = 32 << 20;

/// A manifest that an index leads to.
pub(crate) struct Manifest {
    pub(crate) what: String,
    pub(crate) value: Value,
    /// Whether it is an image's, and not about one.
    pub(crate) is_image: bool,
}

/// All manifests that `index` leads to.
pub(crate) fn manifests(source: &Source, index: &Value) -> Result<Vec<Manifest>> {
    let mut found = Found::default();
    collect(source, index, "the index of the layout", 0, &mut found)?;
    Ok(found.manifests)
}

#[derive(Default)]
struct Found {
    manifests: Vec<Manifest>,
    /// Documents that were read. Few indexes lead to very many places if they name each other often enough.
    documents: usize,
    bytes: u64,
}

fn collect(
    source: &Source,
    index: &Value,
    what: &str,
    depth: usize,
    found: &mut Found,
) -> Result<()> {
    check_depth(depth, what)?;
    for entry in layout::list(index, "manifests", what)? {
        let descriptor = Descriptor::parse(entry, what)?;
        if !is_index(&descriptor) && !is_manifest(&descriptor) {
            continue;
        }
        found.documents += 1;
        Error::check_limit(
            "the manifests and indexes of a layout",
            found.documents as u64,
            DOCUMENTS_MAX as u64,
        )?;
        found.bytes = found.bytes.saturating_add(descriptor.size);
        Error::check_limit(
            "the bytes of the manifests and indexes of a layout",
            found.bytes,
            DOCUMENTS_BYTES_MAX,
        )?;
        let value = source.document(&descriptor)?;
        let what = format!("the manifest {}", descriptor.digest);
        if is_index(&descriptor) {
            collect(source, &value, &what, depth + 1, found)?;
            continue;
        }
        found.manifests.push(Manifest {
            is_image: is_image(entry, &descriptor, &value),
            what,
            value,
        });
    }
    Ok(())
}

/// The descriptors in a manifest: its configuration and its layers, as far as it has any.
pub(crate) fn parts(manifest: &Value) -> impl Iterator<Item = &Value> {
    let config = manifest.get("config").into_iter();
    let layers = manifest.get("layers").and_then(Value::as_array);
    config.chain(layers.into_iter().flatten())
}

pub(crate) fn check_depth(depth: usize, what: &str) -> Result<()> {
    match depth > DEPTH_MAX {
        true => Err(Error::malformed(what, "it is too deep inside of others")),
        false => Ok(()),
    }
}

pub(crate) fn is_index(descriptor: &Descriptor) -> bool {
    [OCI_INDEX, DOCKER_INDEX].contains(&descriptor.media_type.as_str())
}

pub(crate) fn is_manifest(descriptor: &Descriptor) -> bool {
    [OCI_MANIFEST, DOCKER_MANIFEST].contains(&descriptor.media_type.as_str())
}

pub(crate) fn is_image(entry: &Value, descriptor: &Descriptor, manifest: &Value) -> bool {
    let config = manifest
        .get("config")
        .and_then(|config| config.get("mediaType"));
    let config = config.and_then(Value::as_str).unwrap_or_default();
    is_manifest(descriptor)
        && [OCI_CONFIG, DOCKER_CONFIG].contains(&config)
        && layout::annotation(entry, REFERENCE_TYPE).is_none()
        && manifest.get("artifactType").is_none()
}
