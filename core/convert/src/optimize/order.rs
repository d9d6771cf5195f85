//! Which files a start reads, in which order: named, or found by the chunks that one has read.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use pontoon_layer::{ChunkTable, Digest, Kind, Limits, TocDigest, Tree, path_names};
use pontoon_unpack::{Archive, Expected};
use serde_json::Value;

use crate::contents::{Blob, Contents};
use crate::error::{Error, Result};
use crate::manifest::manifests;
use crate::nydus;
use crate::place::{self, Descriptor, Source};
use crate::platform::Selection;

/// A file of which more than so many bytes were not read, and more than were, is not fetched as a whole: that costs more
/// than the round trips that it saves.
const UNREAD_BYTES_MAX: u64 = 4 << 20;

/// Files, at most, and bytes of their paths.
const FILES_MAX: usize = 262_144;
const PATHS_BYTES_MAX: u64 = 64 << 20;

/// Chunks of a recording, at most.
const CHUNKS_MAX: usize = 262_144;

/// The files that a start reads, in the order of their first reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    pub(crate) paths: Vec<Vec<u8>>,
    /// What of a recording is not in it.
    pub(crate) notes: Vec<String>,
}

/// What a start has read: chunks, each by its number in the chunk table of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The image that was started, for people.
    pub image: String,
    /// The layers: the digest of the blob, and that of its table of contents. Of a nydus image, the bootstrap's blob and
    /// anything.
    pub layers: Vec<(Digest, Digest)>,
    /// The number of a layer, and that of a chunk.
    pub chunks: Vec<(u32, u32)>,
}

impl Order {
    /// The files at these paths; what comes again is left out.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn of_paths(paths: impl IntoIterator<Item = Vec<u8>>) -> Result<Order> {
        let mut order = Order::default();
        let mut seen = HashSet::new();
        let mut bytes = 0;
        for path in paths {
            let path = path_names(&path).join(&b'/');
            if path.is_empty() || seen.contains(&path) {
                continue;
            }
            bytes += path.len() as u64;
            let what = "the bytes of all paths of an order";
            Error::check_limit(what, bytes, PATHS_BYTES_MAX)?;
            let what = "the files of an order";
            Error::check_limit(what, seen.len() as u64 + 1, FILES_MAX as u64)?;
            seen.insert(path.clone());
            order.paths.push(path);
        }
        Ok(order)
    }

    /// The files that `recorded` has read. `started` has the image that was started, which `place` names: only its tables say
    /// which chunk is of which file.
    ///
    /// A large file of which a small part was read is not among them.
    ///
    /// # Errors
    /// [`Error::Order`] if none of the layers is there; any other of [`Error`] if what is there cannot be read.
    pub fn of_recorded(recorded: &Recorded, started: &dyn Source, place: &str) -> Result<Order> {
        let what = "the chunks of a recording";
        Error::check_limit(what, recorded.chunks.len() as u64, CHUNKS_MAX as u64)?;
        let mut layers = BTreeMap::new();
        let found = manifests(started, &started.index()?, &Selection::default())?;
        for manifest in found.manifests {
            if !manifest.is_image {
                continue;
            }
            let values = place::list(&manifest.value, "layers", &manifest.what)?;
            for (number, (blob, toc)) in (0..).zip(&recorded.layers) {
                let value = (values.iter()).find(|value| {
                    let found = Descriptor::parse(value, &manifest.what);
                    found.is_ok_and(|found| found.digest == *blob)
                });
                if let (Some(value), false) = (value, layers.contains_key(&number)) {
                    let what = &manifest.what;
                    let files = match nydus::is_nydus(values) {
                        true => Files::of_nydus(started, values, value, what)?,
                        false => Files::of_layer(started, value, toc, what)?,
                    };
                    layers.insert(number, files);
                }
            }
        }
        let (all, image) = (recorded.layers.len(), &recorded.image);
        if layers.is_empty() {
            return Err(Error::Order(format!(
                "none of the {all} layers that were read at the start of {image:?} is in {place}: say where the image is as it was started, with --recorded-on"
            )));
        }
        let (paths, left) = in_order(&recorded.chunks, &layers);
        let mut order = Order::of_paths(paths)?;
        if layers.len() < all {
            order.notes.push(format!(
                "{} of the {all} layers that were read at the start of {image:?} are not in {place}",
                all - layers.len(),
            ));
        }
        if left > 0 {
            order.notes.push(format!(
                "{left} large files are left out, for a start reads a small part of them"
            ));
        }
        Ok(order)
    }

    /// How many files are in it.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

/// The paths of the files whose chunks were read, and how many large files are left out.
fn in_order(chunks: &[(u32, u32)], layers: &BTreeMap<u32, Files>) -> (Vec<Vec<u8>>, usize) {
    // In the order of the first reads.
    let mut found: Vec<(&File, u64)> = Vec::new();
    let mut places = BTreeMap::new();
    let mut seen = HashSet::new();
    for (layer, chunk) in chunks {
        let file = layers.get(layer).and_then(|files| files.of_chunk(*chunk));
        let Some((number, file, bytes)) = file.filter(|_| seen.insert((*layer, *chunk))) else {
            continue;
        };
        let place = *places.entry((*layer, number)).or_insert_with(|| {
            found.push((file, 0));
            found.len() - 1
        });
        found[place].1 += bytes;
    }
    let all = found.len();
    let whole = found.into_iter().filter(|(file, read)| {
        let unread = file.size.saturating_sub(*read);
        unread <= UNREAD_BYTES_MAX.max(*read)
    });
    let paths: Vec<Vec<u8>> = whole.map(|(file, _)| file.path.clone()).collect();
    let left = all - paths.len();
    (paths, left)
}

