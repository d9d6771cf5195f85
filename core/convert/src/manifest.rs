//! What the indexes of a layout lead to.

use pontoon_layer::Digest;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::place::{self, Descriptor, Source, annotation};
use crate::platform::{LeftOut, Platform, Selection};

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

/// The annotations that say that something is no image but about one, and about which: BuildKit's.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// Indexes inside each other, at most.
const DEPTH_MAX: usize = 4;

/// Manifests and indexes of an image, at most.
const DOCUMENTS_MAX: usize = 1000;

/// Bytes of them, at most: all are in memory at the same time, and take many times that there.
const DOCUMENTS_BYTES_MAX: u64 = 32 << 20;

/// A manifest that an index leads to.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) what: String,
    pub(crate) value: Value,
    /// Whether it is an image's, and not about one.
    pub(crate) is_image: bool,
}

/// What an index leads to.
#[derive(Default)]
pub(crate) struct Found {
    /// Those that are wanted.
    pub(crate) manifests: Vec<Manifest>,
    pub(crate) left_out: LeftOut,
    /// Documents that were read. Few indexes lead to very many places if they name each other often enough.
    documents: usize,
    bytes: u64,
}

/// All manifests that `index` leads to, as far as `selection` wants them.
pub(crate) fn manifests(
    source: &dyn Source,
    index: &Value,
    selection: &Selection,
) -> Result<Found> {
    let mut collector = Collector {
        source,
        selection,
        found: Found::default(),
    };
    let what = "the index of the image";
    let is_any_wanted = collector.index(index, what, 0)?;
    let found = collector.found;
    if !is_any_wanted && !found.left_out.notes.is_empty() {
        return Err(Error::Absent(found.left_out.notes.join("; ")));
    }
    let is_image = |manifest: &Manifest| manifest.is_image;
    if !selection.platforms.is_empty() && !found.manifests.iter().any(is_image) {
        let shown = |platforms: &[Platform]| {
            let shown: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            shown.join(", ")
        };
        let (wanted, there) = (&selection.platforms, &found.left_out.platforms);
        return Err(Error::Option(format!(
            "there is no image for {}; there are: {}",
            shown(wanted),
            shown(there)
        )));
    }
    Ok(found)
}

struct Collector<'a> {
    source: &'a dyn Source,
    selection: &'a Selection,
    found: Found,
}

impl Collector<'_> {
    /// Collects what `index` leads to. False if nothing of it is wanted.
    fn index(&mut self, index: &Value, what: &str, depth: usize) -> Result<bool> {
        check_depth(depth, what)?;
        let entries = place::list(index, "manifests", what)?;
        // What is said about an image goes with it.
        let is_about = |entry: &&Value| annotation(entry, REFERENCE_DIGEST).is_some();
        let (about, images): (Vec<&Value>, Vec<&Value>) = entries.iter().partition(is_about);
        let mut wanted = entries.is_empty();
        for entry in images.into_iter().chain(about) {
            let descriptor = Descriptor::parse(entry, what)?;
            if !descriptor.is_document() {
                wanted = true;
                continue;
            }
            if self.entry(entry, &descriptor, depth)? {
                wanted = true;
            } else {
                self.found.left_out.digests.insert(descriptor.digest);
            }
        }
        Ok(wanted)
    }

    fn entry(&mut self, entry: &Value, descriptor: &Descriptor, depth: usize) -> Result<bool> {
        let subject = annotation(entry, REFERENCE_DIGEST).and_then(|text| text.parse().ok());
        if subject.is_some_and(|subject: Digest| self.found.left_out.has(&subject)) {
            return Ok(false);
        }
        let platform = entry.get("platform").and_then(Platform::of);
        let is_about = annotation(entry, REFERENCE_TYPE).is_some();
        if let Some(platform) = platform.as_ref().filter(|_| !is_about)
            && !self.wants(platform)
        {
            return Ok(false);
        }
        if self.selection.is_lenient() && !self.source.has(descriptor)? {
            self.leave_out("is not there", descriptor, platform.as_ref());
            return Ok(false);
        }
        self.count(descriptor)?;
        let value = place::document(self.source, descriptor)?;
        let what = format!("the manifest {}", descriptor.digest);
        if is_index(descriptor) {
            return self.index(&value, &what, depth + 1);
        }
        if self.selection.is_lenient() && self.source.is_partial() {
            for part in parts(&value) {
                if !self.source.has(&Descriptor::parse(part, &what)?)? {
                    self.leave_out(
                        "is there, and not all of its layers",
                        descriptor,
                        platform.as_ref(),
                    );
                    return Ok(false);
                }
            }
        }
        let is_image = is_image(entry, descriptor, &value);
        if platform.is_none() && is_image && !self.selection.platforms.is_empty() {
            let config = value.get("config").unwrap_or(&Value::Null);
            let config = place::document(self.source, &Descriptor::parse(config, &what)?)?;
            if Platform::of(&config).is_none_or(|platform| !self.wants(&platform)) {
                return Ok(false);
            }
        }
        self.found.manifests.push(Manifest {
            is_image,
            what,
            value,
        });
        Ok(true)
    }

    fn leave_out(&mut self, why: &str, what: &Descriptor, platform: Option<&Platform>) {
        let of = platform.map(|platform| format!(" for {platform}"));
        let (digest, of) = (&what.digest, of.unwrap_or_default());
        let note = format!("the manifest {digest}{of} {why}; it is left out");
        self.found.left_out.notes.push(note);
    }

    fn wants(&mut self, platform: &Platform) -> bool {
        if !self.found.left_out.platforms.contains(platform) {
            self.found.left_out.platforms.push(platform.clone());
        }
        self.selection.wants(platform)
    }

    fn count(&mut self, descriptor: &Descriptor) -> Result<()> {
        self.found.documents += 1;
        Error::check_limit(
            "the manifests and indexes of an image",
            self.found.documents as u64,
            DOCUMENTS_MAX as u64,
        )?;
        self.found.bytes = self.found.bytes.saturating_add(descriptor.size);
        Error::check_limit(
            "the bytes of the manifests and indexes of an image",
            self.found.bytes,
            DOCUMENTS_BYTES_MAX,
        )
    }
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
        && annotation(entry, REFERENCE_TYPE).is_none()
        && manifest.get("artifactType").is_none()
}

/// Puts what a document or a blob is now into its descriptor.
pub(crate) fn describe(descriptor: &mut Value, new: &Descriptor) {
    set(descriptor, "mediaType", json!(new.media_type));
    set(descriptor, "digest", json!(new.digest.to_string()));
    set(descriptor, "size", json!(new.size));
}

pub(crate) fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}
