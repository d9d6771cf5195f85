//! An image's layers and its configuration.

use std::io::BufWriter;

use pontoon_layer::Digest;
use pontoon_unpack::Expected;
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::Conversion;
use crate::error::{Error, Result};
use crate::layer::{LayerConverted, convert_layer};
use crate::manifest::{LAYERS, OCI_CONFIG, OCI_MANIFEST, describe, set};
use crate::options::Format;
use crate::place::{self, Counted, Descriptor};
use crate::tail;

/// Layers of an image, at most.
const LAYERS_MAX: usize = 1000;

/// What an image consists of.
pub(crate) struct Opened {
    pub(crate) config: Value,
    config_descriptor: Descriptor,
    pub(crate) layers: Vec<Value>,
    /// Of each layer.
    pub(crate) diff_ids: Vec<Digest>,
}

impl Conversion<'_> {
    /// Converts an image.
    pub(super) fn image(&mut self, manifest: &mut Value, what: &str) -> Result<()> {
        let opened = self.open(manifest, what)?;
        match self.options.format {
            Format::Nydus(nydus) => self.nydus(nydus, opened, manifest, what)?,
            Format::Estargz | Format::ZstdChunked(_) => self.each_layer(opened, manifest, what)?,
        }
        if manifest.get("subject").is_some() {
            let note = format!("{what} refers to a subject, which stays the one of before");
            self.done.notes.push(note);
        }
        self.done.images += 1;
        Ok(())
    }

    fn open(&self, manifest: &Value, what: &str) -> Result<Opened> {
        let config = manifest.get("config").unwrap_or(&Value::Null);
        let config_descriptor = Descriptor::parse(config, what)?;
        let config = place::document(&*self.plan.source, &config_descriptor)?;
        let config_what = format!("the configuration {}", config_descriptor.digest);
        let rootfs = config.get("rootfs").unwrap_or(&Value::Null);
        let diff_ids = place::list(rootfs, "diff_ids", &config_what)?;
        let layers = place::list(manifest, "layers", what)?.to_vec();
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
        let new = if old_ids.eq(diff_ids.iter().cloned()) {
            self.copy(&opened.config_descriptor)?;
            Descriptor {
                media_type: OCI_CONFIG.to_owned(),
                ..opened.config_descriptor.clone()
            }
        } else {
            if let Some(rootfs) = opened.config.get_mut("rootfs") {
                set(rootfs, "diff_ids", Value::Array(diff_ids));
            }
            self.put(OCI_CONFIG, &opened.config.to_string().into_bytes())?
        };
        if let Some(value) = manifest.get_mut("config") {
            describe(value, &new);
        }
        Ok(())
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
            if self.plan.source.has(&descriptor)? {
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
        let diff_id = converted.diff_id.clone();
        describe(value, &self.described(&converted));
        Ok(diff_id)
    }

    fn described(&self, converted: &LayerConverted) -> Descriptor {
        Descriptor {
            media_type: self.options.format.media_type().to_owned(),
            digest: converted.digest.clone(),
            size: converted.bytes,
        }
    }

    fn convert(&self, descriptor: &Descriptor, diff_id: Digest) -> Result<LayerConverted> {
        let reader = self.open_layer(descriptor)?;
        let expected = Expected {
            digest: Some(descriptor.digest.clone()),
            size: Some(descriptor.size),
            diff_id: Some(diff_id),
        };
        let mut options = self.options.clone();
        options.limits = options.limits.for_blob(descriptor.size);
        let file = self.begin()?;
        let writer = BufWriter::with_capacity(1 << 20, file.as_file());
        let converted = convert_layer(reader, writer, &expected, &options)?;
        self.keep(file, &self.described(&converted))?;
        Ok(converted)
    }

    /// Reads a layer, and tells how far.
    pub(crate) fn open_layer(&self, descriptor: &Descriptor) -> Result<Counted<impl Fn(u64)>> {
        Ok(Counted {
            reader: self.plan.source.read(descriptor)?,
            offset: 0,
            tell: |offset| self.reached(&descriptor.digest, offset),
        })
    }

    /// A file for a new blob.
    pub(crate) fn begin(&self) -> Result<NamedTempFile> {
        self.target.begin()
    }

    /// Gives the target a new blob.
    pub(crate) fn keep(&self, file: NamedTempFile, blob: &Descriptor) -> Result<()> {
        self.target.keep(file, blob)
    }
}

/// Puts where the table of contents is into the descriptor of a layer, in place of where another one was.
fn annotate(descriptor: &mut Value, converted: &LayerConverted) {
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
