//! Files that are read as memory.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::Path;

use crate::raw::Pages;
use crate::{Error, Result};

/// A whole file as bytes, for files that nobody changes: the kernel reads its pages when they are looked at and
/// takes them back when memory is short, so it costs no memory of the process's own.
///
/// The file must be complete before it is mapped and neither written to nor cut off until it is dropped; it may be
/// renamed and deleted. A page that the disk fails to read, or that was cut off, ends the process with SIGBUS: keep
/// such files in directories that only the daemon writes to, and replace them by renaming.
pub struct Map {
    /// None for an empty file, which mmap refuses.
    pages: Option<Pages>,
}

impl Map {
    /// Maps the file at `path` as long as it is now.
    pub fn open(path: &Path) -> Result<Self> {
        File::open(path)
            .and_then(|file| Map::whole(&file))
            .map_err(|error| Error::new(format!("map {}", path.display()), error))
    }

    /// Maps `file`, which must be open for reading, as long as it is now. It may be closed afterwards.
    pub fn of(file: &File) -> Result<Self> {
        Map::whole(file).map_err(|error| Error::new("map a file", error))
    }

    fn whole(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            ));
        }
        let length = usize::try_from(metadata.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let pages = match length {
            0 => None,
            _ => Some(Pages::of(file.as_fd(), length)?),
        };
        Ok(Map { pages })
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pages.as_ref().map(Pages::bytes).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("bytes", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    #[test]
    fn a_file_is_read_as_bytes_even_after_it_was_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        fs::write(&path, &bytes).unwrap();
        let map = Map::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(*map, *bytes);
        let map = thread::spawn(move || map).join().unwrap();
        assert_eq!(map.as_ref(), bytes);
        assert_eq!(format!("{map:?}"), "Map { bytes: 40000, .. }");
    }

    #[test]
    fn an_empty_file_is_no_bytes() {
        let file = tempfile::tempfile().unwrap();
        assert!(Map::of(&file).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Map::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        Map::open(&dir.path().join("missing")).unwrap_err();
        let device = File::open("/dev/zero").unwrap();
        Map::of(&device).unwrap_err();
    }

    #[test]
    fn nothing_stays_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-name-like-no-other");
        fs::write(&path, "bytes").unwrap();
        let mapped = || {
            fs::read_to_string("/proc/self/maps")
                .unwrap()
                .contains("a-name-like-no-other")
        };
        let map = Map::open(&path).unwrap();
        assert!(mapped());
        drop(map);
        assert!(!mapped());
    }
}
