//! An image for several platforms.

use std::path::Path;

use serde_json::{Value, json};

use super::small::{base, shell};
use super::{LayerBuilder, Layout, architecture, noise};
use crate::digest;
use crate::error::Result;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Writes to `dir` an index as BuildKit makes it: the image of this machine and that of another, which share their base
/// layer, and what is attested of this machine's. Its index is what [`Layout::manifest`] gives.
pub fn buildkit(dir: &Path) -> Result<Layout> {
    let other = match architecture() {
        "arm64" => "amd64",
        _ => "arm64",
    };
    let mut images = Vec::new();
    for name in [architecture(), other] {
        let mut own = LayerBuilder::new();
        own.dir("own", 0o755, 0, 0)?;
        own.file("own/architecture", 0o644, 0, 0, name.as_bytes())?;
        let seed = name.len() as u64;
        own.file("own/noise", 0o640, 1, 2, &noise(seed, 300_000))?;
        own.hardlink("own/again", "own/noise", 0o640, 1, 2)?;
        let mut changes = LayerBuilder::new();
        changes.dir("data", 0o755, 0, 0)?;
        changes.whiteout("data/removed")?;
        changes.file("data/added", 0o600, 3, 4, &noise(seed + 1, 70_000))?;
        let layers = [base()?, own.finish()?, changes.finish()?];
        let layout = Layout::write_for(name, dir, &shell(), &layers)?;
        let manifest = layout.manifest_digest()?;
        let mut entry = layout.describe(Layout::manifest_type(), &manifest)?;
        entry["platform"] = json!({"os": "linux", "architecture": name});
        images.push(entry);
    }
    let layout = Layout::open(dir)?;
    let attestation = attest(&layout, &images[0])?;
    images.push(attestation);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
    let index = layout.put(INDEX, index.to_string().as_bytes())?;
    layout.list(&[index])?;
    Ok(layout)
}

/// What BuildKit attests of an image.
fn attest(layout: &Layout, image: &Value) -> Result<Value> {
    let subject = &image["digest"];
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [{"name": "_", "digest": {"sha256": subject}}],
    });
    let statement = statement.to_string();
    let mut layer = layout.put("application/vnd.in-toto+json", statement.as_bytes())?;
    layer["annotations"]["in-toto.io/predicate-type"] = json!("https://slsa.dev/provenance/v0.2");
    let config = json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest::sha256(statement.as_bytes())]},
    });
    let config = layout.put(Layout::config_type(), config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": Layout::manifest_type(),
        "config": config,
        "layers": [layer],
    });
    let mut entry = layout.put(Layout::manifest_type(), manifest.to_string().as_bytes())?;
    entry["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    entry["annotations"] = json!({
        "vnd.docker.reference.digest": subject,
        "vnd.docker.reference.type": "attestation-manifest",
    });
    Ok(entry)
}
