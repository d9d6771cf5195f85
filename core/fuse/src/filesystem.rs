//! What the kernel asks, and the answers.

mod answers;
mod directory;
mod reading;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use crate::attributes::{FOR_EVER, of_nothing};
use crate::greeting::Greeting;
use crate::layers::Layers;
use crate::node::Node;
use crate::operations::{Counters, count};
use crate::state;
use answers::{answer_xattr, errno};

/// The most bytes of one request: what Linux allows by default (`fs.fuse.max_pages_limit`).
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Reads ahead that may be under way at once. All layers share the connection, and reads of a slow one must not
/// use up the places.
const BACKGROUND_MAX: u16 = 16_384;

/// Nodes are never another's again.
const GENERATION: Generation = Generation(0);

const BLOCK_BYTES: u32 = 4096;

#[derive(Debug)]
pub(crate) struct Layered {
    layers: Arc<dyn Layers>,
    runtime: Handle,
    counters: Arc<Counters>,
    /// The kernel does not ask to open and to close. Wanted; after the greeting, also possible.
    silent_opens: bool,
    /// What was agreed on in the greeting.
    agreed: Arc<OnceLock<Greeting>>,
}

impl Filesystem for Layered {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Only the state file ever changes; its attributes are asked for before it is read.
            InitFlags::FUSE_AUTO_INVAL_DATA,
            // So that overlayfs finds what it copied up again: lookups of "." and ".." are answered.
            InitFlags::FUSE_EXPORT_SUPPORT,
            // Idmapped mounts, Linux 6.12. Permissions are checked by the kernel, as this needs.
            InitFlags::FUSE_ALLOW_IDMAP,
        ];
        let mut agreed = InitFlags::empty();
        for flag in wanted {
            match config.add_capabilities(flag) {
                Ok(()) => agreed |= flag,
                Err(_) => {
                    tracing::debug!(?flag, "this kernel's FUSE does not have a capability");
                }
            }
        }
        let silent = InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        self.silent_opens &= config.add_capabilities(silent).is_ok();
        if self.silent_opens {
            agreed |= silent;
        }
        // Not asked for: it is what the kernel can be told to do.
        agreed |= config.capabilities() & InitFlags::FUSE_HAS_RESEND;
        // There is one greeting for each connection.
        let _ = self.agreed.set(Greeting::of(config, agreed));
        // Refused are only zero and more than 16 MiB.
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        count(&self.counters.lookup);
        let found = self
            .node(parent)
            .and_then(|node| self.find(node, name.as_bytes()));
        let found = found.and_then(|found| match found {
            Ok(node) => {
                let (attributes, keep) = self.attributes(node)?;
                Ok((attributes, FOR_EVER, keep))
            }
            Err(keep) if keep.is_zero() => Err(Errno::ENOENT),
            Err(keep) => Ok((of_nothing(), keep, keep)),
        });
        match found {
            Ok((attributes, name_keeps, keeps)) => {
                reply.entry_with_ttls(&keeps, &name_keeps, &attributes, GENERATION);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {
        // Nodes are numbers: there is nothing to forget.
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        count(&self.counters.getattr);
        match self.node(number).and_then(|node| self.attributes(node)) {
            Ok((attributes, keep)) => reply.attr(&keep, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        count(&self.counters.readlink);
        let Ok(Node::Tree(layer, nid)) = self.node(number) else {
            return reply.error(Errno::EINVAL);
        };
        match self.layer(layer) {
            Ok(layer) => match layer.tree().read_link(nid) {
                Ok(target) => reply.data(target),
                Err(error) => reply.error(errno(error)),
            },
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        count(&self.counters.open);
        if self.silent_opens {
            // The kernel never asks again, and keeps what it has cached.
            return reply.error(Errno::ENOSYS);
        }
        let changes = matches!(self.node(number), Ok(Node::StateFile(_)));
        let cached = match changes {
            true => FopenFlags::FOPEN_DIRECT_IO,
            false => FopenFlags::FOPEN_KEEP_CACHE,
        };
        reply.opened(FileHandle(0), cached | FopenFlags::FOPEN_NOFLUSH);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        count(&self.counters.flush);
        // The kernel never asks again.
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        count(&self.counters.read);
        match self.node(number) {
            Ok(Node::Tree(layer, nid)) => self.read_tree(layer, nid, offset, size, reply),
            Ok(Node::Data(layer)) => self.read_data(layer, offset, size, reply),
            Ok(Node::StateFile(layer)) => match self.layer(layer) {
                Ok(layer) => {
                    let content = state::content(&layer);
                    let start = usize::try_from(offset)
                        .unwrap_or(usize::MAX)
                        .min(content.len());
                    let end = start.saturating_add(size as usize).min(content.len());
                    reply.data(content.get(start..end).unwrap_or_default());
                }
                Err(errno) => reply.error(errno),
            },
            Ok(Node::Opener) => reply.data(&[]),
            Ok(Node::Root | Node::StateDirectory(_)) => reply.error(Errno::EISDIR),
            Err(errno) => reply.error(errno),
        }
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        // The kernel never asks again: files have no holes that a program could see.
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        count(&self.counters.opendir);
        if self.silent_opens {
            return reply.error(Errno::ENOSYS);
        }
        let flags = match self.node(number) {
            Ok(Node::Root) => FopenFlags::empty(),
            _ => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        };
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        count(&self.counters.readdir);
        let listed = self.node(number).and_then(|node| {
            self.list(node, offset, &mut |entry| {
                reply.add(
                    INodeNo(entry.node.number()),
                    entry.next,
                    entry.kind,
                    OsStr::from_bytes(entry.name),
                )
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        count(&self.counters.readdir);
        let listed = self.node(number).and_then(|node| {
            let mut failed = None;
            self.list(
                node,
                offset,
                &mut |entry| match self.attributes(entry.node) {
                    Ok((attributes, keep)) => reply.add(
                        attributes.ino,
                        entry.next,
                        OsStr::from_bytes(entry.name),
                        &keep,
                        &attributes,
                        GENERATION,
                    ),
                    // A layer that was removed just now, or a damaged inode: it ends here.
                    Err(errno) => {
                        failed = Some(errno);
                        true
                    }
                },
            )?;
            failed.map_or(Ok(()), Err)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        count(&self.counters.statfs);
        let layers = match self.node(number) {
            Ok(Node::Root | Node::Opener) => self.layers.list(),
            Ok(
                Node::Tree(layer, _)
                | Node::Data(layer)
                | Node::StateDirectory(layer)
                | Node::StateFile(layer),
            ) => vec![layer],
            Err(errno) => return reply.error(errno),
        };
        let (mut blocks, mut files) = (0u64, 0u64);
        for layer in layers
            .into_iter()
            .filter_map(|number| self.layers.get(number))
        {
            let data = layer.tree().data_bytes();
            blocks = blocks.saturating_add(data.div_ceil(BLOCK_BYTES.into()));
            files = files.saturating_add(layer.tree().inodes());
        }
        reply.statfs(blocks, 0, 0, files, 0, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.xattr(number, |layer, nid| {
            let value = layer.tree().xattr(nid, name.as_bytes()).map_err(errno)?;
            value.map(<[u8]>::to_vec).ok_or(Errno::NO_XATTR)
        });
        answer_xattr(value, size, reply);
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.xattr(number, |layer, nid| {
            let mut names = Vec::new();
            for xattr in layer.tree().xattrs(nid).map_err(errno)? {
                names.extend(xattr.map_err(errno)?.name());
                names.push(0);
            }
            Ok(names)
        });
        // Nothing to list is no error.
        let names = names.or_else(|error| match error {
            Errno::NO_XATTR => Ok(Vec::new()),
            error => Err(error),
        });
        answer_xattr(names, size, reply);
    }
}
