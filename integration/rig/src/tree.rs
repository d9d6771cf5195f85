//! A directory tree as data, to compare two of them byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::digest;
use crate::error::{At, Result};
use crate::image::read_xattrs;

/// Everything about one file that a container can see, except its inode number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    device: u64,
    links: u64,
    xattrs: BTreeMap<String, Vec<u8>>,
    content: String,
}

/// A directory tree: the entry of every path, relative to its root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Reads the tree below `root`, the root itself included.
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.visit(root, Path::new(""))?;
        Ok(tree)
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Leaves out one path.
    pub fn remove(&mut self, path: impl AsRef<Path>) {
        self.0.remove(path.as_ref());
    }

    /// Takes no notice of the modification time of one path.
    pub fn forget_time(&mut self, path: impl AsRef<Path>) {
        if let Some(entry) = self.0.get_mut(path.as_ref()) {
            entry.mtime = (0, 0);
        }
    }

    /// What differs, one line for each path; empty when nothing does.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, entry) in &self.0 {
            match other.0.get(path) {
                None => lines.push(format!("only on the left: {}", path.display())),
                Some(theirs) if theirs != entry => {
                    lines.push(format!("{}: {entry:?} != {theirs:?}", path.display()));
                }
                Some(_) => {}
            }
        }
        let missing = other.0.keys().filter(|path| !self.0.contains_key(*path));
        lines.extend(missing.map(|path| format!("only on the right: {}", path.display())));
        lines
    }

    fn visit(&mut self, root: &Path, path: &Path) -> Result<()> {
        let full = root.join(path);
        let meta = fs::symlink_metadata(&full).at("stat", &full)?;
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            fs::read_link(&full)
                .at("read the link", &full)?
                .to_string_lossy()
                .into_owned()
        } else if kind.is_file() {
            digest::sha256(&fs::read(&full).at("read", &full)?)
        } else {
            String::new()
        };
        let entry = Entry {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            // Layers do not list the root: it has the time at which it was made.
            mtime: if path == Path::new("") {
                (0, 0)
            } else {
                (meta.mtime(), meta.mtime_nsec())
            },
            device: meta.rdev(),
            // overlayfs gives every merged directory one link.
            links: if kind.is_dir() { 0 } else { meta.nlink() },
            xattrs: read_xattrs(&full)?,
            content,
        };
        self.0.insert(path.into(), entry);
        if kind.is_dir() {
            for child in fs::read_dir(&full).at("list", &full)? {
                let child = child.at("list", &full)?;
                self.visit(root, &path.join(child.file_name()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_difference_is_named() {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [left.path(), right.path()] {
            fs::write(dir.join("content"), "same").unwrap();
            fs::write(dir.join("mode"), "").unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH;
            for name in ["content", "mode"] {
                let file = fs::File::options()
                    .write(true)
                    .open(dir.join(name))
                    .unwrap();
                file.set_modified(time).unwrap();
            }
        }
        let read = |dir: &tempfile::TempDir| Tree::read(dir.path()).unwrap();
        assert_eq!(read(&left).differences(&read(&right)), Vec::<String>::new());
        fs::set_permissions(left.path().join("mode"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(left.path().join("content"), "other").unwrap();
        fs::write(right.path().join("extra"), "").unwrap();
        let differences = read(&left).differences(&read(&right));
        assert_eq!(differences.len(), 3, "{differences:#?}");
    }
}
