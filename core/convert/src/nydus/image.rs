//! An image: its blobs and its bootstrap in place of its layers.

use std::collections::HashMap;
use std::io::BufWriter;
use std::sync::Arc;

use pontoon_layer::rafs::Bootstrap;
use pontoon_layer::{Digest, Limits, OpaqueXattr};
use pontoon_unpack::Expected;
use serde_json::{Value, json};

use super::boot::{self, Image};
use super::layer::{self, Layer};
use super::merge::Merged;
use super::stock::{Blob, Stock};
use super::{Nydus, boot_layer};
use crate::error::{Error, Result};
use crate::image::{Conversion, Opened};
use crate::manifest::{LAYER_GZIP, LAYERS, describe, set};
use crate::place::{Descriptor, annotation};

/// What a descriptor says of a blob and of a bootstrap (nydus-snapshotter, `pkg/converter/constant.go`).
const ANNOTATION_BLOB: &str = "containerd.io/snapshot/nydus-blob";
const ANNOTATION_BOOTSTRAP: &str = "containerd.io/snapshot/nydus-bootstrap";
const ANNOTATION_VERSION: &str = "containerd.io/snapshot/nydus-fs-version";

/// What layers have become: each with those below it, for it stores nothing again that they have.
#[derive(Debug, Default)]
pub(crate) struct Chains(HashMap<Digest, Arc<Layer>>);

/// Whether these layers are a nydus image's.
pub(crate) fn is_nydus(layers: &[Value]) -> bool {
    let last = layers.last();
    last.and_then(|last| annotation(last, ANNOTATION_BOOTSTRAP)) == Some("true")
}

/// The layers of an image, as far as they are converted.
struct Layers {
    stock: Stock,
    tree: Merged,
    /// The chunks of all files.
    numbers: Vec<u32>,
    /// What the manifest has to say of them.
    descriptors: Vec<Value>,
    diff_ids: Vec<Value>,
    /// Of each layer of before, whether there is one for it.
    kept: Vec<bool>,
}

