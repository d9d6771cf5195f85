//! Images in nydus' form, as our own command makes them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Layer, Layout};
use crate::command::run;
use crate::error::{At, Result};
use crate::plugin::find_binary;

const LIMIT: Duration = Duration::from_mins(5);

/// The program.
const COMMAND: &str = "pontoon";

/// Another string where the program is another one.
pub(super) fn version() -> Result<String> {
    let path = find_binary(COMMAND)?;
    let found = fs::metadata(&path).at("stat", &path)?;
    let (size, seconds, rest) = (found.size(), found.mtime(), found.mtime_nsec());
    Ok(format!("{size} {seconds}.{rest}"))
}

/// Converts all layers of `image`.
pub(super) fn convert(image: &Layout, arguments: &[&str], into: &Path) -> Result<()> {
    nydus(image.dir(), arguments, &into.join("image"))
}

/// Converts all layers of `image` but the topmost one, which stays as it is.
pub(super) fn convert_base(image: &Layout, into: &Path) -> Result<()> {
    let (_, digests) = image.parts()?;
    let mut layers = Vec::new();
    for (digest, id) in digests.iter().zip(image.diff_ids()?) {
        layers.push(Layer::ordinary(image.blob(digest)?, id));
    }
    let top = layers.pop();
    let (source, base) = (into.join("source"), into.join("base"));
    Layout::write(&source, &image.spec()?, &layers)?;
    nydus(&source, &[], &base)?;
    let converted = Layout::open(&base)?;
    if let Some(top) = top {
        let below = converted.diff_ids()?.len();
        converted.insert(&into.join("image"), below, &top)?;
    }
    fs::remove_dir_all(&source).at("delete", &source)?;
    fs::remove_dir_all(&base).at("delete", &base)
}

fn nydus(from: &Path, arguments: &[&str], to: &Path) -> Result<()> {
    let mut command = Command::new(find_binary(COMMAND)?);
    command.args(["convert", "--to", "nydus"]).args(arguments);
    command.arg(from).arg(to);
    run(&mut command, LIMIT).map(drop)
}
