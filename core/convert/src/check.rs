//! Whether two images hold the same files, and whether all that they say of themselves is true.

mod whole;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_layer::{
    Chunk, ChunkTableRef, Digest, Limits, Member, OpaqueXattr, TAIL_BYTES, TocKind, Verified,
    parse_annotations, parse_tail, parse_toc,
};
use serde_json::Value;

use crate::error::{Error, Result, shown};
use crate::files::{self, Files};
use crate::image::{Blobs, Watch};
use crate::manifest::{Manifest, manifests, parts};
use crate::nydus::is_nydus;
use crate::place::{self, Descriptor, Source};
use crate::platform::Selection;

/// How many differences of one layer are told one by one.
const LINES_MAX: usize = 20;

/// What was compared and verified, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Images: one for each platform.
    pub images: u64,
    /// Different layers of the new layout.
    pub layers: u64,
    /// Those of them that have a table of contents.
    pub lazy_layers: u64,
    /// Files of these layers.
    pub files: u64,
    /// Chunks of the tables of contents, all of which were inflated and have their digests.
    pub chunks: u64,
    /// What is wrong, a line each; not every file of a layer that differs is told.
    pub findings: Vec<String>,
}

/// Two images that are to be compared.
#[derive(Debug)]
pub struct Comparison {
    old: Image,
    new: Image,
}

/// What `selection` wants of an image.
#[derive(Debug)]
struct Image {
    source: Arc<dyn Source>,
    manifests: Vec<Manifest>,
    blobs: Blobs,
}

impl Image {
    fn read(source: Arc<dyn Source>, selection: &Selection) -> Result<Image> {
        let mut manifests = manifests(&*source, &source.index()?, selection)?.manifests;
        manifests.retain(|found| found.is_image);
        let mut blobs = Blobs::default();
        for manifest in &manifests {
            // The configuration is read on the way.
            for part in parts(&manifest.value).skip(1) {
                blobs.add(&Descriptor::parse(part, &manifest.what)?);
            }
        }
        Ok(Image {
            source,
            manifests,
            blobs,
        })
    }
}

impl Comparison {
    /// Reads what `old` and `new` have and `selection` wants, all but layers.
    ///
    /// # Errors
    /// As [`Plan::read`](crate::Plan::read).
    pub fn read(
        old: Arc<dyn Source>,
        new: Arc<dyn Source>,
        selection: &Selection,
    ) -> Result<Comparison> {
        Ok(Comparison {
            old: Image::read(old, selection)?,
            new: Image::read(new, selection)?,
        })
    }

    /// Bytes of the blobs that will be read; their places are their numbers for [`Watch`].
    pub fn sizes(&self) -> impl Iterator<Item = u64> + Clone + '_ {
        let all = self.old.blobs.list.iter().chain(&self.new.blobs.list);
        all.map(|blob| blob.size)
    }

    /// Compares the images, layer by layer and file by file, and verifies all digests: of blobs, archives, tables of
    /// contents and chunks.
    ///
    /// # Errors
    /// Any of [`Error`] if a blob cannot be read; what merely differs is a finding.
    pub fn run(&self, cancel: Option<&AtomicBool>, watch: &Watch<'_>) -> Result<Checked> {
        let mut check = Check {
            old: &self.old,
            new: &self.new,
            cancel,
            watch,
            limits: Limits::default(),
            compared: HashMap::new(),
            done: Checked::default(),
        };
        let (old, new) = (&self.old.manifests, &self.new.manifests);
        if old.len() != new.len() {
            let (before, now) = (old.len(), new.len());
            check.find(format!("there were {before} images, and there are {now}"));
        }
        for side in [&self.old, &self.new] {
            side.source.expect(&side.blobs.list);
        }
        for (old, new) in old.iter().zip(new) {
            check.image(old, new)?;
        }
        Ok(check.done)
    }
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

struct Check<'a> {
    old: &'a Image,
    new: &'a Image,
    cancel: Option<&'a AtomicBool>,
    watch: &'a Watch<'a>,
    limits: Limits,
    /// Pairs of layers that were compared.
    compared: HashMap<(Digest, Digest), ()>,
    done: Checked,
}

/// A layer as a manifest and a configuration have it.
struct Layer {
    descriptor: Descriptor,
    diff_id: Digest,
    annotations: BTreeMap<String, String>,
}

