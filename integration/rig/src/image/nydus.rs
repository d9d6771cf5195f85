//! Images in nydus' form: small ones that its builder made once, and others that it makes where it is installed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flate2::read::{GzDecoder, MultiGzDecoder};

use super::layer::LAYER_TYPE;
use super::small::{base, shell};
use super::{Layer, LayerBuilder, Layout};
use crate::checkout;
use crate::command::run;
use crate::digest;
use crate::error::{At, Error, Result};
use crate::tools::rival;

const LIMIT: Duration = Duration::from_mins(5);

/// Version 2.2 of it (`cargo install nydus-rs@2.2.0 --locked`, four minutes).
const BUILDER: &str = "nydus-image";

const DATA_TYPE: &str = "application/vnd.oci.image.layer.nydus.blob.v1";

/// A tar header behind a blob, and where it says how long what is before it is.
const HEADER_BYTES: usize = 512;
const HEADER_SIZE: std::ops::Range<usize> = 124..135;

/// An image that was made once (`core/layer/tests/rafs/make.sh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NydusImage {
    /// Everything that a tree can have; zstd and BLAKE3.
    Tree,
    /// The same with lz4.
    TreeLz4,
    /// The same, not compressed, with SHA-256.
    TreePlain,
    /// Two layers, merged.
    Merged,
    /// RAFS v5.
    Five,
    /// Two layers over ordinary ones, which stay as they are: [`gzip_layers`].
    OverGzip,
}

impl NydusImage {
    /// Bootstrap and blobs.
    fn parts(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Tree => ("zstd", &["zstd.blob"]),
            Self::TreeLz4 => ("lz4", &["lz4.blob"]),
            Self::TreePlain => ("none", &["none.blob"]),
            Self::Merged => ("merged", &["lower.blob", "upper.blob"]),
            Self::Five => ("five", &["next.blob"]),
            Self::OverGzip => ("both", &["under.index", "over.index"]),
        }
    }

    /// Its files and their digests in hexadecimal digits, those whose names need no quoting.
    pub fn files(self) -> Result<Vec<(String, String)>> {
        let list = match self {
            Self::Merged => "merged.jsonl.gz",
            Self::OverGzip => "both.jsonl.gz",
            _ => "tree.jsonl.gz",
        };
        let lines = String::from_utf8_lossy(&unzipped(list)?).into_owned();
        let mut files = Vec::new();
        for line in lines.lines() {
            let entry: serde_json::Value = serde_json::from_str(line)
                .map_err(|error| Error::unexpected(list, error.to_string()))?;
            let (Some(path), Some(digest)) = (entry["path"].as_str(), entry["sha256"].as_str())
            else {
                continue;
            };
            let path: Option<Vec<u8>> = path
                .as_bytes()
                .chunks(2)
                .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
                .collect();
            let path = path.and_then(|path| String::from_utf8(path).ok());
            if let Some(path) = path.filter(|path| path.is_ascii()) {
                files.push((path, digest.to_owned()));
            }
        }
        Ok(files)
    }
}

/// Writes an image to `dir`: its layers of data, its bootstrap, and an ordinary layer with a shell on top.
pub fn nydus_image(image: NydusImage, dir: &Path) -> Result<Layout> {
    let (boot, blobs) = image.parts();
    let mut layers = Vec::new();
    for blob in blobs {
        layers.push(data(read(blob)?));
    }
    layers.push(bootstrap(&unzipped(&format!("{boot}.boot.gz"))?, "6")?);
    layers.push(base()?);
    Layout::write(dir, &shell(), &layers)
}

/// Writes the image to `dir` over which [`NydusImage::OverGzip`] is: that needs its layers in the same repository.
pub fn gzip_layers(dir: &Path) -> Result<Layout> {
    let mut layers = Vec::new();
    for name in ["under.tar.gz", "over.tar.gz"] {
        let blob = read(name)?;
        let mut tar = Vec::new();
        // One of them is several gzip members.
        let unpacked = MultiGzDecoder::new(&*blob).read_to_end(&mut tar);
        unpacked.at("decompress", name)?;
        layers.push(Layer {
            diff_id: digest::sha256(&tar),
            blob,
            media_type: LAYER_TYPE,
            annotations: Vec::new(),
        });
    }
    Layout::write(dir, &shell(), &layers)
}

fn read(name: &str) -> Result<Vec<u8>> {
    let path = checkout::root().join("core/layer/tests/rafs").join(name);
    fs::read(&path).at("read", &path)
}

fn unzipped(name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let packed = read(name)?;
    let read = GzDecoder::new(&*packed).read_to_end(&mut bytes);
    read.at("decompress", name).map(|_| bytes)
}

fn data(blob: Vec<u8>) -> Layer {
    Layer {
        diff_id: digest::sha256(&blob),
        blob,
        media_type: DATA_TYPE,
        annotations: vec![("containerd.io/snapshot/nydus-blob", "true".into())],
    }
}

fn bootstrap(boot: &[u8], version: &str) -> Result<Layer> {
    let mut builder = LayerBuilder::new();
    builder.dir("image", 0o755, 0, 0)?;
    builder.file("image/image.boot", 0o444, 0, 0, boot)?;
    let mut layer = builder.finish()?;
    layer.annotations = vec![
        ("containerd.io/snapshot/nydus-bootstrap", "true".into()),
        ("containerd.io/snapshot/nydus-fs-version", version.into()),
    ];
    Ok(layer)
}