/// A file that has data.
struct File {
    /// Where that begins in the layer's data file.
    data_offset: u64,
    size: u64,
    /// One of its names.
    path: Vec<u8>,
}

/// The files of a layer, and which chunks are theirs.
struct Files {
    /// By their data's places.
    files: Vec<File>,
    /// Of each chunk where its data begins and how much that is.
    chunks: Vec<(u64, u32)>,
}

impl Files {
    fn new(tree: &Tree, chunks: Vec<(u64, u32)>) -> Files {
        let mut files = Vec::new();
        let mut seen = vec![false; tree.len()];
        tree.walk(|path, id| {
            let node = tree.node(id);
            if let Kind::File { data_offset } = node.kind
                && node.size > 0
                && !std::mem::replace(&mut seen[id.index()], true)
            {
                files.push(File {
                    data_offset,
                    size: node.size,
                    path: path.to_vec(),
                });
            }
            true
        });
        files.sort_unstable_by_key(|file| file.data_offset);
        Files { files, chunks }
    }

    /// The number of the file that a chunk is of, that file, and the bytes of the chunk.
    fn of_chunk(&self, chunk: u32) -> Option<(usize, &File, u64)> {
        let (offset, length) = *self.chunks.get(usize::try_from(chunk).ok()?)?;
        let behind = (self.files).partition_point(|file| file.data_offset <= offset);
        let number = behind.checked_sub(1)?;
        let file = self.files.get(number)?;
        (offset - file.data_offset < file.size).then_some((number, file, u64::from(length)))
    }

    fn of_table(tree: &Tree, table: &ChunkTable) -> Files {
        let chunks = table.chunks().iter();
        let chunks = chunks.map(|chunk| (chunk.data_offset, chunk.length));
        Files::new(tree, chunks.collect())
    }

    /// Those of the layer that `value` describes, whose table of contents must have the digest `toc`.
    fn of_layer(source: &dyn Source, value: &Value, toc: &Digest, what: &str) -> Result<Files> {
        let descriptor = Descriptor::parse(value, what)?;
        let file = source.file(&descriptor, &|_| {})?;
        let blob = Blob::of(&file, &descriptor);
        let contents = blob.contents(&place::annotations(value), &Limits::default())?;
        let reason = match contents {
            Contents::Lazy(lazy) => {
                let (TocDigest::Json(digest) | TocDigest::Compressed(digest)) = &lazy.digest;
                if digest == toc {
                    return Ok(Files::of_table(&lazy.layer.tree, &lazy.layer.chunks));
                }
                format!("its table of contents is {digest}, and {toc} was started")
            }
            Contents::None => "it has no table of contents here".to_owned(),
            Contents::Wrong(reason) => reason,
        };
        let digest = descriptor.digest;
        Err(Error::Order(format!(
            "chunks of the layer {digest} were read, and nothing says of which files they are: {reason}; say where the image is as it was started, with --recorded-on"
        )))
    }

    /// Those of the nydus image with these layers, the bootstrap's of which `value` describes.
    fn of_nydus(source: &dyn Source, values: &[Value], value: &Value, what: &str) -> Result<Files> {
        let descriptor = Descriptor::parse(value, what)?;
        let reader = source.read(&descriptor)?;
        let limits = pontoon_unpack::Limits::default().for_blob(descriptor.size);
        let expected = Expected {
            digest: Some(descriptor.digest.clone()),
            size: Some(descriptor.size),
            diff_id: None,
        };
        let of_layer = |error: Error| error.of_layer(&descriptor.digest);
        let (_, bytes) = pontoon_unpack::stream(reader, &expected, &limits, |blocks| {
            nydus::bootstrap(&mut Archive::new(blocks, &limits))
        })
        .map_err(of_layer)?;
        let mut blobs = BTreeMap::new();
        for value in values {
            let descriptor = Descriptor::parse(value, what)?;
            blobs.insert(descriptor.digest.clone(), descriptor);
        }
        let opened = nydus::open_image(&bytes, |digest| {
            let descriptor = blobs.get(digest).ok_or_else(|| {
                let reason = format!("it names the blob {digest}, which is no layer");
                Error::malformed("the bootstrap", reason)
            })?;
            let file = source.file(descriptor, &|_| {})?;
            Ok((file, PathBuf::from(digest.to_string())))
        });
        let (image, _) = opened.map_err(of_layer)?;
        let chunks = image.chunks.iter();
        let chunks = chunks.map(|chunk| (chunk.data_offset, chunk.length));
        Ok(Files::new(&image.tree, chunks.collect()))
    }
}