impl Check<'_> {
    fn find(&mut self, finding: impl Into<String>) {
        self.done.findings.push(finding.into());
    }

    fn image(&mut self, old: &Manifest, new: &Manifest) -> Result<()> {
        let (old_config, old_layers) = layers(&*self.old.source, old)?;
        let (new_config, new_layers) = layers(&*self.new.source, new)?;
        self.done.images += 1;
        let nydus =
            |manifest: &Manifest| place::list(&manifest.value, "layers", "").is_ok_and(is_nydus);
        let (was_nydus, is_nydus) = (nydus(old), nydus(new));
        let whole = was_nydus || is_nydus;
        if comparable(old_config, whole) != comparable(new_config, whole) {
            self.find(format!("{}: the configuration differs", new.what));
        }
        if whole {
            let (old, layers) = ((&*old_layers, was_nydus), (&*new_layers, is_nydus));
            return self.whole(new, old, layers);
        }
        if old_layers.len() != new_layers.len() {
            let (before, now) = (old_layers.len(), new_layers.len());
            self.find(format!("{}: {now} layers instead of {before}", new.what));
        }
        for (old, new) in old_layers.iter().zip(&new_layers) {
            let pair = (old.descriptor.digest.clone(), new.descriptor.digest.clone());
            if self.compared.insert(pair, ()).is_none() {
                self.layer(old, new)?;
            }
        }
        Ok(())
    }

    /// Tells how two trees of `what` differ, file by file, of which the first [`LINES_MAX`] are named.
    fn compare<F: PartialEq>(
        &mut self,
        what: &str,
        old: &BTreeMap<Vec<u8>, F>,
        new: &BTreeMap<Vec<u8>, F>,
        difference: fn(&F, &F) -> String,
    ) {
        let changed = old.iter().filter_map(|(path, file)| match new.get(path) {
            None => Some((path, "is missing".to_owned())),
            Some(other) => (other != file).then(|| (path, difference(file, other))),
        });
        let added = new.keys().filter(|path| !old.contains_key(*path));
        let added = added.map(|path| (path, "was not there".to_owned()));
        let mut all = changed.chain(added);
        for (path, text) in all.by_ref().take(LINES_MAX) {
            self.find(format!("{what}: {:?} {text}", shown(path)));
        }
        let more = all.count();
        if more > 0 {
            self.find(format!("{what}: {more} more files differ"));
        }
    }

    fn layer(&mut self, old: &Layer, new: &Layer) -> Result<()> {
        let of_layer = |layer: &Layer| {
            let digest = layer.descriptor.digest.clone();
            move |error: Error| error.of_layer(&digest)
        };
        let old_files = self.archive(Side::Old, old, files::read);
        let old_files: Files = old_files.map_err(of_layer(old))?;
        let file = self.file(Side::New, new).map_err(of_layer(new))?;
        let new_files = self.archive_in(Side::New, new, &file, files::read);
        let new_files = new_files.map_err(of_layer(new))?;
        self.done.layers += 1;
        self.done.files += new_files.len() as u64;
        let digest = new.descriptor.digest.clone();
        let what = format!("layer {digest}");
        self.compare(&what, &old_files, &new_files, files::difference);
        self.table(new, &file).map_err(of_layer(new))
    }

    /// Verifies the table of contents of a new layer, which is in `file`, if it has one.
    fn table(&mut self, layer: &Layer, file: &File) -> Result<()> {
        match self.contents(layer, file)? {
            Contents::None => {}
            Contents::Verified(chunks) => {
                self.done.lazy_layers += 1;
                self.done.chunks += chunks;
            }
            Contents::Wrong(reason) => {
                self.done.lazy_layers += 1;
                self.find(format!("layer {}: {reason}", layer.descriptor.digest));
            }
        }
        Ok(())
    }

    fn side(&self, side: Side) -> &Image {
        match side {
            Side::Old => self.old,
            Side::New => self.new,
        }
    }

    /// A blob, to be read at any place.
    fn file(&self, side: Side, layer: &Layer) -> Result<File> {
        self.check_cancelled()?;
        let tell = |offset| self.reached(side, &layer.descriptor, offset);
        self.side(side).source.file(&layer.descriptor, &tell)
    }

    /// Tells how far a blob was read.
    fn reached(&self, side: Side, blob: &Descriptor, offset: u64) {
        let before = match side {
            Side::Old => 0,
            Side::New => self.old.blobs.list.len(),
        };
        if let Some(number) = self.side(side).blobs.number(&blob.digest) {
            (self.watch)(before + number, offset);
        }
    }

    fn check_cancelled(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }

    /// Verifies the table of contents and every chunk in it.
    fn contents(&self, layer: &Layer, file: &File) -> Result<Contents> {
        let wrong = |reason: String| Ok(Contents::Wrong(reason));
        let size = layer.descriptor.size;
        let path = PathBuf::from(layer.descriptor.digest.to_string());
        let read = |offset: u64, length: u64| -> Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            let read = file.read_exact_at(&mut bytes, offset);
            read.map_err(Error::file("cannot read", &path))?;
            Ok(bytes)
        };
        let tail_bytes = size.min(TAIL_BYTES as u64);
        let tail = read(size - tail_bytes, tail_bytes)?;
        let annotated = match parse_annotations(&layer.annotations, size, &self.limits) {
            Ok(annotated) => annotated,
            Err(error) => return wrong(error.to_string()),
        };
        let footer = match parse_tail(&tail, size, &self.limits) {
            Ok(footer) => footer,
            Err(error) => return wrong(error.to_string()),
        };
        let Some(digest) = annotated.digest else {
            return Ok(Contents::None);
        };
        let kind = match (&footer, &annotated.place) {
            (Some(footer), _) => footer.toc_kind(),
            (None, Some(_)) => TocKind::Zstd,
            (None, None) => return wrong("it has an annotation and no footer".to_owned()),
        };
        let from_footer = footer.as_ref().and_then(|footer| footer.place());
        if let (Some(one), Some(other)) = (from_footer, &annotated.place)
            && one != other
        {
            return wrong("annotations and footer name two places".to_owned());
        }
        let Some(place) = annotated.place.as_ref().or(from_footer) else {
            return wrong("the table of contents is in another blob".to_owned());
        };
        let toc = read(place.range.start, place.range.end - place.range.start)?;
        let opaque = OpaqueXattr::Trusted;
        let parsed = parse_toc(kind, &toc, place.payload_end, &digest, opaque, &self.limits);
        let table = match parsed {
            Ok(layer) => layer.chunks.encode(),
            Err(error) => return wrong(error.to_string()),
        };
        let table = match ChunkTableRef::open(&table) {
            Ok(table) => table,
            Err(error) => return wrong(error.to_string()),
        };
        for chunk in table.iter().filter(|chunk| !chunk.is_zeros()) {
            self.check_cancelled()?;
            let bytes = read(chunk.blob_offset, u64::from(chunk.blob_length))?;
            if let Err(reason) = verify(&table, &chunk, &bytes) {
                return wrong(format!("the chunk at {}: {reason}", chunk.blob_offset));
            }
        }
        Ok(Contents::Verified(table.len() as u64))
    }
}

