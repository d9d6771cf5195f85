//! Puts the order in which a start reads into an image.
//!
//! - A layer with a table of contents is written again: the files of the order ([`Order`]), a landmark, the rest
//!   ([`gather`]). The landmark is `.prefetch.landmark`, or `.no.prefetch.landmark` where nothing of the order is in the
//!   layer (stargz-snapshotter's docs/estargz.md, "Prioritized Files and Landmark Files").
//! - The bootstrap of a nydus image gets a table of the files to fetch early. Its blobs stay as they are.
//!
//! What counts are paths: each is looked for in the uppermost layer that shows it. So an order that was recorded with one
//! form of an image is good for any other.

mod bootstrap;
mod gather;
mod order;
mod part;

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;

use pontoon_layer::{Digest, Limits};
use pontoon_unpack::{Archive, Expected};
use serde_json::{Value, json};

use crate::contents::{Blob, Contents, Lazy};
use crate::cut::{Cutter, First};
use crate::error::{Error, Result};
use crate::image::{Conversion, Converted, Opened, Plan, Watch, annotate};
use crate::layer::{self, LayerConverted};
use crate::manifest::{LAYERS, describe, set};
use crate::nydus;
use crate::options::{Format, Options};
use crate::place::{self, Counted, Descriptor, Target};
use gather::gather;
pub use order::{Order, Recorded};
use part::Part;

/// How an order is put into an image.
#[derive(Debug, Clone, Default)]
pub struct Optimize<'a> {
    /// How hard to compress; what is usual for the form of each layer, unless it is said.
    pub level: Option<i32>,
    /// Decompressed bytes of a chunk; what each layer has, unless it is said.
    pub chunk_bytes: Option<u32>,
    /// How many threads compress; one for each processor, unless it is said.
    pub threads: Option<NonZeroUsize>,
    /// Set by another thread to stop.
    pub cancel: Option<&'a AtomicBool>,
}

/// What became of an image with an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Optimized {
    /// What was written. Layers that stay as they are do not count.
    pub written: Converted,
    /// Files of the order that come first now, of each image.
    pub files: u64,
    /// How much of the layers is to be fetched before anybody asks, in bytes as they are stored. 0 for nydus images, whose
    /// files stay where they are.
    pub first_bytes: u64,
}

/// How often a layer is read: for its table of contents, for what comes first, and for all of it.
const PASSES: u64 = 3;

/// What is wanted of a conversion that puts an order into images.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    order: &'a Order,
    how: &'a Optimize<'a>,
}

/// How far such a conversion is.
#[derive(Default)]
pub(crate) struct Ordered {
    /// What became of layers, by their digests and those of what was to come first in them, and how many files do.
    layers: HashMap<(Digest, Digest), (LayerConverted, u64)>,
    files: u64,
    first_bytes: u64,
}

impl Plan {
    /// Puts `order` into all images that it names files of, and gives them to `target`, which shows nothing of them after an
    /// error.
    ///
    /// # Errors
    /// [`Error::Order`] if there is no such image; any other of [`Error`].
    pub fn optimize(
        &self,
        target: &dyn Target,
        order: &Order,
        how: &Optimize<'_>,
        watch: &Watch<'_>,
    ) -> Result<Optimized> {
        let usual = Options::new(Format::Estargz);
        let options = Options {
            threads: how.threads.unwrap_or(usual.threads),
            cancel: how.cancel,
            ..usual
        };
        let wanted = Wanted { order, how };
        let (mut written, ordered) = self.carry_out(target, &options, Some(wanted), watch)?;
        written.notes.splice(0..0, order.notes.iter().cloned());
        Ok(Optimized {
            written,
            files: ordered.files,
            first_bytes: ordered.first_bytes,
        })
    }
}

