//! Archives to unpack, and what came of them.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use pontoon_layer::Digest;
use pontoon_unpack::{Error, Options, Unpacked, unpack};
use tar::EntryType;

/// An archive in the making. Entries are like those of GNU tar; everything not said is 0.
pub(crate) struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    pub(crate) fn new() -> Self {
        Archive(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, 0o644, "", data)
    }

    pub(crate) fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, "", b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, target, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o644, target, b"")
    }

    /// The path goes into the header as it is: `..`, `/` and all.
    pub(crate) fn entry(
        self,
        path: &str,
        kind: EntryType,
        mode: u32,
        target: &str,
        data: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        let raw = header.as_old_mut();
        raw.name[..path.len()].copy_from_slice(path.as_bytes());
        raw.linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.header(header, data)
    }

    pub(crate) fn header(mut self, mut header: tar::Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    /// Unpacks it into a fresh directory.
    pub(crate) fn unpack(self) -> Fresh {
        self.unpack_with(&Options::new()).unwrap()
    }

    pub(crate) fn unpack_with(self, options: &Options<'_>) -> Result<Fresh, Error> {
        Fresh::of(&self.finish(), options)
    }
}

/// A directory that something was unpacked into.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) unpacked: Unpacked,
}

impl Fresh {
    pub(crate) fn of(blob: &[u8], options: &Options<'_>) -> Result<Fresh, Error> {
        let dir = dir();
        let unpacked = unpack(blob, &dir.path().join("."), options)?;
        Ok(Fresh { dir, unpacked })
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap()
    }

    pub(crate) fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(path)).unwrap()
    }

    pub(crate) fn is_whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    pub(crate) fn is_opaque(&self, path: &str) -> bool {
        self.xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }

    pub(crate) fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(self.path(path), name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }

    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, String> {
        tree(self.dir.path())
    }
}

/// A directory for a test. In memory, where that keeps extended attributes (Linux 6.6): ext4 gets slow where many files
/// are made and deleted again and again.
pub(crate) fn dir() -> tempfile::TempDir {
    if let Ok(dir) = tempfile::tempdir_in("/dev/shm") {
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(dir.path(), "user.test", b"", flags).is_ok() {
            rustix::fs::removexattr(dir.path(), "user.test").unwrap();
            return dir;
        }
    }
    tempfile::tempdir().unwrap()
}

/// Everything below `root` (not itself), with all that can be told about it.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut tree = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let mut names: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        for path in names {
            let stat = fs::symlink_metadata(&path).unwrap();
            let kind = stat.file_type();
            let relative = path.strip_prefix(root).unwrap().to_path_buf();
            let mut text = format!(
                "{:o} {}:{} {}.{:09}",
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.mtime(),
                stat.mtime_nsec()
            );
            if kind.is_dir() {
                todo.push(path.clone());
            } else {
                let first = links.entry(stat.ino()).or_insert_with(|| relative.clone());
                write!(text, " {} {:?} {:x}", stat.nlink(), first, stat.rdev()).unwrap();
            }
            if kind.is_file() {
                let digest = Digest::of(&fs::read(&path).unwrap());
                write!(text, " {} {digest}", stat.len()).unwrap();
            } else if kind.is_symlink() {
                write!(text, " {:?}", fs::read_link(&path).unwrap()).unwrap();
            }
            for (name, value) in xattrs(&path) {
                let value: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                write!(text, " {name}={value}").unwrap();
            }
            tree.insert(relative, text);
        }
    }
    tree
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0);
    names
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.escape_ascii().to_string(), value)
        })
        .collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = vec![0; zstd_safe::compress_bound(bytes.len())];
    let length = zstd_safe::compress(&mut compressed[..], bytes, 3).unwrap();
    compressed.truncate(length);
    compressed
}
