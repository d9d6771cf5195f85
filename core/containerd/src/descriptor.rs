//! What a blob is and how it is found.

use std::collections::BTreeMap;

use pontoon_layer::Digest;

/// What a blob is and how it is found, as OCI's image specification has it (`descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Of what kind it is.
    pub media_type: String,
    /// What it is called.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// What else is said about it.
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Under which reference containerd writes it (`core/remotes/handlers.go`, `MakeRefKey`). With the same one we go
    /// on where an interrupted pull stopped, and never write beside one that is under way.
    pub(crate) fn write_reference(&self) -> String {
        let kind = match self.media_type.as_str() {
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => "manifest",
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => "index",
            "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json" => "config",
            other if other.contains(".layer.") || other.contains(".rootfs.") => "layer",
            _ => "unknown",
        };
        format!("{kind}-{}", self.digest)
    }
}
