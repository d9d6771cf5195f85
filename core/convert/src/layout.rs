//! OCI layout directories (image specification, `image-layout.md`).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use pontoon_layer::{Algorithm, Digest, Hasher};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// The largest index, manifest or configuration, in bytes; containerd's limit is the same.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";

/// What a descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Descriptor {
    /// Reads `value`, which is in `what`.
    pub(crate) fn parse(value: &Value, what: &str) -> Result<Descriptor> {
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
}

/// An annotation of the descriptor `value`.
pub(crate) fn annotation<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get("annotations")?.get(key)?.as_str()
}

/// All annotations of the descriptor `value`.
pub(crate) fn annotations(value: &Value) -> BTreeMap<String, String> {
    let annotations = value.get("annotations").and_then(Value::as_object);
    let pairs = annotations.into_iter().flatten();
    pairs
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A layout that is read.
#[derive(Debug)]
pub(crate) struct Source {
    root: PathBuf,
}

impl Source {
    pub(crate) fn open(root: &Path) -> Result<Source> {
        let source = Source {
            root: root.to_owned(),
        };
        let marker = source.read(&root.join(MARKER))?;
        let version = marker.get("imageLayoutVersion").and_then(Value::as_str);
        match version {
            Some("1.0.0") => Ok(source),
            other => Err(Error::malformed(
                root.join(MARKER).display().to_string(),
                format!("its version is {other:?}, and only \"1.0.0\" is known"),
            )),
        }
    }

    pub(crate) fn index(&self) -> Result<Value> {
        self.read(&self.root.join(INDEX))
    }

    fn read(&self, path: &Path) -> Result<Value> {
        let file = open(path)?;
        let bytes = limited(file, path)?;
        parse(&bytes, &path.display().to_string())
    }

    /// The document that `descriptor` describes, its digest checked.
    pub(crate) fn document(&self, descriptor: &Descriptor) -> Result<Value> {
        let what = descriptor.digest.to_string();
        parse(&self.bytes(descriptor)?, &what)
    }

    /// The bytes of it.
    pub(crate) fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let (file, path) = self.blob(descriptor)?;
        let bytes = limited(file, &path)?;
        let mut hasher = Hasher::new(descriptor.digest.algorithm());
        hasher.update(&bytes);
        check(descriptor, bytes.len() as u64, &hasher.finish())?;
        Ok(bytes)
    }

    /// The file of the blob that `descriptor` describes. Nothing is checked.
    pub(crate) fn blob(&self, descriptor: &Descriptor) -> Result<(File, PathBuf)> {
        let path = place(&self.root, &descriptor.digest);
        Ok((open(&path)?, path))
    }
}

/// Opens a regular file: whoever opens a fifo waits for ever, and what a device says has no end.
fn open(path: &Path) -> Result<File> {
    let cannot = Error::file("cannot open", path);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => File::open(path).map_err(cannot),
        Ok(_) => Err(cannot(io::Error::other("it is no file"))),
        Err(error) => Err(cannot(error)),
    }
}

/// Fails unless the blob that was read is the one that `descriptor` describes.
fn check(descriptor: &Descriptor, bytes: u64, digest: &Digest) -> Result<()> {
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

/// All of a small file.
fn limited(file: File, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (file.take(DOCUMENT_BYTES_MAX + 1))
        .read_to_end(&mut bytes)
        .map_err(Error::file("cannot read", path))?;
    let what = "the bytes of an index, a manifest or a configuration";
    Error::check_limit(what, bytes.len() as u64, DOCUMENT_BYTES_MAX)?;
    Ok(bytes)
}

fn parse(bytes: &[u8], what: &str) -> Result<Value> {
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

fn place(root: &Path, digest: &Digest) -> PathBuf {
    // A digest is of hexadecimal digits and nothing else.
    (root.join("blobs").join(digest.algorithm().name())).join(digest.hex())
}

/// A layout that is written. What is in it is not a layout before [`Target::finish`].
#[derive(Debug)]
pub(crate) struct Target {
    root: PathBuf,
    /// Whether there was no directory before.
    is_new: bool,
    finished: bool,
}

impl Target {
    /// A new one at `root`, which is an empty directory or does not exist.
    pub(crate) fn create(root: &Path) -> Result<Target> {
        let blobs = root.join("blobs").join(Algorithm::Sha256.name());
        let (is_new, is_empty) = match fs::read_dir(root) {
            Ok(mut entries) => (false, entries.next().is_none()),
            Err(error) => (true, error.kind() == io::ErrorKind::NotFound),
        };
        if !is_empty {
            return Err(Error::Option(format!(
                "{} is there already and no empty directory; name another one",
                root.display()
            )));
        }
        fs::create_dir_all(&blobs).map_err(Error::file("cannot make", &blobs))?;
        Ok(Target {
            root: root.to_owned(),
            is_new,
            finished: false,
        })
    }

    /// A file for a blob whose digest is not known yet.
    pub(crate) fn begin(&self) -> Result<NamedTempFile> {
        let blobs = self.root.join("blobs");
        NamedTempFile::new_in(&blobs).map_err(Error::file("cannot make a file in", &blobs))
    }

    /// Gives a file that was begun the name of its `digest`.
    pub(crate) fn keep(&self, file: NamedTempFile, digest: &Digest) -> Result<()> {
        let path = place(&self.root, digest);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(Error::file("cannot make", directory))?;
        }
        let sync = file.as_file().sync_all();
        sync.map_err(Error::file("cannot write", &path))?;
        set_readable(file.as_file()).map_err(Error::file("cannot write", &path))?;
        let kept = file.persist(&path).map_err(|error| error.error);
        kept.map(drop).map_err(Error::file("cannot write", &path))
    }

    /// Writes a document, and answers its digest.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let mut file = self.begin()?;
        let written = file.write_all(bytes);
        written.map_err(Error::file("cannot write", file.path()))?;
        self.keep(file, &digest)?;
        Ok(digest)
    }

    /// Copies a blob from `source`, its digest checked.
    pub(crate) fn copy(&self, source: &Source, descriptor: &Descriptor) -> Result<()> {
        let (file, path) = source.blob(descriptor)?;
        let mut to = self.begin()?;
        let mut hasher = Hasher::new(descriptor.digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        let mut file = file.take(descriptor.size.saturating_add(1));
        loop {
            let count = file.read(&mut buffer);
            let count = count.map_err(Error::file("cannot read", &path))?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            bytes += count as u64;
            let written = to.write_all(&buffer[..count]);
            written.map_err(Error::file("cannot write", to.path()))?;
        }
        check(descriptor, bytes, &hasher.finish())?;
        self.keep(to, &descriptor.digest)
    }

    /// Makes it a layout, with `index`.
    pub(crate) fn finish(mut self, index: &Value) -> Result<()> {
        let marker = Value::Object(Map::from_iter([(
            "imageLayoutVersion".to_owned(),
            json!("1.0.0"),
        )]));
        for (name, value) in [(MARKER, &marker), (INDEX, index)] {
            let path = self.root.join(name);
            let mut file = File::create(&path).map_err(Error::file("cannot make", &path))?;
            let written = file.write_all(value.to_string().as_bytes());
            let written = written.and_then(|()| file.sync_all());
            written.map_err(Error::file("cannot write", &path))?;
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // What stays is no layout, and the next attempt names it.
        let _ = fs::remove_dir_all(self.root.join("blobs"));
        for name in [MARKER, INDEX] {
            let _ = fs::remove_file(self.root.join(name));
        }
        if self.is_new {
            let _ = fs::remove_dir(&self.root);
        }
    }
}

/// Temporary files are for their owner alone.
fn set_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}
