//! Generates the Rust code of the wire contract from `proto/protos`, without protoc.
//!
//! The result is checked in below `proto/src/generated`, so that an ordinary build generates nothing.

use std::error::Error;
use std::path::Path;

const SERVICES: &[&str] = &[
    "containerd/services/content/v1/content.proto",
    "containerd/services/images/v1/images.proto",
    "containerd/services/leases/v1/leases.proto",
    "containerd/services/snapshots/v1/snapshots.proto",
];

/// Compiles the protos in the directory `protos` and writes one Rust file per package into `out`.
pub fn generate(protos: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(SERVICES, [protos])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".containerd.services.content.v1")
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(out)
        .compile_fds(descriptors)?;
    Ok(())
}
