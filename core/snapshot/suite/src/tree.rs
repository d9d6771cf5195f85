//! Making file trees, and comparing them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

/// Everything about a file but its times, its inode number and its links.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    /// A file's bytes, a symbolic link's target.
    content: Vec<u8>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Entry {
    /// Its content only in part: it may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.content[..self.content.len().min(60)];
        f.debug_struct("Entry")
            .field("mode", &format_args!("{:o}", self.mode))
            .field("owner", &self.owner)
            .field("device", &self.device)
            .field("bytes", &self.content.len())
            .field("content", &String::from_utf8_lossy(shown))
            .field("xattrs", &self.xattrs)
            .finish()
    }
}

/// All files below `root`, and `root` itself, by their paths.
pub fn read(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut tree = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let kind = found.file_type();
        if kind.is_dir() {
            let children = fs::read_dir(&path).unwrap();
            left.extend(children.map(|child| child.unwrap().path()));
        }
        let device = kind.is_char_device() || kind.is_block_device();
        let entry = Entry {
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            device: if device { found.rdev() } else { 0 },
            content: if kind.is_file() {
                fs::read(&path).unwrap()
            } else if kind.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                Vec::new()
            },
            xattrs: xattrs(&path),
        };
        tree.insert(path.strip_prefix(root).unwrap().to_path_buf(), entry);
    }
    tree
}

/// Panics, and says where, unless the trees below `wanted` and `found` are equal.
#[track_caller]
pub fn assert_same(wanted: &Path, found: &Path) {
    let (wanted, found) = (read(wanted), read(found));
    for path in wanted.keys().chain(found.keys()) {
        // The roots may differ: one is a temporary directory.
        if path.as_os_str().is_empty() {
            continue;
        }
        let (wanted, found) = (wanted.get(path), found.get(path));
        assert_eq!(found, wanted, "{} differs", path.display());
    }
}

/// Bytes and inodes below `root`, and of `root` itself, each inode counted once.
pub fn space(root: &Path) -> (u64, u64) {
    let mut inodes = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        inodes.insert(found.ino(), found.blocks() * 512);
        if found.is_dir() {
            let children = fs::read_dir(&path).unwrap();
            left.extend(children.map(|child| child.unwrap().path()));
        }
    }
    (inodes.values().sum(), inodes.len() as u64)
}

/// Writes a file with exactly `mode`.
pub fn file(path: impl AsRef<Path>, content: impl AsRef<[u8]>, mode: u32) {
    fs::write(&path, content).unwrap();
    self::mode(path, mode);
}

/// Makes a directory with exactly `mode`.
pub fn dir(path: impl AsRef<Path>, mode: u32) {
    fs::create_dir(&path).unwrap();
    self::mode(path, mode);
}

/// Sets the mode of a file.
pub fn mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Gives a file to user and group `owner`.
pub fn chown(path: impl AsRef<Path>, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
}

/// Makes a device, a pipe or a socket.
pub fn node(path: impl AsRef<Path>, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path.as_ref(), kind, Mode::from_raw_mode(0o640), device).unwrap();
}

/// Sets an extended attribute.
pub fn xattr(path: impl AsRef<Path>, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path.as_ref(), name, value, XattrFlags::empty()).unwrap();
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    let names = names.split_terminator('\0');
    let value = |name: &str| {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        (name.to_owned(), value)
    };
    names.map(value).collect()
}
