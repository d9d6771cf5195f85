//! What directories get in the end.

use std::collections::BTreeMap;
use std::ops::Bound;

use pontoon_layer::{Attributes, Time};

use crate::archive::Entry;
use crate::error::{Error, Result};

/// Bytes that a directory costs besides its path and its extended attributes, roughly.
const OVERHEAD_BYTES: usize = 128;

/// What a directory gets in the end.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) attributes: Attributes,
    /// Of the last access and the last change. `None` where nobody says.
    pub(super) times: Option<(Time, Time)>,
}

impl Directory {
    /// A directory that the archive lists.
    pub(super) fn listed(entry: &Entry) -> Directory {
        Directory {
            attributes: Attributes {
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                mtime: entry.mtime,
                xattrs: entry.xattrs.clone(),
            },
            times: Some((entry.atime, entry.mtime)),
        }
    }

    /// A directory that the archive only has something in, with what was found below.
    pub(super) fn implied(found: Option<Attributes>) -> Directory {
        let times = found.as_ref().map(|found| (found.mtime, found.mtime));
        let attributes = found.unwrap_or_else(|| Attributes {
            mode: 0o755,
            ..Attributes::default()
        });
        Directory { attributes, times }
    }
}

/// Directories by where they are: clean paths without symbolic links.
#[derive(Debug)]
pub(super) struct Directories {
    dirs: BTreeMap<Vec<u8>, Directory>,
    bytes: usize,
    bytes_max: usize,
}

impl Directories {
    pub(super) fn new(bytes_max: usize) -> Self {
        Directories {
            dirs: BTreeMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Remembers the directory at `path`, in place of what was known of it.
    pub(super) fn insert(&mut self, path: Vec<u8>, directory: Directory) -> Result<()> {
        self.forget(&path);
        self.bytes += cost(&path, &directory);
        if self.bytes > self.bytes_max {
            return Err(Error::TooLarge {
                what: "the bytes of the names and attributes of all directories",
                limit: self.bytes_max as u64,
            });
        }
        self.dirs.insert(path, directory);
        Ok(())
    }

    /// Forgets the directory at `path` and those in it.
    pub(super) fn remove(&mut self, path: &[u8]) {
        self.forget(path);
        let inside = [path, b"/"].concat();
        let range = (Bound::Included(inside.clone()), Bound::Unbounded);
        let paths = self.dirs.range::<Vec<u8>, _>(range);
        let gone: Vec<Vec<u8>> = paths
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&inside))
            .cloned()
            .collect();
        for path in gone {
            self.forget(&path);
        }
    }

    /// All of them, each before the one that it is in.
    pub(super) fn inside_first(&self) -> impl Iterator<Item = (&Vec<u8>, &Directory)> {
        self.dirs.iter().rev()
    }

    fn forget(&mut self, path: &[u8]) {
        if let Some(directory) = self.dirs.remove(path) {
            self.bytes -= cost(path, &directory);
        }
    }
}

fn cost(path: &[u8], directory: &Directory) -> usize {
    let xattrs = &directory.attributes.xattrs;
    let xattrs: usize = xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    OVERHEAD_BYTES + path.len() + xattrs
}
