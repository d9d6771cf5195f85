//! Makes a tree and a chunk map of a bootstrap.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::blob::Blob;
use super::chunk::{Chunk, ChunkError};
use super::info::ChunkInfos;
use super::inode::{Inode, S_IFMT};
use super::records::{Address, Records};
use super::zran::{Context, Indexes};
use super::{Bootstrap, malformed, xattr};
use crate::chunk::BLOCK_BYTES;
use crate::error::FormatError;
use crate::tree::{Attributes, Entry, EntryKind, NodeId, OpaqueXattr, Tree, TreeBuilder};
use crate::verified::Verified;

/// An image: all that is needed to serve its files, but for the data.
#[derive(Debug, Clone)]
pub struct Image {
    /// The files of all its layers. The data of each begins at an offset of a data file that does not exist yet, as it
    /// does for [`crate::Layer`]: all files one after another, decompressed, each at a multiple of
    /// [`crate::BLOCK_BYTES`].
    pub tree: Tree,
    /// Bytes of that data file.
    pub data_size: u64,
    /// Its blobs, by their numbers.
    pub blobs: Vec<Blob>,
    /// Which bytes of which blob make which bytes of the data file, sorted by the latter.
    pub chunks: Vec<Chunk>,
    /// Where inflating may begin in those blobs that are gzip layers.
    pub contexts: Vec<Context>,
    /// The files and directories that its maker wants to be fetched early, in this order; of a directory all that is
    /// in it.
    pub prefetch: Vec<NodeId>,
}

impl Image {
    /// `chunk`, which is one of this image, out of `bytes`, which are [`Chunk::blob_length`] bytes from
    /// [`Chunk::blob_offset`] of its blob. Takes memory for its length, whatever the bytes are.
    pub fn unpack(&self, chunk: &Chunk, bytes: &[u8]) -> Result<Verified<Bytes>, ChunkError> {
        let context = chunk
            .context
            .and_then(|number| self.contexts.get(number as usize));
        match context {
            Some(context) => context.unpack(chunk, bytes),
            None => chunk.unpack(bytes),
        }
    }
}

impl Bootstrap<'_> {
    /// The image. `infos` are the chunks of all blobs, unless [`Bootstrap::lists_chunks`], and always those of the blobs
    /// with an [`Blob::index_blob`].
    ///
    /// Whiteouts (`.wh.` names) that a merged bootstrap still has become those of overlayfs, as in any [`Tree`]; as its
    /// tree has no layer below, they hide nothing.
    pub fn image(&self, infos: &[ChunkInfos], opaque: OpaqueXattr) -> Result<Image, FormatError> {
        let mut walk = Walk {
            records: Records::new(self.chunk_table, infos, &self.limits)?,
            indexes: Indexes::new(
                infos.iter().filter_map(|infos| infos.index.as_ref()),
                &self.limits,
            )?,
            prefetch: self.prefetch_nids().map(|nid| (nid, None)).collect(),
            boot: self,
            builder: TreeBuilder::new(opaque, &self.limits),
            chunks: Vec::new(),
            data_size: 0,
            links: HashMap::new(),
            directories: HashSet::new(),
            names: 0,
            path_bytes: 0,
        };
        let root = self.inode(self.root)?;
        if !root.is_directory() {
            return Err(malformed("its root is no directory"));
        }
        walk.all(root)?;
        let (mut tree, numbers) = walk.builder.finish_with_numbers()?;
        tree.adopt(
            NodeId::ROOT,
            Attributes {
                mode: root.mode & 0o7777,
                uid: root.uid,
                gid: root.gid,
                mtime: root.mtime,
                xattrs: xattr::read(&root, &self.limits)?,
            },
        );
        let found = walk.prefetch;
        let node = |nid| {
            let built: NodeId = found.get(&nid).copied().flatten()?;
            numbers.get(built.index()).copied().flatten()
        };
        Ok(Image {
            prefetch: self.prefetch_nids().filter_map(node).collect(),
            tree,
            data_size: walk.data_size,
            blobs: self.blobs().to_vec(),
            contexts: walk.indexes.contexts(),
            chunks: walk.chunks,
        })
    }

    /// The numbers of the inodes in its table of files to fetch early, in the order of the table.
    pub fn prefetch_nids(&self) -> impl Iterator<Item = u64> {
        let (words, _) = self.prefetch_table.as_chunks();
        words
            .iter()
            .map(|word| u64::from(u32::from_le_bytes(*word)))
    }
}

/// The way through the directories of a bootstrap.
struct Walk<'b, 'a> {
    boot: &'b Bootstrap<'a>,
    builder: TreeBuilder,
    records: Records<'b>,
    indexes: Indexes<'b>,
    chunks: Vec<Chunk>,
    data_size: u64,
    /// Inodes to be fetched early, and what became of them.
    prefetch: HashMap<u64, Option<NodeId>>,
    /// The first paths of inodes with several names.
    links: HashMap<u64, Vec<u8>>,
    /// Those gone into: none has two parents.
    directories: HashSet<u64>,
    names: u64,
    /// Bytes of the paths in `links` and of directories still to go into.
    path_bytes: u64,
}

