//! Images: what refers to a layer that was converted refers to the new one.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::Path;

use pontoon_layer::Digest;
use pontoon_unpack::Expected;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::layer::{LayerConverted, convert_layer};
use crate::layout::{self, Descriptor, Source, Target};
use crate::manifest::{
    DOCKER_INDEX, LAYERS, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, check_depth, is_image, is_index,
    is_manifest, manifests, parts,
};
use crate::nydus::{Chains, is_nydus};
use crate::optimize::{Ordered, Wanted};
use crate::options::{Format, Options};
use crate::tail;

/// Told how far reading the blob of some number is, in bytes.
pub type Watch<'a> = dyn Fn(usize, u64) + Sync + 'a;

/// The annotation that says of which image an attestation of BuildKit's is.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// Layers of an image, at most.
const LAYERS_MAX: usize = 1000;

/// What became of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Converted {
    /// Manifests of images that were converted: one for each platform.
    pub images: u64,
    /// Different layers that were converted.
    pub layers: u64,
    /// Bytes of them before.
    pub bytes_before: u64,
    /// Bytes of them now.
    pub bytes_after: u64,
    /// The new manifests: what the old one's digest was, and what the new one's is.
    pub manifests: Vec<(Digest, Digest)>,
    /// What was left as it is, or no longer says the truth.
    pub notes: Vec<String>,
}

/// An image in an OCI layout directory that is to be converted.
#[derive(Debug)]
pub struct Plan {
    source: Source,
    index: Value,
    blobs: Vec<Descriptor>,
    numbers: HashMap<Digest, usize>,
}

impl Plan {
    /// Reads what is in the layout at `from`, all but layers.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Malformed`], [`Error::Damaged`] and [`Error::TooLarge`].
    pub fn read(from: &Path) -> Result<Plan> {
        let source = Source::open(from)?;
        let index = source.index()?;
        let mut blobs = Blobs::default();
        for manifest in manifests(&source, &index)? {
            for blob in parts(&manifest.value) {
                blobs.add(Descriptor::parse(blob, &manifest.what)?);
            }
        }
        Ok(Plan {
            source,
            index,
            blobs: blobs.list,
            numbers: blobs.numbers,
        })
    }

    /// Bytes of the blobs that will be read; their places are their numbers for [`Watch`].
    pub fn sizes(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        self.blobs.iter().map(|blob| blob.size)
    }

    /// Converts all images, and writes them to a new layout at `to`. Nothing is there after an error.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn run(&self, to: &Path, options: &Options<'_>, watch: &Watch<'_>) -> Result<Converted> {
        options.validate()?;
        let (done, _) = self.carry_out(to, options, None, watch)?;
        Ok(done)
    }

    /// The same, or, if an order is `wanted`, all images are what they were but for it.
    pub(crate) fn carry_out(
        &self,
        to: &Path,
        options: &Options<'_>,
        order: Option<Wanted<'_>>,
        watch: &Watch<'_>,
    ) -> Result<(Converted, Ordered)> {
        let target = Target::create(to)?;
        let mut conversion = Conversion {
            plan: self,
            target: &target,
            options,
            watch,
            layers: HashMap::new(),
            chains: Chains::default(),
            order,
            ordered: Ordered::default(),
            documents: HashMap::new(),
            copied: HashSet::new(),
            done: Converted::default(),
        };
        let mut index = self.index.clone();
        conversion.index(&mut index, "the index of the layout", 0)?;
        conversion.check_order()?;
        let (done, ordered) = (conversion.done, conversion.ordered);
        target.finish(&index)?;
        Ok((done, ordered))
    }
}

#[derive(Default)]
struct Blobs {
    list: Vec<Descriptor>,
    numbers: HashMap<Digest, usize>,
}

impl Blobs {
    fn add(&mut self, blob: Descriptor) {
        let next = self.list.len();
        self.numbers.entry(blob.digest.clone()).or_insert_with(|| {
            self.list.push(blob);
            next
        });
    }
}

