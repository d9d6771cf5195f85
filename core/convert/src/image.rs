//! Images: what refers to a layer that was converted refers to the new one.

mod layers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pontoon_layer::Digest;
use serde_json::{Value, json};

use crate::error::Result;
use crate::layer::LayerConverted;
use crate::manifest::{
    DOCKER_INDEX, LAYERS, OCI_INDEX, OCI_MANIFEST, REFERENCE_DIGEST, check_depth, describe,
    is_image, is_index, manifests, parts, set,
};
use crate::nydus::{Chains, is_nydus};
use crate::options::Options;
use crate::place::{self, Descriptor, Source, Target, annotation};
use crate::platform::{LeftOut, Selection};

pub(crate) use layers::Opened;

/// Told how far reading the blob of some number is, in bytes.
pub type Watch<'a> = dyn Fn(usize, u64) + Sync + 'a;

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
    /// What is in the index of the result: one digest for each image that was asked for.
    pub targets: Vec<Digest>,
    /// What was left as it is or left out, or no longer says the truth.
    pub notes: Vec<String>,
}

/// An image that is to be converted.
#[derive(Debug)]
pub struct Plan {
    source: Arc<dyn Source>,
    index: Value,
    blobs: Blobs,
    /// Of the images, in the order in which they are read.
    layers: Vec<Descriptor>,
    left_out: LeftOut,
}

impl Plan {
    /// Reads what `source` has and `selection` wants, all but layers.
    ///
    /// # Errors
    /// Those of the source, [`Error::Malformed`](crate::Error::Malformed), [`Error::Damaged`](crate::Error::Damaged),
    /// [`Error::TooLarge`](crate::Error::TooLarge), and [`Error::Option`](crate::Error::Option) if nothing is wanted.
    pub fn read(source: Arc<dyn Source>, selection: &Selection) -> Result<Plan> {
        let index = source.index()?;
        let mut blobs = Blobs::default();
        let mut layers = Vec::new();
        let found = manifests(&*source, &index, selection)?;
        for manifest in found.manifests {
            for part in parts(&manifest.value) {
                let blob = Descriptor::parse(part, &manifest.what)?;
                let is_layer = manifest.is_image && LAYERS.contains(&blob.media_type.as_str());
                if blobs.add(&blob) && is_layer {
                    layers.push(blob);
                }
            }
        }
        Ok(Plan {
            source,
            index,
            blobs,
            layers,
            left_out: found.left_out,
        })
    }

    /// Bytes of the blobs that will be read; their places are their numbers for [`Watch`].
    pub fn sizes(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        self.blobs.list.iter().map(|blob| blob.size)
    }

    /// How many images the index lists that will be converted or copied: one, unless several were asked for.
    pub fn targets(&self) -> usize {
        let entries = place::list(&self.index, "manifests", "the index of the image");
        let is_kept = |entry: &&Value| {
            let descriptor = Descriptor::parse(entry, "the index of the image");
            descriptor.is_ok_and(|descriptor| !self.left_out.has(&descriptor.digest))
        };
        entries.map_or(0, |entries| entries.iter().filter(is_kept).count())
    }

    /// Converts all images, and gives them to `target`, which shows nothing of them after an error.
    ///
    /// # Errors
    /// Any of [`Error`](crate::Error).
    pub fn run(
        &self,
        target: &dyn Target,
        options: &Options<'_>,
        watch: &Watch<'_>,
    ) -> Result<Converted> {
        options.validate()?;
        self.source.expect(&self.layers);
        let mut conversion = Conversion {
            plan: self,
            target,
            options,
            watch,
            layers: HashMap::new(),
            chains: Chains::default(),
            documents: HashMap::new(),
            copied: HashSet::new(),
            done: Converted {
                notes: self.left_out.notes.clone(),
                ..Converted::default()
            },
        };
        let mut index = self.index.clone();
        conversion.index(&mut index, "the index of the image", 0)?;
        let mut done = conversion.done;
        for entry in place::list(&index, "manifests", "the new index")? {
            done.targets
                .push(Descriptor::parse(entry, "the new index")?.digest);
        }
        options.check_cancelled()?;
        target.finish(&index)?;
        Ok(done)
    }
}