impl<'a> Walk<'_, 'a> {
    fn all(&mut self, root: Inode<'a>) -> Result<(), FormatError> {
        self.note(root.nid, NodeId::ROOT);
        self.directories.insert(root.nid);
        let mut open = vec![(Vec::new(), 0, root)];
        while let Some((path, depth, directory)) = open.pop() {
            let boot = self.boot;
            self.path_bytes = self.path_bytes.saturating_sub(path.len() as u64);
            FormatError::check_limit(
                "the number of directories inside each other",
                depth as u64,
                boot.limits.depth_max as u64,
            )?;
            let first = open.len();
            boot.list(&directory, |name, nid| {
                self.names += 1;
                FormatError::check_limit(
                    "the number of names in the image",
                    self.names,
                    u64::from(boot.limits.entries_max),
                )?;
                let path = join(&path, name);
                let inode = boot.inode(nid)?;
                if self.add(&path, &inode)? {
                    self.keep(path.len())?;
                    open.push((path, depth + 1, inode));
                }
                Ok(())
            })?;
            // In the order of their names, though the last is taken first.
            if let Some(found) = open.get_mut(first..) {
                found.reverse();
            }
        }
        Ok(())
    }

    /// Adds a file, and answers whether it is a directory to go into.
    fn add(&mut self, path: &[u8], inode: &Inode<'a>) -> Result<bool, FormatError> {
        let directory = inode.is_directory();
        if directory && !self.directories.insert(inode.nid) {
            return Err(refuse(path, "is a directory with two parents"));
        }
        if let Some(first) = self.links.get(&inode.nid) {
            self.builder.link(path, first)?;
            return Ok(false);
        }
        let target;
        let kind = match inode.mode & S_IFMT {
            _ if directory => EntryKind::Directory,
            0o100_000 => EntryKind::File {
                data_offset: if inode.size == 0 { 0 } else { self.data_size },
            },
            0o120_000 => {
                target = self.target(path, inode)?;
                EntryKind::Symlink(&target)
            }
            0o020_000 => {
                let (major, minor) = device(inode.union);
                EntryKind::CharDevice { major, minor }
            }
            0o060_000 => {
                let (major, minor) = device(inode.union);
                EntryKind::BlockDevice { major, minor }
            }
            0o010_000 => EntryKind::Fifo,
            0o140_000 => EntryKind::Socket,
            _ => return Err(refuse(path, "is of no kind that Linux has")),
        };
        let entry = Entry {
            kind,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            size: inode.size,
            xattrs: xattr::read(inode, &self.boot.limits)?,
        };
        let Some(id) = self.builder.add(path, entry)? else {
            return Ok(false);
        };
        self.note(inode.nid, id);
        if let EntryKind::File { .. } = kind {
            self.data(path, inode)?;
        }
        if inode.links > 1 && !directory {
            self.keep(path.len())?;
            self.links.insert(inode.nid, path.to_vec());
        }
        Ok(directory)
    }

    /// Lays out the data of a regular file.
    fn data(&mut self, path: &[u8], inode: &Inode<'a>) -> Result<(), FormatError> {
        if inode.size == 0 {
            return Ok(());
        }
        let boot = self.boot;
        let end = self.data_size.saturating_add(inode.size);
        FormatError::check_limit(
            "the size of all files in bytes",
            end,
            boot.limits.data_bytes_max,
        )?;
        let addresses = boot.addresses(inode)?;
        FormatError::check_limit(
            "the number of chunks of all files",
            (self.chunks.len() as u64).saturating_add(addresses.len() as u64),
            u64::from(boot.limits.entries_max),
        )?;
        let mut offset = self.data_size;
        for address in addresses {
            let left = u32::try_from(end - offset).unwrap_or(u32::MAX);
            let length = left.min(boot.chunk_bytes);
            let found = Address::read(*address).and_then(|address| self.records.find(address));
            let Some(record) = found else {
                return Err(refuse(path, "has a chunk that no table lists"));
            };
            let Some(blob) = boot.blobs().get(record.blob as usize) else {
                return Err(refuse(path, "has a chunk in a blob that is not there"));
            };
            let chunk = record.chunk(blob, offset, length, &self.indexes, &boot.limits)?;
            self.chunks.push(chunk);
            offset += u64::from(length);
        }
        self.data_size = end.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(end);
        Ok(())
    }

    fn target(&self, path: &[u8], inode: &Inode<'a>) -> Result<Vec<u8>, FormatError> {
        if inode.size >= self.boot.limits.path_bytes_max as u64 {
            return Err(refuse(path, "is a symbolic link with too long a target"));
        }
        self.boot.block(inode, 0).map(<[u8]>::to_vec)
    }

    fn note(&mut self, nid: u64, id: NodeId) {
        if let Some(found) = self.prefetch.get_mut(&nid) {
            *found = Some(id);
        }
    }

    /// Pays for a path that is kept.
    fn keep(&mut self, bytes: usize) -> Result<(), FormatError> {
        self.path_bytes = self.path_bytes.saturating_add(bytes as u64);
        FormatError::check_limit(
            "the bytes of the paths of directories and hard links",
            self.path_bytes,
            self.boot.limits.text_bytes_max,
        )
    }
}

fn refuse(path: &[u8], reason: &str) -> FormatError {
    malformed(format!(
        "{:?} {reason}",
        String::from_utf8_lossy(path)
            .chars()
            .take(200)
            .collect::<String>()
    ))
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [directory, separator, name].concat()
}

/// Major and minor number, as Linux packs them into 32 bits.
fn device(number: u32) -> (u32, u32) {
    (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00)
}
