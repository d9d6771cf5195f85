//! OCI images made here, without a network: small ones with every oddity a layer
//! can have, long ones, real ones from Debian packages, and what other people's tools
//! convert them into.

mod convert;
mod debian;
mod heavy;
mod index;
mod layer;
mod layout;
mod lazy;
mod nydus;
mod program;
mod small;
#[cfg(test)]
mod tests;
mod workload;

pub use convert::{
    ADDED_BY_FORMATS, Conversion, Converted, convert, convert_with_prefetch, skopeo, store, verify,
};
pub use debian::debian;
pub use heavy::{HEAVY_LAYERS, heavy, heavy_content, heavy_part};
pub use index::buildkit;
pub(crate) use layer::read_xattrs;
pub use layer::{Layer, LayerBuilder};
pub use layout::{Layout, Spec};
pub use lazy::{SIZES, UNLISTED, lazy_fixture, lazy_fixture_in, noise};
pub use nydus::{NydusImage, gzip_layers, has_nydus_builder, nydus_image};
pub use program::{Program, program};
pub use small::{busybox, many_layers, odd, odd_entries};
pub use workload::{READY, Workload};

/// The architecture of this machine, as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
