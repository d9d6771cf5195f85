//! OCI layout directories (image specification, `image-layout.md`).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_layer::{Algorithm, Digest, Hasher};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::manifest::set;
use crate::place::{
    DOCUMENT_BYTES_MAX, Descriptor, Source, Target, annotation, check, list, parse,
};

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";

/// The annotation with an image's name in a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

/// A layout that is read.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    name: Option<String>,
}

impl Layout {
    /// The layout in the directory `root`: all images in it, or those that are called `name`.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Malformed`] if it is none.
    pub fn open(root: &Path, name: Option<&str>) -> Result<Layout> {
        let layout = Layout {
            root: root.to_owned(),
            name: name.map(str::to_owned),
        };
        let marker = layout.document(&root.join(MARKER))?;
        let version = marker.get("imageLayoutVersion").and_then(Value::as_str);
        match version {
            Some("1.0.0") => Ok(layout),
            other => Err(Error::malformed(
                root.join(MARKER).display().to_string(),
                format!("its version is {other:?}, and only \"1.0.0\" is known"),
            )),
        }
    }

    fn document(&self, path: &Path) -> Result<Value> {
        let mut bytes = Vec::new();
        let mut file = open(path)?.take(DOCUMENT_BYTES_MAX + 1);
        let read = file.read_to_end(&mut bytes);
        read.map_err(Error::file("cannot read", path))?;
        let what = "the bytes of the index of a layout";
        Error::check_limit(what, bytes.len() as u64, DOCUMENT_BYTES_MAX)?;
        parse(&bytes, &path.display().to_string())
    }
}

impl Source for Layout {
    fn index(&self) -> Result<Value> {
        let path = self.root.join(INDEX);
        let mut index = self.document(&path)?;
        let Some(name) = self.name.as_deref() else {
            return Ok(index);
        };
        let what = path.display().to_string();
        let entries = list(&index, "manifests", &what)?;
        let is_wanted = |entry: &&Value| annotation(entry, NAME) == Some(name);
        let chosen: Vec<Value> = entries.iter().filter(is_wanted).cloned().collect();
        if chosen.is_empty() {
            let names = entries.iter().filter_map(|entry| annotation(entry, NAME));
            let names: Vec<&str> = names.collect();
            return Err(Error::Option(format!(
                "{} has no image called {name:?}; it has {names:?}: name one of them, or none for all",
                self.root.display()
            )));
        }
        set(&mut index, "manifests", Value::Array(chosen));
        Ok(index)
    }

    fn read(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(open(&place(&self.root, &blob.digest))?))
    }

    fn has(&self, blob: &Descriptor) -> Result<bool> {
        // What is there and no file is an error for who reads it.
        Ok(place(&self.root, &blob.digest).exists())
    }

    fn file(&self, blob: &Descriptor, _tell: &dyn Fn(u64)) -> Result<File> {
        open(&place(&self.root, &blob.digest))
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

fn place(root: &Path, digest: &Digest) -> PathBuf {
    // A digest is of hexadecimal digits and nothing else.
    (root.join("blobs").join(digest.algorithm().name())).join(digest.hex())
}

/// A layout that is written. What is in it is not a layout before [`Target::finish`], and nothing stays of it if that is
/// never called.
#[derive(Debug)]
pub struct NewLayout {
    root: PathBuf,
    name: Option<String>,
    /// Whether there was no directory before.
    is_new: bool,
    finished: AtomicBool,
}

impl NewLayout {
    /// A new one at `root`, which is an empty directory or does not exist. Its images are to be called `name`.
    ///
    /// # Errors
    /// [`Error::Option`] if something is there, [`Error::File`] if nothing can be made there.
    pub fn create(root: &Path, name: Option<&str>) -> Result<NewLayout> {
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
        Ok(NewLayout {
            root: root.to_owned(),
            name: name.map(str::to_owned),
            is_new,
            finished: AtomicBool::new(false),
        })
    }

    /// Gives a file the name of its `digest`.
    fn name(&self, file: NamedTempFile, digest: &Digest) -> Result<()> {
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
}

impl Target for NewLayout {
    fn begin(&self) -> Result<NamedTempFile> {
        let blobs = self.root.join("blobs");
        NamedTempFile::new_in(&blobs).map_err(Error::file("cannot make a file in", &blobs))
    }

    fn keep(&self, file: NamedTempFile, blob: &Descriptor) -> Result<()> {
        self.name(file, &blob.digest)
    }

    fn put(&self, document: &Descriptor, bytes: &[u8]) -> Result<()> {
        let mut file = self.begin()?;
        let written = file.write_all(bytes);
        written.map_err(Error::file("cannot write", file.path()))?;
        self.name(file, &document.digest)
    }

    fn copy(&self, source: &Arc<dyn Source>, blob: &Descriptor) -> Result<()> {
        let unreadable = |source| Error::Copy {
            digest: blob.digest.clone(),
            source,
        };
        let mut to = self.begin()?;
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = 0;
        let mut reader = source.read(blob)?.take(blob.size.saturating_add(1));
        loop {
            let count = reader.read(&mut buffer).map_err(unreadable)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            bytes += count as u64;
            let written = to.write_all(&buffer[..count]);
            written.map_err(Error::file("cannot write", to.path()))?;
        }
        check(blob, bytes, &hasher.finish())?;
        self.name(to, &blob.digest)
    }

    fn finish(&self, index: &Value) -> Result<()> {
        let marker = Value::Object(Map::from_iter([(
            "imageLayoutVersion".to_owned(),
            json!("1.0.0"),
        )]));
        let mut index = index.clone();
        if let Some(name) = &self.name {
            let entries = index.get_mut("manifests").and_then(Value::as_array_mut);
            for entry in entries.into_iter().flatten() {
                if entry.get("annotations").is_none() {
                    set(entry, "annotations", json!({}));
                }
                if let Some(annotations) = entry.get_mut("annotations") {
                    set(annotations, NAME, json!(name));
                }
            }
        }
        for (name, value) in [(MARKER, &marker), (INDEX, &index)] {
            let path = self.root.join(name);
            let mut file = File::create(&path).map_err(Error::file("cannot make", &path))?;
            let written = file.write_all(value.to_string().as_bytes());
            let written = written.and_then(|()| file.sync_all());
            written.map_err(Error::file("cannot write", &path))?;
        }
        self.finished.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for NewLayout {
    fn drop(&mut self) {
        if *self.finished.get_mut() {
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
