//! Images of other images' layers.

use std::fs;
use std::path::Path;

use pontoon_rig::digest::sha256;
use pontoon_rig::image::Layout;
use serde_json::{Value, json};

/// A layer as an image has it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: String,
    pub(crate) media_type: &'static str,
}

/// The media type of a layer that is compressed.
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The media type of a layer that is not.
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes `image` to `dir`, with `part` above its `below` lowest layers.
pub(crate) fn insert(image: &Layout, dir: &Path, below: usize, part: &Part) -> Layout {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |data: &[u8]| {
        let digest = sha256(data);
        fs::write(blobs.join(&digest["sha256:".len()..]), data).unwrap();
        json!({"digest": digest, "size": data.len()})
    };
    let (config_digest, layers) = image.parts().unwrap();
    for digest in &layers {
        put(&image.blob(digest).unwrap());
    }
    let mut layer = put(&part.blob);
    layer["mediaType"] = part.media_type.into();

    let mut config = parse(&image.blob(&config_digest).unwrap());
    let list = |value: &mut Value, entry: Value| {
        value.as_array_mut().unwrap().insert(below, entry);
    };
    let diff_ids = &mut config["rootfs"]["diff_ids"];
    list(diff_ids, json!(part.diff_id));
    if config["history"].is_array() {
        list(&mut config["history"], json!({"created_by": "a test"}));
    }
    let mut manifest = parse(&image.manifest().unwrap());
    list(&mut manifest["layers"], layer);
    let described = put(config.to_string().as_bytes());
    for field in ["digest", "size"] {
        manifest["config"][field] = described[field].clone();
    }
    let mut descriptor = put(manifest.to_string().as_bytes());
    descriptor["mediaType"] = Layout::manifest_type().into();
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    let version = json!({"imageLayoutVersion": "1.0.0"});
    fs::write(dir.join("oci-layout"), version.to_string()).unwrap();
    Layout::open(dir).unwrap()
}

pub(crate) fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}
