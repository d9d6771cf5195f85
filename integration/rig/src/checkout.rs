//! Where things are in the checkout. Nothing is kept outside it.

use std::path::PathBuf;

/// The root of the checkout that this crate was compiled in.
pub fn root() -> PathBuf {
    let mut dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    dir.pop();
    dir.pop();
    dir
}

/// What the rig installs and builds: `target/rig`.
pub fn rig_dir() -> PathBuf {
    root().join("target/rig")
}
