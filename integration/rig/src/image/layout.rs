//! An image as an OCI layout directory (OCI image specification, image-layout.md).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Layer, architecture};
use crate::digest;
use crate::error::{At, Error, Result};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What an image is made of, beside its layers.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `NAME=value` pairs.
    pub environment: Vec<String>,
}

/// An OCI layout directory with one image.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Writes an image of `layers` (the lowest first) to `dir`.
    pub fn write(dir: &Path, spec: &Spec, layers: &[Layer]) -> Result<Self> {
        Self::write_for(architecture(), dir, spec, layers)
    }

    /// The same, for machines of that architecture.
    pub(super) fn write_for(
        architecture: &str,
        dir: &Path,
        spec: &Spec,
        layers: &[Layer],
    ) -> Result<Self> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("create", &blobs)?;
        let layout = Self { dir: dir.into() };
        let diff_ids: Vec<&str> = layers.iter().map(|l| l.diff_id.as_str()).collect();
        let history: Vec<Value> = layers
            .iter()
            .map(|_| json!({"created_by": "pontoon-rig"}))
            .collect();
        let config = json!({
            "created": "2024-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": spec.command, "Env": spec.environment},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = layout.put(CONFIG, config.to_string().as_bytes())?;
        let descriptors = layers.iter().map(|layer| {
            let mut descriptor = layout.put(layer.media_type, &layer.blob)?;
            for (name, value) in &layer.annotations {
                descriptor["annotations"][name] = json!(value);
            }
            Ok(descriptor)
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": descriptors.collect::<Result<Vec<_>>>()?,
        });
        let manifest = layout.put(MANIFEST, manifest.to_string().as_bytes())?;
        layout.list(&[manifest])?;
        let path = dir.join("oci-layout");
        fs::write(&path, json!({"imageLayoutVersion": "1.0.0"}).to_string()).at("write", &path)?;
        Ok(layout)
    }

    /// Writes which manifests and indexes are in it.
    pub(super) fn list(&self, entries: &[Value]) -> Result<()> {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        let path = self.dir.join("index.json");
        fs::write(&path, index.to_string()).at("write", &path)
    }

    /// Opens a layout that was written before.
    pub fn open(dir: &Path) -> Result<Self> {
        let layout = Self { dir: dir.into() };
        layout.manifest_digest()?;
        Ok(layout)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The digest of its manifest.
    pub fn manifest_digest(&self) -> Result<String> {
        let path = self.dir.join("index.json");
        let index = parse(&path, &fs::read(&path).at("read", &path)?)?;
        text(&index["manifests"][0]["digest"], &path)
    }

    /// Its manifest, as it is stored.
    pub fn manifest(&self) -> Result<Vec<u8>> {
        self.blob(&self.manifest_digest()?)
    }

    /// The media type of its manifest.
    pub fn manifest_type() -> &'static str {
        MANIFEST
    }

    /// The media type of its configuration.
    pub(super) fn config_type() -> &'static str {
        CONFIG
    }

    /// The digests of its config and layers, the lowest layer first.
    pub fn parts(&self) -> Result<(String, Vec<String>)> {
        let manifest = parse(&self.dir, &self.manifest()?)?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let layers = layers.map(|layer| text(&layer["digest"], &self.dir));
        Ok((
            text(&manifest["config"]["digest"], &self.dir)?,
            layers.collect::<Result<_>>()?,
        ))
    }

    /// What it is made of beside its layers.
    pub fn spec(&self) -> Result<Spec> {
        let config = parse(&self.dir, &self.blob(&self.parts()?.0)?)?;
        let texts = |value: &Value| {
            let texts = value.as_array().into_iter().flatten();
            let texts = texts.map(|value| text(value, &self.dir));
            texts.collect::<Result<Vec<_>>>()
        };
        Ok(Spec {
            command: texts(&config["config"]["Cmd"])?,
            environment: texts(&config["config"]["Env"])?,
        })
    }

    /// The digest of each layer's archive, the lowest first.
    pub fn diff_ids(&self) -> Result<Vec<String>> {
        let config = parse(&self.dir, &self.blob(&self.parts()?.0)?)?;
        let ids = config["rootfs"]["diff_ids"].as_array();
        let ids = ids.into_iter().flatten();
        ids.map(|id| text(id, &self.dir)).collect()
    }

    /// The chain id of each layer, the lowest first (OCI image specification,
    /// config.md, "Layer ChainID").
    pub fn chain_ids(&self) -> Result<Vec<String>> {
        let mut chain: Vec<String> = Vec::new();
        for diff_id in self.diff_ids()? {
            chain.push(match chain.last() {
                None => diff_id,
                Some(parent) => digest::sha256(format!("{parent} {diff_id}").as_bytes()),
            });
        }
        Ok(chain)
    }

    /// The content of the blob with that digest.
    pub fn blob(&self, digest: &str) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        fs::read(&path).at("read", &path)
    }

    /// The size of its layers and documents, in bytes.
    pub fn size(&self) -> Result<u64> {
        let (config, layers) = self.parts()?;
        let sizes = [config].into_iter().chain(layers).map(|digest| {
            let path = self.blob_path(&digest);
            Ok(fs::metadata(&path).at("stat", &path)?.len())
        });
        sizes.sum()
    }

    /// Writes it as a tar archive in which the image is called `reference`, the form
    /// that `ctr images import` reads.
    pub fn archive(&self, reference: &str, path: &Path) -> Result<()> {
        let file = fs::File::create(path).at("create", path)?;
        let mut tar = tar::Builder::new(file);
        let index_path = self.dir.join("index.json");
        let mut index = parse(&index_path, &fs::read(&index_path).at("read", &index_path)?)?;
        index["manifests"][0]["annotations"] = json!({"io.containerd.image.name": reference});
        let index = index.to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(index.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "index.json", index.as_bytes())
            .at("write", path)?;
        let layout = self.dir.join("oci-layout");
        tar.append_path_with_name(&layout, "oci-layout")
            .at("archive", &layout)?;
        tar.append_dir_all("blobs", self.dir.join("blobs"))
            .at("archive", &self.dir)?;
        tar.finish().at("write", path)
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replacen(':', "/", 1))
    }

    /// Stores a blob and describes it.
    pub(super) fn put(&self, media_type: &str, data: &[u8]) -> Result<Value> {
        let digest = digest::sha256(data);
        let path = self.blob_path(&digest);
        fs::write(&path, data).at("write", &path)?;
        self.describe(media_type, &digest)
    }

    /// Describes a blob that is in it.
    pub(super) fn describe(&self, media_type: &str, digest: &str) -> Result<Value> {
        let size = self.blob(digest)?.len();
        Ok(json!({"mediaType": media_type, "digest": digest, "size": size}))
    }
}

fn parse(path: &Path, data: &[u8]) -> Result<Value> {
    serde_json::from_slice(data)
        .map_err(|e| Error::unexpected(path.to_string_lossy(), format!("not JSON: {e}")))
}

fn text(value: &Value, path: &Path) -> Result<String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| Error::unexpected(path.to_string_lossy(), "not an OCI layout"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::LayerBuilder;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let layer = |text: &[u8]| {
            let mut layer = LayerBuilder::new();
            layer.file("file", 0o644, 0, 0, text).unwrap();
            layer.finish().unwrap()
        };
        let layers = [layer(b"one"), layer(b"two")];
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::write(dir.path(), &Spec::default(), &layers).unwrap();
        let chain = layout.chain_ids().unwrap();
        assert_eq!(chain[0], layers[0].diff_id);
        let joined = format!("{} {}", layers[0].diff_id, layers[1].diff_id);
        assert_eq!(chain[1], digest::sha256(joined.as_bytes()));
        let (_, parts) = layout.parts().unwrap();
        assert_eq!(layout.blob(&parts[1]).unwrap(), layers[1].blob);
        assert_eq!(digest::sha256(&layers[1].blob), parts[1]);
    }
}
