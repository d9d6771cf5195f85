//! `cargo xtask bench NAME`: builds what is measured as it is packaged and measures it.

use std::error::Error;
use std::path::Path;
use std::process::Command;

/// Builds the daemons and runs the benchmark that `arguments` name, with the rest of them as its own.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--profile",
            "dist",
            "--package",
            "pontoon-overlayfs",
            "--package",
            "pontoon-bench",
        ])
        .current_dir(root)
        .status()?;
    if !built.success() {
        return Err("building the daemons failed; see above".into());
    }
    let measured = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--profile",
            "dist",
            "--package",
            "pontoon-bench",
            "--",
        ])
        .args(arguments)
        .current_dir(root)
        .status()?;
    if measured.success() {
        Ok(())
    } else {
        Err("the benchmark failed; see above".into())
    }
}