/// What came of a table of contents.
enum Contents {
    None,
    /// So many chunks are what they should be.
    Verified(u64),
    Wrong(String),
}

fn verify(table: &ChunkTableRef<'_>, chunk: &Chunk, bytes: &[u8]) -> Result<(), String> {
    let mut member = Member::new(table.compression(), bytes);
    let data = member.chunk(chunk.inner_offset, chunk.length);
    let data = data.map_err(|error| error.to_string())?;
    let verified = Verified::check(data, &chunk.digest());
    verified.map(drop).map_err(|error| error.to_string())
}

/// The configuration and the layers of an image.
fn layers(source: &dyn Source, manifest: &Manifest) -> Result<(Value, Vec<Layer>)> {
    let what = &*manifest.what;
    let config = manifest.value.get("config").unwrap_or(&Value::Null);
    let config = place::document(source, &Descriptor::parse(config, what)?)?;
    let rootfs = config.get("rootfs").unwrap_or(&Value::Null);
    let diff_ids = place::list(rootfs, "diff_ids", what)?;
    let values = place::list(&manifest.value, "layers", what)?;
    if values.len() != diff_ids.len() {
        let reason = format!("{} layers and {} diff IDs", values.len(), diff_ids.len());
        return Err(Error::malformed(what, reason));
    }
    let mut layers = Vec::new();
    for (value, diff_id) in values.iter().zip(diff_ids) {
        let diff_id = diff_id.as_str().and_then(|text| text.parse().ok());
        layers.push(Layer {
            descriptor: Descriptor::parse(value, what)?,
            diff_id: diff_id.ok_or_else(|| Error::malformed(what, "a diff ID is none"))?,
            annotations: place::annotations(value),
        });
    }
    Ok((config, layers))
}

/// A configuration without what a conversion changes: of a nydus image the history too.
fn comparable(mut config: Value, whole: bool) -> Value {
    if let Some(rootfs) = config.get_mut("rootfs").and_then(Value::as_object_mut) {
        rootfs.remove("diff_ids");
    }
    if let Some(config) = config.as_object_mut().filter(|_| whole) {
        config.remove("history");
    }
    config
}
