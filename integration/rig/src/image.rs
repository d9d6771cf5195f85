//! OCI images made here, without a network: small ones with every oddity a layer
//! can have, long ones, and a real one from Debian packages.

mod debian;
mod layer;
mod layout;
mod small;

pub use debian::debian;
pub(crate) use layer::read_xattrs;
pub use layer::{Layer, LayerBuilder};
pub use layout::{Layout, Spec};
pub use small::{busybox, many_layers, odd, odd_entries};

/// The architecture of this machine, as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
