//! One layer: a tar stream written entry by entry.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{lgetxattr, llistxattr, major, minor};
use tar::{Builder, EntryType, Header};

use crate::digest;
use crate::error::{At, Error, Result};

/// Hand-made entries have this modification time (seconds since 1970).
const MTIME: u64 = 1_700_000_000;

/// A finished layer: its gzip stream and the digest of the tar inside.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The compressed stream.
    pub blob: Vec<u8>,
    /// `sha256:` digest of the tar stream.
    pub diff_id: String,
    /// What the manifest says that it is.
    pub media_type: &'static str,
    /// What else the manifest says of it.
    pub annotations: Vec<(&'static str, String)>,
}

/// The media type of an ordinary layer.
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

impl Layer {
    /// An ordinary layer: a compressed archive, and the digest of what is inside.
    pub(super) fn ordinary(blob: Vec<u8>, diff_id: String) -> Self {
        Self {
            blob,
            diff_id,
            media_type: LAYER_TYPE,
            annotations: Vec::new(),
        }
    }
}

/// The attributes of a hand-made entry.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: u32,
    uid: u64,
    gid: u64,
}

/// Writes a layer's tar stream.
pub struct LayerBuilder {
    tar: Builder<Vec<u8>>,
    // The modification time of the entry that is added next.
    mtime: u64,
    // The first path of each (device, inode) with several links.
    links: BTreeMap<(u64, u64), PathBuf>,
    level: Compression,
}

impl std::fmt::Debug for LayerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerBuilder").finish_non_exhaustive()
    }
}

