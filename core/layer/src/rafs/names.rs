//! Finds files by their paths, without a tree of all of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Bootstrap;
use crate::error::FormatError;
use crate::path::path_names;

/// What directories of a bootstrap hold, as far as anybody has asked.
#[derive(Debug)]
pub struct Names<'b, 'a> {
    boot: &'b Bootstrap<'a>,
    /// By the number of a directory's inode.
    directories: HashMap<u64, HashMap<&'a [u8], u64>>,
    names: u64,
}

impl<'a> Bootstrap<'a> {
    /// Finds its files.
    pub fn names(&self) -> Names<'_, 'a> {
        Names {
            boot: self,
            directories: HashMap::new(),
            names: 0,
        }
    }
}

impl Names<'_, '_> {
    /// The number of the inode of the regular file at `path`, which is no symbolic link and goes through none; `None` if
    /// there is no such file. The table of files to fetch early holds such numbers.
    pub fn file(&mut self, path: &[u8]) -> Result<Option<u64>, FormatError> {
        let mut at = self.boot.root;
        for name in path_names(path) {
            if !self.boot.inode(at)?.is_directory() {
                return Ok(None);
            }
            match self.directory(at)?.get(name) {
                Some(found) => at = *found,
                None => return Ok(None),
            }
        }
        Ok((self.boot.inode(at)?.is_file()).then_some(at))
    }

    fn directory(&mut self, nid: u64) -> Result<&HashMap<&[u8], u64>, FormatError> {
        let place = match self.directories.entry(nid) {
            Entry::Occupied(known) => return Ok(known.into_mut()),
            Entry::Vacant(place) => place,
        };
        let boot = self.boot;
        let mut names = HashMap::new();
        boot.list(&boot.inode(nid)?, |name, nid| {
            self.names += 1;
            FormatError::check_limit(
                "the number of names in the image",
                self.names,
                u64::from(boot.limits.entries_max),
            )?;
            names.insert(name, nid);
            Ok(())
        })?;
        Ok(place.insert(names))
    }
}
