//! Where images are read from, and where they go.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;

use pontoon_layer::{Digest, Hasher};
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// The largest index, manifest or configuration, in bytes; containerd's limit is the same.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// What a descriptor says (OCI image specification, `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Of what kind it is; empty if it is not said.
    pub media_type: String,
    /// What it is called.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl Descriptor {
    /// Reads `value`, which is in `what`.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn parse(value: &Value, what: &str) -> Result<Descriptor> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let wrong = |reason: String| Error::malformed(what, reason);
        let digest =
            text("digest").ok_or_else(|| wrong("a descriptor has no digest".to_owned()))?;
        let digest = digest.parse().map_err(|error| wrong(format!("{error}")))?;
        let size = value.get("size").and_then(Value::as_u64);
        Ok(Descriptor {
            media_type: text("mediaType").unwrap_or_default().to_owned(),
            size: size.ok_or_else(|| wrong(format!("the descriptor of {digest} has no size")))?,
            digest,
        })
    }

    /// Whether it describes a manifest or an index, which registries keep apart from blobs.
    pub fn is_document(&self) -> bool {
        crate::manifest::is_index(self) || crate::manifest::is_manifest(self)
    }
}

/// An annotation of the descriptor `value`.
pub(crate) fn annotation<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get("annotations")?.get(key)?.as_str()
}

/// Where an image is read from. Nothing that it gives is believed before its digest was checked.
///
/// Its methods may block, and are called by several threads.
pub trait Source: Send + Sync + Debug {
    /// An index of what is to be read: of the one image that was asked for, or of all.
    ///
    /// # Errors
    /// Any; [`Error::Place`] is for what this crate knows nothing of.
    fn index(&self) -> Result<Value>;

    /// The bytes of a blob, from the first on.
    ///
    /// # Errors
    /// As [`Source::index`], at once or by the reader.
    fn read(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>>;

    /// Whether it has this blob.
    ///
    /// # Errors
    /// As [`Source::index`].
    fn has(&self, blob: &Descriptor) -> Result<bool>;

    /// Whether it often has manifests without their layers.
    fn is_partial(&self) -> bool {
        false
    }

    /// A blob in a file that may be read at any place: a temporary one, unless it is in one already. `tell` is told how much
    /// of it has come.
    ///
    /// # Errors
    /// As [`Source::index`].
    fn file(&self, blob: &Descriptor, tell: &dyn Fn(u64)) -> Result<File> {
        let cannot = |error: io::Error| Error::Copy {
            digest: blob.digest.clone(),
            source: error,
        };
        let mut file = tempfile::tempfile().map_err(cannot)?;
        let reader = self.read(blob)?;
        let counted = Counted {
            reader,
            offset: 0,
            tell,
        };
        // One byte more than it has shows that it is another one.
        let mut reader = counted.take(blob.size.saturating_add(1));
        io::copy(&mut reader, &mut file).map_err(cannot)?;
        file.rewind().map_err(cannot)?;
        Ok(file)
    }

    /// Told which layers will be read, in about this order.
    fn expect(&self, layers: &[Descriptor]) {
        let _ = layers;
    }
}

/// Where a new image goes. What is given to it is there at the latest when [`Target::finish`] returns, and nobody sees an
/// image before.
pub trait Target: Send + Sync + Debug {
    /// A file for a blob whose digest is not known yet.
    ///
    /// # Errors
    /// Any; [`Error::Place`] is for what this crate knows nothing of.
    fn begin(&self) -> Result<NamedTempFile>;

    /// Takes a file that was begun, and is the whole of `blob` now.
    ///
    /// # Errors
    /// As [`Target::begin`].
    fn keep(&self, file: NamedTempFile, blob: &Descriptor) -> Result<()>;

    /// Takes a document, whose digest is known to be right. What it names was given before.
    ///
    /// # Errors
    /// As [`Target::begin`].
    fn put(&self, document: &Descriptor, bytes: &[u8]) -> Result<()>;

    /// Takes a blob of `source` as it is, and sees to it that its digest is right.
    ///
    /// # Errors
    /// As [`Target::begin`].
    fn copy(&self, source: &Arc<dyn Source>, blob: &Descriptor) -> Result<()>;

    /// All is there: what `index` lists becomes images.
    ///
    /// # Errors
    /// As [`Target::begin`], also those of what went on behind the back of the caller.
    fn finish(&self, index: &Value) -> Result<()>;
}

/// The document that `descriptor` describes, its digest checked.
pub(crate) fn document(source: &dyn Source, descriptor: &Descriptor) -> Result<Value> {
    let what = descriptor.digest.to_string();
    parse(&document_bytes(source, descriptor)?, &what)
}

/// The bytes of a manifest, an index or a configuration of `source`, its digest checked.
///
/// # Errors
/// Those of the source, [`Error::TooLarge`] and [`Error::Damaged`].
pub fn document_bytes(source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let what = "the bytes of an index, a manifest or a configuration";
    Error::check_limit(what, descriptor.size, DOCUMENT_BYTES_MAX)?;
    let mut bytes = Vec::new();
    let mut reader = source.read(descriptor)?.take(descriptor.size + 1);
    let read = reader.read_to_end(&mut bytes);
    read.map_err(|source| Error::Copy {
        digest: descriptor.digest.clone(),
        source,
    })?;
    let mut hasher = Hasher::new(descriptor.digest.algorithm());
    hasher.update(&bytes);
    check(descriptor, bytes.len() as u64, &hasher.finish())?;
    Ok(bytes)
}

/// Fails unless the blob that was read is the one that `descriptor` describes.
pub(crate) fn check(descriptor: &Descriptor, bytes: u64, digest: &Digest) -> Result<()> {
    if bytes == descriptor.size && *digest == descriptor.digest {
        return Ok(());
    }
    Err(Error::Damaged {
        digest: descriptor.digest.clone(),
        reason: format!(
            "it has {bytes} bytes of {} and the digest {digest}",
            descriptor.size
        ),
    })
}

/// Reads an object.
pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<Value> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| Error::malformed(what, error.to_string()))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(Error::malformed(what, "it is no object")),
    }
}

/// The list `key` of the document `value`, which is `what`.
pub(crate) fn list<'a>(value: &'a Value, key: &str, what: &str) -> Result<&'a [Value]> {
    match value.get(key) {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(Error::malformed(what, format!("it has no list {key:?}"))),
    }
}

/// The annotations of a descriptor that are texts.
pub(crate) fn annotations(value: &Value) -> BTreeMap<String, String> {
    let annotations = value.get("annotations").and_then(Value::as_object);
    let annotations = annotations.into_iter().flatten();
    annotations
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A blob that tells how far it was read.
pub(crate) struct Counted<F> {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) offset: u64,
    pub(crate) tell: F,
}

impl<F: Fn(u64)> Read for Counted<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.offset += count as u64;
        (self.tell)(self.offset);
        Ok(count)
    }
}