impl Default for LayerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self {
            tar: Builder::new(Vec::new()),
            mtime: MTIME,
            links: BTreeMap::new(),
            level: Compression::fast(),
        }
    }

    /// Compresses as most builders of images do, not as fast as possible: for what is
    /// measured.
    #[must_use]
    pub fn well_compressed(mut self) -> Self {
        self.level = Compression::default();
        self
    }

    /// A directory with `mode`, owned by `uid:gid`.
    pub fn dir(&mut self, path: &str, mode: u32, uid: u64, gid: u64) -> Result<&mut Self> {
        self.special(
            EntryType::Directory,
            path,
            Attributes { mode, uid, gid },
            (0, 0),
        )
    }

    /// A regular file with `mode`, owned by `uid:gid`.
    pub fn file(
        &mut self,
        path: &str,
        mode: u32,
        uid: u64,
        gid: u64,
        data: &[u8],
    ) -> Result<&mut Self> {
        let mut header = self.header(EntryType::Regular, Attributes { mode, uid, gid });
        header.set_size(data.len() as u64);
        self.tar
            .append_data(&mut header, path, data)
            .at("write the entry", path)?;
        Ok(self)
    }

    /// Extended attributes of the entry that is added next.
    pub fn xattrs(&mut self, attributes: &[(&str, &[u8])]) -> Result<&mut Self> {
        let records: Vec<_> = attributes
            .iter()
            .map(|(k, v)| (format!("SCHILY.xattr.{k}"), *v))
            .collect();
        let records = records.iter().map(|(k, v)| (k.as_str(), *v));
        self.tar
            .append_pax_extensions(records)
            .at("write", "extended attributes")?;
        Ok(self)
    }

    /// The modification time of the entry that is added next, in seconds since 1970.
    pub fn time(&mut self, seconds: u64) -> &mut Self {
        self.mtime = seconds;
        self
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<&mut Self> {
        let attributes = Attributes {
            mode: 0o777,
            uid: 0,
            gid: 0,
        };
        let mut header = self.header(EntryType::Symlink, attributes);
        self.tar
            .append_link(&mut header, path, target)
            .at("write the entry", path)?;
        Ok(self)
    }

    /// A hard link to an entry of this layer. Its attributes are the file's: an
    /// unpacker applies those of the last name it meets.
    pub fn hardlink(
        &mut self,
        path: &str,
        target: &str,
        mode: u32,
        uid: u64,
        gid: u64,
    ) -> Result<&mut Self> {
        let attributes = Attributes { mode, uid, gid };
        let mut header = self.header(EntryType::Link, attributes);
        self.tar
            .append_link(&mut header, path, target)
            .at("write the entry", path)?;
        Ok(self)
    }

    /// A character device.
    pub fn device(&mut self, path: &str, mode: u32, number: (u32, u32)) -> Result<&mut Self> {
        self.special(
            EntryType::Char,
            path,
            Attributes {
                mode,
                uid: 0,
                gid: 0,
            },
            number,
        )
    }

    /// A block device.
    pub fn block_device(&mut self, path: &str, mode: u32, number: (u32, u32)) -> Result<&mut Self> {
        let attributes = Attributes {
            mode,
            uid: 0,
            gid: 0,
        };
        self.special(EntryType::Block, path, attributes, number)
    }

    /// A named pipe.
    pub fn fifo(&mut self, path: &str, mode: u32) -> Result<&mut Self> {
        self.special(
            EntryType::Fifo,
            path,
            Attributes {
                mode,
                uid: 0,
                gid: 0,
            },
            (0, 0),
        )
    }

    /// Says that `path` of a lower layer is gone (OCI image specification, layer.md,
    /// "Whiteouts").
    pub fn whiteout(&mut self, path: &str) -> Result<&mut Self> {
        let marker = match path.rsplit_once('/') {
            Some((dir, name)) => format!("{dir}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.file(&marker, 0o644, 0, 0, b"")
    }

    /// Says that nothing of the directory `path` in lower layers is visible.
    pub fn opaque(&mut self, path: &str) -> Result<&mut Self> {
        self.file(&format!("{path}/.wh..wh..opq"), 0o644, 0, 0, b"")
    }

    /// Adds `path` of the directory tree `root` as it is on disk.
    pub fn tree_entry(&mut self, root: &Path, path: &Path) -> Result<()> {
        let full = root.join(path);
        let meta = fs::symlink_metadata(&full).at("stat", &full)?;
        let xattrs = read_xattrs(&full)?;
        if !xattrs.is_empty() {
            let records: Vec<_> = xattrs
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_slice()))
                .collect();
            self.xattrs(&records)?;
        }
        let mut header = Header::new_gnu();
        header.set_metadata(&meta);
        header.set_size(0);
        let kind = meta.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&full).at("read the link", &full)?;
            return self
                .tar
                .append_link(&mut header, path, target)
                .at("write the entry", path);
        }
        if kind.is_file() {
            let inode = (meta.dev(), meta.ino());
            if meta.nlink() > 1 {
                if let Some(first) = self.links.get(&inode) {
                    header.set_entry_type(EntryType::Link);
                    return self
                        .tar
                        .append_link(&mut header, path, first)
                        .at("write", path);
                }
                self.links.insert(inode, path.into());
            }
            header.set_size(meta.len());
            let file = fs::File::open(&full).at("open", &full)?;
            return self
                .tar
                .append_data(&mut header, path, file)
                .at("write the entry", path);
        }
        if kind.is_char_device() || kind.is_block_device() {
            header
                .set_device_major(major(meta.rdev()))
                .at("write the entry", path)?;
            header
                .set_device_minor(minor(meta.rdev()))
                .at("write the entry", path)?;
        } else if kind.is_socket() {
            return Ok(());
        }
        self.tar
            .append_data(&mut header, path, std::io::empty())
            .at("write the entry", path)
    }

    /// Ends and compresses the layer.
    pub fn finish(self) -> Result<Layer> {
        let tar = self.tar.into_inner().at("end", "the layer")?;
        let mut gzip = GzEncoder::new(Vec::new(), self.level);
        gzip.write_all(&tar).at("compress", "the layer")?;
        let blob = gzip.finish().at("compress", "the layer")?;
        Ok(Layer::ordinary(blob, digest::sha256(&tar)))
    }

    /// The header of the entry that is added now; the time is for it alone.
    fn header(&mut self, kind: EntryType, attributes: Attributes) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(attributes.mode);
        header.set_uid(attributes.uid);
        header.set_gid(attributes.gid);
        header.set_mtime(std::mem::replace(&mut self.mtime, MTIME));
        header.set_size(0);
        header
    }

    fn special(
        &mut self,
        kind: EntryType,
        path: &str,
        attributes: Attributes,
        (major, minor): (u32, u32),
    ) -> Result<&mut Self> {
        let mut header = self.header(kind, attributes);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(major).at("write the entry", path)?;
            header.set_device_minor(minor).at("write the entry", path)?;
        }
        let empty = std::io::empty();
        self.tar
            .append_data(&mut header, path, empty)
            .at("write the entry", path)?;
        Ok(self)
    }
}

/// The extended attributes of `path`, those of overlayfs itself left out.
pub(crate) fn read_xattrs(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 64 * 1024];
    let length = llistxattr(path, &mut names[..]).at("list the attributes of", path)?;
    let mut found = BTreeMap::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 * 1024];
        let name = OsString::from(std::ffi::OsStr::from_bytes(name));
        let length = lgetxattr(path, name.as_os_str(), &mut value[..]);
        value.truncate(length.at("read an attribute of", path)?);
        let name = name.into_string().map_err(|name| {
            Error::unexpected(
                path.to_string_lossy(),
                format!("odd attribute name {name:?}"),
            )
        })?;
        if !name.starts_with("trusted.overlay.") && !name.starts_with("user.overlay.") {
            found.insert(name, value);
        }
    }
    Ok(found)
}