/// Blobs, each once.
#[derive(Debug, Default)]
pub(crate) struct Blobs {
    pub(crate) list: Vec<Descriptor>,
    numbers: HashMap<Digest, usize>,
}

impl Blobs {
    /// False if it is among them already.
    pub(crate) fn add(&mut self, blob: &Descriptor) -> bool {
        let next = self.list.len();
        let number = *self.numbers.entry(blob.digest.clone()).or_insert(next);
        if number == next {
            self.list.push(blob.clone());
        }
        number == next
    }

    pub(crate) fn number(&self, digest: &Digest) -> Option<usize> {
        self.numbers.get(digest).copied()
    }
}

/// A conversion under way.
pub(crate) struct Conversion<'a> {
    plan: &'a Plan,
    target: &'a dyn Target,
    pub(crate) options: &'a Options<'a>,
    watch: &'a Watch<'a>,
    layers: HashMap<Digest, LayerConverted>,
    /// The same, where a layer becomes what those below it leave of it.
    pub(crate) chains: Chains,
    /// What became of an index or a manifest.
    documents: HashMap<Digest, Descriptor>,
    copied: HashSet<Digest>,
    pub(crate) done: Converted,
}

impl Conversion<'_> {
    /// Makes an index one of what was converted.
    fn index(&mut self, index: &mut Value, what: &str, depth: usize) -> Result<()> {
        check_depth(depth, what)?;
        let mut entries = place::list(index, "manifests", what)?.to_vec();
        entries.retain(|entry| {
            let descriptor = Descriptor::parse(entry, what);
            descriptor.is_ok_and(|descriptor| !self.plan.left_out.has(&descriptor.digest))
        });
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
        if !descriptor.is_document() {
            // An index may name anything.
            self.done.notes.push(format!(
                "{} of the type {:?} is copied as it is",
                descriptor.digest, descriptor.media_type
            ));
            return self.copy(&descriptor);
        }
        let mut value = place::document(&*self.plan.source, &descriptor)?;
        let what = format!("the manifest {}", descriptor.digest);
        let media_type = if is_index(&descriptor) {
            self.index(&mut value, &what, depth + 1)?;
            OCI_INDEX
        } else if !is_image(entry, &descriptor, &value) {
            return self.untouched(&descriptor, &value, &what);
        } else if place::list(&value, "layers", &what).is_ok_and(is_nydus) {
            let note = format!("{what} is of a nydus image, and copied as it is");
            self.done.notes.push(note);
            return self.untouched(&descriptor, &value, &what);
        } else {
            self.image(&mut value, &what)?;
            OCI_MANIFEST
        };
        let new = self.put(media_type, &value.to_string().into_bytes())?;
        if media_type == OCI_MANIFEST {
            let pair = (descriptor.digest.clone(), new.digest.clone());
            self.done.manifests.push(pair);
        }
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

    /// Gives the target something small.
    pub(crate) fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        self.target.put(&descriptor, bytes)?;
        Ok(descriptor)
    }

    fn copy(&mut self, descriptor: &Descriptor) -> Result<()> {
        self.options.check_cancelled()?;
        if self.copied.insert(descriptor.digest.clone()) {
            self.target.copy(&self.plan.source, descriptor)?;
            self.reached(&descriptor.digest, descriptor.size);
        }
        Ok(())
    }

    /// Tells how far a blob was read.
    pub(crate) fn reached(&self, digest: &Digest, offset: u64) {
        if let Some(number) = self.plan.blobs.number(digest) {
            (self.watch)(number, offset);
        }
    }

    /// What says something of an image that was converted says it of the new one.
    fn reference(&mut self, entry: &mut Value) {
        let Some(old) = annotation(entry, REFERENCE_DIGEST).map(str::to_owned) else {
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
}