impl Conversion<'_> {
    /// Makes an image a nydus image. Nothing of its manifest is changed before all is written.
    pub(crate) fn nydus(
        &mut self,
        nydus: Nydus,
        mut opened: Opened,
        manifest: &mut Value,
        what: &str,
    ) -> Result<()> {
        let mut layers = self.blobs(nydus, &opened, what)?;
        let bootstrap = boot::write(&Image {
            tree: &layers.tree,
            stock: &layers.stock,
            numbers: &layers.numbers,
            nydus,
            chunk_bytes: self.options.chunk_bytes,
        })?;
        // As whoever serves the image will read it.
        let limits = Limits::default();
        Bootstrap::open(&bootstrap, &limits)
            .and_then(|bootstrap| bootstrap.image(&[], OpaqueXattr::Trusted))
            .map_err(Error::Unreadable)?;
        let layer = boot_layer::write(&bootstrap)?;
        let new = self.put(LAYER_GZIP, &layer.bytes)?;
        self.done.bytes_after += layer.bytes.len() as u64;
        let annotations = json!({ ANNOTATION_BOOTSTRAP: "true", ANNOTATION_VERSION: "6" });
        let mut descriptor = json!({ "annotations": annotations });
        describe(&mut descriptor, &new);
        layers.descriptors.push(descriptor);
        layers.diff_ids.push(json!(layer.diff_id.to_string()));
        remember(&mut opened.config, &layers.kept);
        set(manifest, "layers", Value::Array(layers.descriptors));
        self.configure(&mut opened, layers.diff_ids, manifest)
    }

    /// Converts all layers of an image.
    fn blobs(&mut self, nydus: Nydus, opened: &Opened, what: &str) -> Result<Layers> {
        let mut layers = Layers {
            stock: Stock::default(),
            tree: Merged::new(),
            numbers: Vec::new(),
            descriptors: Vec::new(),
            diff_ids: Vec::new(),
            kept: Vec::new(),
        };
        let mut chain = Digest::of(b"");
        for (value, diff_id) in opened.layers.iter().zip(&opened.diff_ids) {
            let descriptor = Descriptor::parse(value, what)?;
            if !LAYERS.contains(&descriptor.media_type.as_str()) {
                let (digest, media_type) = (descriptor.digest, descriptor.media_type);
                let reason = format!(
                    "its layer {digest} is of the type {media_type:?}, which cannot be in a nydus image"
                );
                return Err(Error::malformed(what, reason));
            }
            chain = Digest::of(format!("{chain} {} {diff_id}", descriptor.digest).as_bytes());
            let layer = match self.chains.0.get(&chain) {
                Some(layer) => Arc::clone(layer),
                None => {
                    let layer = self.blob(nydus, &descriptor, diff_id, &layers.stock);
                    let layer = layer.map_err(|error| error.of_layer(&descriptor.digest))?;
                    let layer = Arc::new(layer);
                    self.chains.0.insert(chain.clone(), Arc::clone(&layer));
                    layer
                }
            };
            self.options.check_cancelled()?;
            layers.add(&layer)?;
        }
        Ok(layers)
    }

    /// Converts one layer on those that have brought `stock`.
    fn blob(
        &mut self,
        nydus: Nydus,
        descriptor: &Descriptor,
        diff_id: &Digest,
        stock: &Stock,
    ) -> Result<Layer> {
        let reader = self.open_layer(descriptor)?;
        let expected = Expected {
            digest: Some(descriptor.digest.clone()),
            size: Some(descriptor.size),
            diff_id: Some(diff_id.clone()),
        };
        let mut options = self.options.clone();
        options.limits = options.limits.for_blob(descriptor.size);
        let file = self.begin()?;
        let writer = BufWriter::with_capacity(1 << 20, file.as_file());
        let layer = layer::convert(reader, writer, &expected, &options, nydus, stock)?;
        if let Some(blob) = &layer.blob {
            self.keep(file, &described(blob))?;
            self.done.bytes_after += blob.bytes;
        }
        self.done.layers += 1;
        self.done.bytes_before += layer.from.blob_bytes;
        Ok(layer)
    }
}

impl Layers {
    fn add(&mut self, layer: &Layer) -> Result<()> {
        self.tree.apply(&layer.tree, self.numbers.len() as u64);
        self.numbers.extend(&layer.numbers);
        Error::check_limit(
            "the chunks of an image",
            self.numbers.len() as u64,
            u64::from(Limits::default().entries_max),
        )?;
        self.stock.extend(&layer.chunks, layer.blob.as_ref());
        self.kept.push(layer.blob.is_some());
        if let Some(blob) = &layer.blob {
            let mut descriptor = json!({ "annotations": { ANNOTATION_BLOB: "true" } });
            describe(&mut descriptor, &described(blob));
            self.descriptors.push(descriptor);
            // Nothing in it can be unpacked.
            self.diff_ids.push(json!(blob.digest.to_string()));
        }
        Ok(())
    }
}

fn described(blob: &Blob) -> Descriptor {
    let media_type = crate::Format::Nydus(Nydus::default()).media_type();
    Descriptor {
        media_type: media_type.to_owned(),
        digest: blob.digest.clone(),
        size: blob.bytes,
    }
}

/// Has the history of a configuration name as many layers as there are: those that brought no data have none any more,
/// and the bootstrap is one.
fn remember(config: &mut Value, kept: &[bool]) {
    let Some(history) = config.get_mut("history").and_then(Value::as_array_mut) else {
        return;
    };
    let mut kept = kept.iter();
    for entry in history.iter_mut() {
        let is_empty = entry.get("empty_layer").and_then(Value::as_bool) == Some(true);
        if !is_empty && kept.next() == Some(&false) {
            set(entry, "empty_layer", json!(true));
        }
    }
    history.push(json!({ "created_by": "pontoon convert", "comment": "nydus bootstrap" }));
}
