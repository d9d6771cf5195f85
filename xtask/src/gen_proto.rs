//! `cargo xtask gen-proto`: writes the generated code of the wire contract again.

use std::error::Error;
use std::path::Path;
use std::process::Command;

/// Generates `proto/src/generated` from `proto/protos`.
pub(crate) fn run(root: &Path) -> Result<(), Box<dyn Error>> {
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "pontoon-proto-gen", "--"])
        .args(["proto/protos", "proto/src/generated"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        return Err("generating the code of proto/protos failed; see above".into());
    }
    println!("proto/src/generated is up to date");
    Ok(())
}
