//! Layout directories to convert.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pontoon_convert::{Checked, Comparison, Converted, Error, NewLayout, Options, Plan, Selection};
use pontoon_layer::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::gzip;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A layout in the making.
pub(crate) struct Layout {
    place: TempDir,
}

impl Layout {
    pub(crate) fn new() -> Layout {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("blobs/sha256")).unwrap();
        let layout = Layout { place };
        layout.write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
        layout
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    pub(crate) fn write(&self, name: &str, value: &Value) {
        fs::write(self.path().join(name), value.to_string()).unwrap();
    }

    pub(crate) fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        let path = self.path().join("blobs/sha256").join(digest.hex());
        fs::write(path, bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    /// An image with these archives as its layers.
    pub(crate) fn image(&self, architecture: &str, archives: &[&[u8]]) -> Value {
        let ids = archives
            .iter()
            .map(|archive| Digest::of(archive).to_string());
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": ids.collect::<Vec<_>>()},
        });
        let layers = archives
            .iter()
            .map(|archive| self.put(LAYER, &gzip(archive)));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put(CONFIG, config.to_string().as_bytes()),
            "layers": layers.collect::<Vec<_>>(),
            "annotations": {"kept": "yes"},
        });
        let mut descriptor = self.put(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    }

    /// What BuildKit says of an image.
    pub(crate) fn attestation(&self, of: &Value) -> Value {
        let statement = json!({"subject": [{"digest": of["digest"]}]});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put(CONFIG, br#"{"architecture":"unknown","rootfs":{"type":"layers","diff_ids":[]}}"#),
            "layers": [self.put("application/vnd.in-toto+json", statement.to_string().as_bytes())],
        });
        let mut descriptor = self.put(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        descriptor["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": of["digest"],
        });
        descriptor
    }

    pub(crate) fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.write("index.json", &index);
    }
}

pub(crate) fn read(layout: &Path, descriptor: &Value) -> Value {
    let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
    let bytes = fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
    assert_eq!(Digest::of(&bytes), digest);
    assert_eq!(descriptor["size"], bytes.len());
    serde_json::from_slice(&bytes).unwrap()
}

pub(crate) fn index(layout: &Path) -> Value {
    serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap()
}

/// The images of the layout in `from`, converted into the layout `to`.
pub(crate) fn convert(from: &Path, to: &Path, options: &Options<'_>) -> Result<Converted, Error> {
    plan(from)?.run(&NewLayout::create(to, None)?, options, &|_, _| {})
}

/// What is to be done with the layout in `from`.
pub(crate) fn plan(from: &Path) -> Result<Plan, Error> {
    Plan::read(
        Arc::new(pontoon_convert::Layout::open(from, None)?),
        &Selection::default(),
    )
}

/// What is wrong with the layout in `new`, which was made of `old`.
pub(crate) fn check(old: &Path, new: &Path) -> Result<Checked, Error> {
    let layout = |path| pontoon_convert::Layout::open(path, None).map(Arc::new);
    let comparison = Comparison::read(layout(old)?, layout(new)?, &Selection::default());
    comparison?.run(None, &|_, _| {})
}

pub(crate) fn checked(old: &Path, new: &Path) -> Checked {
    check(old, new).unwrap()
}