impl Conversion<'_> {
    /// Fails if the order is in no image.
    pub(crate) fn check_order(&self) -> Result<()> {
        if self.order.is_none() || self.done.images > 0 {
            return Ok(());
        }
        let mut reasons = self.done.notes.clone();
        if reasons.is_empty() {
            reasons.push("there is no image".to_owned());
        }
        Err(Error::Order(format!(
            "the order is in no image: {}",
            reasons.join("; ")
        )))
    }

    /// Puts the order into an image. False if nothing of it can be there: then the image is to stay as it is.
    pub(crate) fn optimize(
        &mut self,
        wanted: Wanted<'_>,
        manifest: &mut Value,
        what: &str,
    ) -> Result<bool> {
        let opened = self.open(manifest, what)?;
        let files = match nydus::is_nydus(&opened.layers) {
            true => self.optimize_nydus(wanted, opened, manifest, what)?,
            false => self.optimize_layers(wanted, opened, manifest, what)?,
        };
        let Some(files) = files else {
            return Ok(false);
        };
        self.ordered.files += files;
        Ok(true)
    }

    /// The same with an image whose layers have tables of contents. Answers how many files of the order come first.
    fn optimize_layers(
        &mut self,
        wanted: Wanted<'_>,
        mut opened: Opened,
        manifest: &mut Value,
        what: &str,
    ) -> Result<Option<u64>> {
        let mut layers = self.lazy_layers(&opened, what)?;
        if layers.iter().all(|layer| layer.lazy.is_none()) {
            self.done.notes.push(format!(
                "{what} stays as it is: none of its layers can be read lazily; convert the image first"
            ));
            return Ok(None);
        }
        for path in &wanted.order.paths {
            let uppermost = layers.iter().rposition(|layer| layer.has(path));
            let shown = uppermost.filter(|number| {
                let mut above = layers[number + 1..].iter();
                !above.any(|layer| layer.hides(path))
            });
            if let Some(number) = shown {
                layers[number].first.push(path.clone());
            }
        }
        if layers.iter().all(|layer| layer.first.is_empty()) {
            self.nothing_of_it(wanted.order, what);
            return Ok(None);
        }
        let mut files = 0;
        let mut new_ids = Vec::new();
        for ((value, layer), diff_id) in
            (opened.layers.iter_mut().zip(&layers)).zip(&opened.diff_ids)
        {
            let done = self.reorder(wanted, layer, diff_id, value);
            let (diff_id, moved) =
                done.map_err(|error| error.of_layer(&layer.descriptor.digest))?;
            files += moved;
            new_ids.push(json!(diff_id.to_string()));
        }
        set(
            manifest,
            "layers",
            Value::Array(std::mem::take(&mut opened.layers)),
        );
        self.configure(&mut opened, new_ids, manifest)?;
        Ok(Some(files))
    }

    fn nothing_of_it(&mut self, order: &Order, what: &str) {
        let files = order.len();
        self.done.notes.push(format!(
            "{what} stays as it is: it has none of the {files} files of the order"
        ));
    }

    /// The layers of an image, and the tables of contents of those that have some.
    fn lazy_layers(&mut self, opened: &Opened, what: &str) -> Result<Vec<Part>> {
        let limits = Limits::default();
        let mut layers = Vec::new();
        let mut entries = 0;
        for value in &opened.layers {
            self.options.check_cancelled()?;
            let descriptor = Descriptor::parse(value, what)?;
            let file = match LAYERS.contains(&descriptor.media_type.as_str()) {
                true => Some(self.source().file(&descriptor, &|offset| {
                    self.reached(&descriptor.digest, offset / PASSES);
                })?),
                false => None,
            };
            let contents = match &file {
                Some(file) => {
                    let blob = Blob::of(file, &descriptor);
                    blob.contents(&place::annotations(value), &limits)?
                }
                None => Contents::None,
            };
            let digest = &descriptor.digest;
            let lazy = match contents {
                Contents::Lazy(lazy) => file.map(|file| (lazy, file)),
                Contents::None => {
                    let note =
                        format!("the layer {digest} stays as it is: it cannot be read lazily");
                    self.done.notes.push(note);
                    None
                }
                Contents::Wrong(reason) => {
                    let note = format!("the layer {digest} stays as it is: {reason}");
                    self.done.notes.push(note);
                    None
                }
            };
            entries += lazy
                .as_ref()
                .map_or(0, |(lazy, _)| u64::from(lazy.layer.entries));
            // All are in memory.
            let what = "the entries of the tables of contents of an image";
            Error::check_limit(what, entries, u64::from(limits.entries_max))?;
            layers.push(Part {
                descriptor,
                lazy,
                first: Vec::new(),
            });
        }
        Ok(layers)
    }

    /// Puts what is to come first of the layer that `value` describes first. Answers its new diff ID, and how many files
    /// were moved.
    fn reorder(
        &mut self,
        wanted: Wanted<'_>,
        layer: &Part,
        diff_id: &Digest,
        value: &mut Value,
    ) -> Result<(Digest, u64)> {
        let descriptor = &layer.descriptor;
        let lazy = layer
            .lazy
            .as_ref()
            .filter(|(lazy, _)| !layer.is_as_wanted(lazy));
        let Some((lazy, file)) = lazy else {
            // Some are by design nowhere but at a URL.
            if self.source().has(descriptor)? {
                self.copy(descriptor)?;
            }
            return Ok((diff_id.clone(), 0));
        };
        let first = Digest::of(&layer.first.join(&0));
        let key = (descriptor.digest.clone(), first);
        let (converted, moved) = match self.ordered.layers.get(&key) {
            Some(known) => known.clone(),
            None => {
                let done = self.rewrite(wanted.how, layer, (lazy, file), diff_id)?;
                self.done.layers += 1;
                self.done.bytes_before += done.0.from.blob_bytes;
                self.done.bytes_after += done.0.bytes;
                self.ordered.first_bytes += done.0.first_bytes;
                self.ordered.layers.insert(key, done.clone());
                done
            }
        };
        annotate(value, &converted);
        let new = described(lazy.format, &converted);
        describe(value, &new);
        Ok((converted.diff_id, moved))
    }

    fn rewrite(
        &mut self,
        how: &Optimize<'_>,
        layer: &Part,
        (lazy, file): (&Lazy, &File),
        diff_id: &Digest,
    ) -> Result<(LayerConverted, u64)> {
        let descriptor = &layer.descriptor;
        let format = lazy.format;
        let options = Options {
            format,
            level: how.level.unwrap_or(format.default_level()),
            chunk_bytes: how.chunk_bytes.unwrap_or(lazy.chunk_bytes()),
            limits: self.options.limits.clone().for_blob(descriptor.size),
            ..self.options.clone()
        };
        options.validate()?;
        let expected = Expected {
            digest: Some(descriptor.digest.clone()),
            size: Some(descriptor.size),
            diff_id: Some(diff_id.clone()),
        };
        let this: &Self = self;
        let reader = |pass: u64| -> Result<_> {
            let size = descriptor.size;
            Ok(Counted {
                reader: Box::new(Blob::of(file, descriptor).reader()?),
                offset: 0,
                tell: move |offset| {
                    let offset = (size * pass + offset) / PASSES;
                    this.reached(&descriptor.digest, offset);
                },
            })
        };
        let aside = self.begin()?.into_file();
        let names = (&layer.first[..], &lazy.links(&layer.first)[..]);
        let gathered = gather(reader(1)?, &expected, &options, names, aside)?;
        let file = self.begin()?;
        let writer = BufWriter::with_capacity(1 << 20, file.as_file());
        let converted = layer::write(reader(2)?, writer, &expected, &options, |blocks, put| {
            let mut aside = gathered.archive(&options.limits);
            let first = First {
                entries: aside.as_mut(),
                numbers: &gathered.numbers,
            };
            let mut archive = Archive::recording(blocks, &options.limits);
            Cutter::new(&options, true, put)?.cut_in_order(first, &mut archive)
        })?;
        self.keep(file, &described(format, &converted))?;
        if gathered.left > 0 {
            self.done.notes.push(format!(
                "{} files of the order stay where they are in the layer {}, for to move them would change it",
                gathered.left, descriptor.digest
            ));
        }
        Ok((converted, gathered.files))
    }
}

fn described(format: Format, converted: &LayerConverted) -> Descriptor {
    Descriptor {
        media_type: format.media_type().to_owned(),
        digest: converted.digest.clone(),
        size: converted.bytes,
    }
}