/// A conversion under way.
pub(crate) struct Conversion<'a> {
    plan: &'a Plan,
    pub(crate) target: &'a Target,
    pub(crate) options: &'a Options<'a>,
    watch: &'a Watch<'a>,
    layers: HashMap<Digest, LayerConverted>,
    /// The same, where a layer becomes what those below it leave of it.
    pub(crate) chains: Chains,
    /// What order is to be put into images, which are not converted then.
    pub(crate) order: Option<Wanted<'a>>,
    pub(crate) ordered: Ordered,
    /// What became of an index or a manifest.
    documents: HashMap<Digest, (String, Digest, u64)>,
    copied: HashSet<Digest>,
    pub(crate) done: Converted,
}

/// What an image consists of.
pub(crate) struct Opened {
    pub(crate) config: Value,
    config_descriptor: Descriptor,
    pub(crate) layers: Vec<Value>,
    /// Of each layer.
    pub(crate) diff_ids: Vec<Digest>,
}

impl Conversion<'_> {
    /// Makes an index one of what was converted.
    fn index(&mut self, index: &mut Value, what: &str, depth: usize) -> Result<()> {
        check_depth(depth, what)?;
        let mut entries = layout::list(index, "manifests", what)?.to_vec();
        for entry in &mut entries {
            self.entry(entry, what, depth)?;
        }
        for entry in &mut entries {
            self.reference(entry);
        }
        set(index, "manifests", Value::Array(entries));
        if index.get("mediaType").and_then(Value::as_str) == Some(DOCKER_INDEX) {
            set(index, "mediaType", json!(OCI_INDEX));
        }
        Ok(())
    }

    /// Converts what an entry of an index describes.
    fn entry(&mut self, entry: &mut Value, what: &str, depth: usize) -> Result<()> {
        let descriptor = Descriptor::parse(entry, what)?;
        if let Some(new) = self.documents.get(&descriptor.digest) {
            describe(entry, new);
            return Ok(());
        }
        if !is_index(&descriptor) && !is_manifest(&descriptor) {
            // An index may name anything.
            self.done.notes.push(format!(
                "{} of the type {:?} is copied as it is",
                descriptor.digest, descriptor.media_type
            ));
            return self.copy(&descriptor);
        }
        let mut value = self.plan.source.document(&descriptor)?;
        let what = format!("the manifest {}", descriptor.digest);
        let media_type = if is_index(&descriptor) {
            self.index(&mut value, &what, depth + 1)?;
            OCI_INDEX
        } else if !is_image(entry, &descriptor, &value) {
            return self.untouched(&descriptor, &value, &what);
        } else if let Some(wanted) = self.order {
            if !self.optimize(wanted, &mut value, &what)? {
                return self.untouched(&descriptor, &value, &what);
            }
            self.end_of_image(&value, &what);
            OCI_MANIFEST
        } else if layout::list(&value, "layers", &what).is_ok_and(is_nydus) {
            let note = format!("{what} is of a nydus image, and copied as it is");
            self.done.notes.push(note);
            return self.untouched(&descriptor, &value, &what);
        } else {
            self.image(&mut value, &what)?;
            OCI_MANIFEST
        };
        let bytes = value.to_string().into_bytes();
        let digest = self.target.put(&bytes)?;
        if media_type == OCI_MANIFEST {
            let pair = (descriptor.digest.clone(), digest.clone());
            self.done.manifests.push(pair);
        }
        let new = (media_type.to_owned(), digest, bytes.len() as u64);
        describe(entry, &new);
        self.documents.insert(descriptor.digest, new);
        Ok(())
    }

    /// Copies what is no image, with all that it refers to.
    fn untouched(&mut self, descriptor: &Descriptor, value: &Value, what: &str) -> Result<()> {
        self.copy(descriptor)?;
        for blob in parts(value) {
            self.copy(&Descriptor::parse(blob, what)?)?;
        }
        Ok(())
    }

    pub(crate) fn copy(&mut self, descriptor: &Descriptor) -> Result<()> {
        self.options.check_cancelled()?;
        if self.copied.insert(descriptor.digest.clone()) {
            self.target.copy(&self.plan.source, descriptor)?;
            self.reached(&descriptor.digest, descriptor.size);
        }
        Ok(())
    }

    /// Tells how far a blob was read.
    pub(crate) fn reached(&self, digest: &Digest, offset: u64) {
        if let Some(number) = self.plan.numbers.get(digest) {
            (self.watch)(*number, offset);
        }
    }

    /// What says something of an image that was converted says it of the new one.
    fn reference(&mut self, entry: &mut Value) {
        let Some(old) = layout::annotation(entry, REFERENCE_DIGEST).map(str::to_owned) else {
            return;
        };
        let manifests = &self.done.manifests;
        let Some((_, new)) = manifests.iter().find(|(from, _)| from.to_string() == old) else {
            return;
        };
        self.done.notes.push(format!(
            "the attestation of {old} is kept as it is: the index now names {new}, what is signed in it still names the old image"
        ));
        let new = json!(new.to_string());
        if let Some(annotations) = entry.get_mut("annotations") {
            set(annotations, REFERENCE_DIGEST, new);
        }
    }

    /// Converts an image.
    fn image(&mut self, manifest: &mut Value, what: &str) -> Result<()> {
        let opened = self.open(manifest, what)?;
        match self.options.format {
            Format::Nydus(nydus) => self.nydus(nydus, opened, manifest, what)?,
            Format::Estargz | Format::ZstdChunked(_) => self.each_layer(opened, manifest, what)?,
        }
        self.end_of_image(manifest, what);
        Ok(())
    }

    fn end_of_image(&mut self, manifest: &Value, what: &str) {
        if manifest.get("subject").is_some() {
            let note = format!("{what} refers to a subject, which stays the one of before");
            self.done.notes.push(note);
        }
        self.done.images += 1;
    }

    pub(crate) fn open(&self, manifest: &Value, what: &str) -> Result<Opened> {
        let config = manifest.get("config").unwrap_or(&Value::Null);
        let config_descriptor = Descriptor::parse(config, what)?;
        let config = self.plan.source.document(&config_descriptor)?;
        let config_what = format!("the configuration {}", config_descriptor.digest);
        let rootfs = config.get("rootfs").unwrap_or(&Value::Null);
        let diff_ids = layout::list(rootfs, "diff_ids", &config_what)?;
        let layers = layout::list(manifest, "layers", what)?.to_vec();
        if layers.len() != diff_ids.len() || layers.len() > LAYERS_MAX {
            return Err(Error::malformed(
                what,
                format!("{} layers and {} diff IDs", layers.len(), diff_ids.len()),
            ));
        }
        let diff_ids = diff_ids.iter().map(|diff_id| {
            let wrong = || Error::malformed(&*config_what, format!("{diff_id} is no diff ID"));
            let diff_id = diff_id.as_str().and_then(|text| text.parse().ok());
            diff_id.ok_or_else(wrong)
        });
        Ok(Opened {
            diff_ids: diff_ids.collect::<Result<_>>()?,
            config,
            config_descriptor,
            layers,
        })
    }

    /// Converts the layers of an image, each by itself.
    fn each_layer(&mut self, mut opened: Opened, manifest: &mut Value, what: &str) -> Result<()> {
        let mut new_ids = Vec::new();
        for (layer, diff_id) in opened.layers.iter_mut().zip(&opened.diff_ids) {
            let new = self.layer(layer, diff_id.clone(), what)?;
            new_ids.push(json!(new.to_string()));
        }
        let layers = std::mem::take(&mut opened.layers);
        set(manifest, "layers", Value::Array(layers));
        self.configure(&mut opened, new_ids, manifest)
    }

    /// Gives an image its configuration, with the `diff_ids` of its layers.
    pub(crate) fn configure(
        &mut self,
        opened: &mut Opened,
        diff_ids: Vec<Value>,
        manifest: &mut Value,
    ) -> Result<()> {
        set(manifest, "mediaType", json!(OCI_MANIFEST));
        let old_ids = opened.diff_ids.iter().map(|id| json!(id.to_string()));
        let (digest, size) = if old_ids.eq(diff_ids.iter().cloned()) {
            self.copy(&opened.config_descriptor)?;
            let descriptor = &opened.config_descriptor;
            (descriptor.digest.clone(), descriptor.size)
        } else {
            if let Some(rootfs) = opened.config.get_mut("rootfs") {
                set(rootfs, "diff_ids", Value::Array(diff_ids));
            }
            let bytes = opened.config.to_string().into_bytes();
            (self.target.put(&bytes)?, bytes.len() as u64)
        };
        if let Some(value) = manifest.get_mut("config") {
            describe(value, &(OCI_CONFIG.to_owned(), digest, size));
        }
        Ok(())
    }

    /// Where the image is read from.
    pub(crate) fn source(&self) -> &Source {
        &self.plan.source
    }

    /// Converts the layer that `value` describes, and answers its new diff ID.
    fn layer(&mut self, value: &mut Value, diff_id: Digest, what: &str) -> Result<Digest> {
        let descriptor = Descriptor::parse(value, what)?;
        if !LAYERS.contains(&descriptor.media_type.as_str()) {
            self.done.notes.push(format!(
                "the layer {} of the type {:?} is left as it is",
                descriptor.digest, descriptor.media_type
            ));
            // Some are by design nowhere but at a URL.
            if self.plan.source.blob(&descriptor).is_ok() {
                self.copy(&descriptor)?;
            }
            return Ok(diff_id);
        }
        let known = self.layers.get(&descriptor.digest).cloned();
        let converted = match known {
            Some(known) if known.from.diff_id == diff_id => known,
            Some(_) => {
                let reason = format!("it gives {} two diff IDs", descriptor.digest);
                return Err(Error::malformed(what, reason));
            }
            None => {
                let converted = self.convert(&descriptor, diff_id);
                let converted = converted.map_err(|error| error.of_layer(&descriptor.digest))?;
                self.done.layers += 1;
                self.done.bytes_before += converted.from.blob_bytes;
                self.done.bytes_after += converted.bytes;
                let key = descriptor.digest.clone();
                self.layers.insert(key, converted.clone());
                converted
            }
        };
        annotate(value, &converted);
        let media_type = self.options.format.media_type().to_owned();
        describe(value, &(media_type, converted.digest, converted.bytes));
        Ok(converted.diff_id)
    }

    fn convert(&self, descriptor: &Descriptor, diff_id: Digest) -> Result<LayerConverted> {
        let (file, _) = self.plan.source.blob(descriptor)?;
        let reader = Counted {
            file,
            offset: 0,
            tell: |offset| self.reached(&descriptor.digest, offset),
        };
        let expected = Expected {
            digest: Some(descriptor.digest.clone()),
            size: Some(descriptor.size),
            diff_id: Some(diff_id),
        };
        let mut options = self.options.clone();
        options.limits = options.limits.for_blob(descriptor.size);
        let file = self.target.begin()?;
        let writer = BufWriter::with_capacity(1 << 20, file.as_file());
        let converted = convert_layer(reader, writer, &expected, &options)?;
        self.target.keep(file, &converted.digest)?;
        Ok(converted)
    }
}

/// A file that tells how far it was read.
pub(crate) struct Counted<F> {
    pub(crate) file: File,
    pub(crate) offset: u64,
    pub(crate) tell: F,
}

impl<F: Fn(u64)> Read for Counted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.offset += count as u64;
        (self.tell)(self.offset);
        Ok(count)
    }
}

/// Puts what a document or a blob is now into its descriptor.
pub(crate) fn describe(descriptor: &mut Value, (media_type, digest, size): &(String, Digest, u64)) {
    set(descriptor, "mediaType", json!(media_type));
    set(descriptor, "digest", json!(digest.to_string()));
    set(descriptor, "size", json!(size));
}

/// Puts where the table of contents is into the descriptor of a layer, in place of where another one was.
pub(crate) fn annotate(descriptor: &mut Value, converted: &LayerConverted) {
    let annotations = descriptor.get("annotations").and_then(Value::as_object);
    let mut annotations: Map<String, Value> = annotations.cloned().unwrap_or_default();
    for key in tail::ANNOTATIONS {
        annotations.remove(key);
    }
    for (key, value) in &converted.annotations {
        annotations.insert(key.clone(), json!(value));
    }
    set(descriptor, "annotations", Value::Object(annotations));
}

pub(crate) fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}