pub(super) fn version() -> Result<String> {
    let told = run(Command::new(rival(BUILDER)?).arg("--version"), LIMIT)?;
    Ok(told.stdout)
}

/// What a merge has to know of a blob.
struct Blob {
    digest: String,
    size: u64,
    toc_digest: String,
    toc_size: usize,
    layer: Layer,
}

/// Converts `image` as nydusify does, each layer a blob and one bootstrap of all, but for the `above` topmost layers,
/// which stay as they are.
pub(super) fn convert(image: &Layout, above: usize, into: &Path) -> Result<()> {
    let builder = &rival(BUILDER)?;
    let work = into.join("work");
    fs::create_dir_all(&work).at("create", &work)?;
    let (_, digests) = image.parts()?;
    let count = digests.len().saturating_sub(above);
    let (below, rest) = digests.split_at(count);
    let mut blobs = Vec::new();
    let mut boots = Vec::new();
    for (number, digest) in below.iter().enumerate() {
        let boot = work.join(format!("{number}.boot"));
        blobs.push(layer(&image.blob(digest)?, builder, &work, &boot)?);
        boots.push(boot);
    }
    let merged = work.join("merged.boot");
    merge(builder, &blobs, &boots, &merged)?;
    let merged = fs::read(&merged).at("read", &merged)?;
    let mut layers: Vec<Layer> = blobs.into_iter().map(|blob| blob.layer).collect();
    layers.push(bootstrap(&merged, "6")?);
    let ids = image.diff_ids()?.split_off(count);
    for (digest, id) in rest.iter().zip(ids) {
        layers.push(Layer::ordinary(image.blob(digest)?, id));
    }
    fs::remove_dir_all(&work).at("delete", &work)?;
    Layout::write(&into.join("image"), &image.spec()?, &layers).map(drop)
}

/// Makes a blob of one layer, and its bootstrap.
fn layer(packed: &[u8], builder: &Path, work: &Path, boot: &Path) -> Result<Blob> {
    let (archive, source) = (work.join("layer.tar.gz"), work.join("source"));
    fs::write(&archive, packed).at("write", &archive)?;
    fs::create_dir_all(&source).at("create", &source)?;
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--gzip",
        "--preserve-permissions",
        "--numeric-owner",
        // What comes later into a directory does not change its time.
        "--delay-directory-restore",
    ]);
    tar.args(["--xattrs", "--xattrs-include=*", "--file"])
        .arg(&archive);
    run(tar.arg("--directory").arg(&source), LIMIT)?;
    let blob = work.join("blob");
    let mut create = Command::new(builder);
    create.args(["create", "--log-level", "warn", "--type", "dir-rafs"]);
    // Whiteouts stay for the merge.
    create.args(["--whiteout-spec", "none", "--features", "blob-toc"]);
    create.arg("--bootstrap").arg(boot).arg("--blob").arg(&blob);
    run(create.arg(&source), LIMIT)?;
    let mut content = Vec::new();
    let read = File::open(&blob).and_then(|mut file| file.read_to_end(&mut content));
    read.at("read", &blob)?;
    fs::remove_dir_all(&source).at("delete", &source)?;
    let header = content.len().checked_sub(HEADER_BYTES);
    let size = header.and_then(|at| content.get(at..)?.get(HEADER_SIZE));
    let size =
        size.and_then(|digits| usize::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
    let toc_size = size.map(|size| size + HEADER_BYTES);
    let toc = toc_size.and_then(|size| content.get(content.len().checked_sub(size)?..));
    let (Some(toc), Some(toc_size)) = (toc, toc_size) else {
        return Err(Error::unexpected(
            "a blob of nydus-image",
            "it has no table of contents",
        ));
    };
    Ok(Blob {
        digest: digest::sha256(&content),
        size: content.len() as u64,
        toc_digest: digest::sha256(toc),
        toc_size,
        layer: data(content),
    })
}

fn merge(builder: &Path, blobs: &[Blob], boots: &[PathBuf], merged: &Path) -> Result<()> {
    let all = |what: &dyn Fn(&Blob) -> String| {
        let values: Vec<String> = blobs.iter().map(what).collect();
        values.join(",")
    };
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    let mut merge = Command::new(builder);
    merge
        .args(["merge", "--log-level", "warn", "--bootstrap"])
        .arg(merged);
    merge
        .arg("--blob-digests")
        .arg(all(&|blob| hex(&blob.digest)));
    merge
        .arg("--blob-sizes")
        .arg(all(&|blob| blob.size.to_string()));
    merge
        .arg("--blob-toc-digests")
        .arg(all(&|blob| hex(&blob.toc_digest)));
    merge
        .arg("--blob-toc-sizes")
        .arg(all(&|blob| blob.toc_size.to_string()));
    run(merge.args(boots), LIMIT).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_were_made_once_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        for image in [NydusImage::Tree, NydusImage::Merged, NydusImage::OverGzip] {
            let layout = nydus_image(image, &dir.path().join(format!("{image:?}"))).unwrap();
            let (_, blobs) = image.parts();
            let (_, layers) = layout.parts().unwrap();
            assert_eq!(layers.len(), blobs.len() + 2);
            assert_eq!(layout.diff_ids().unwrap().len(), layers.len());
        }
        let below = gzip_layers(&dir.path().join("below")).unwrap();
        assert_eq!(below.diff_ids().unwrap().len(), 2);
        let files = NydusImage::Merged.files().unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["keep/file", "opaque/seen", "replaced"]);
        assert!(NydusImage::Tree.files().unwrap().len() > 250);
    }
}
