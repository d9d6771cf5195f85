//! Small files that are there as a whole or not at all, also after a power cut.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes `bytes` to `path` in place of what is there. Its directory must be there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new()
        .prefix(NEW)
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// What the names of files begin with that are not whole yet.
const NEW: &str = ".new-";

/// The names in `directory`, without those of files that a crash has cut off: these are deleted.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_name().into_string() {
            Ok(name) if name.starts_with(NEW) => fs::remove_file(entry.path())?,
            Ok(name) => names.push(name),
            // Not ours.
            Err(_) => {}
        }
    }
    Ok(names)
}
