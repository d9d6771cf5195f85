//! The answers themselves.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyData, ReplyXattr};
use pontoon_lazyfs::tree::{Nid, ReadError};
use pontoon_lazyfs::{LazyLayer, Read};
use tokio::runtime::Handle;

use super::{Layered, REQUEST_BYTES_MAX};
use crate::attributes::{FOR_EVER, NOT_AT_ALL, of_inode, of_ours};
use crate::layers::Layers;
use crate::node::{Node, layer_number};
use crate::operations::{Counters, count};
use crate::server::OPENER;
use crate::state::{self, STATE_DIRECTORY};

/// An answer, or the error that the kernel gets.
pub(super) type Answer<T> = Result<T, Errno>;

impl Layered {
    pub(crate) fn new(
        layers: Arc<dyn Layers>,
        runtime: Handle,
        counters: Arc<Counters>,
        silent_opens: bool,
    ) -> Self {
        Layered {
            layers,
            runtime,
            counters,
            silent_opens,
        }
    }

    pub(super) fn node(&self, number: INodeNo) -> Answer<Node> {
        Node::from_number(number.0).ok_or(Errno::ESTALE)
    }

    pub(super) fn layer(&self, number: u32) -> Answer<Arc<LazyLayer>> {
        self.layers.get(number).ok_or(Errno::ESTALE)
    }

    pub(super) fn attributes(&self, node: Node) -> Answer<(FileAttr, Duration)> {
        let now = SystemTime::now();
        Ok(match node {
            // Kept until a layer comes or goes: every path leads through here.
            Node::Root => (of_ours(node, FileType::Directory, 0o555, 0, now), FOR_EVER),
            Node::Opener => (
                of_ours(
                    node,
                    FileType::RegularFile,
                    0o400,
                    0,
                    SystemTime::UNIX_EPOCH,
                ),
                FOR_EVER,
            ),
            Node::Tree(number, nid) => {
                let layer = self.layer(number)?;
                (of_tree(number, &layer, nid)?, FOR_EVER)
            }
            Node::StateDirectory(number) => {
                self.layer(number)?;
                let mode = state::DIRECTORY_MODE;
                let epoch = SystemTime::UNIX_EPOCH;
                (of_ours(node, FileType::Directory, mode, 0, epoch), FOR_EVER)
            }
            Node::StateFile(number) => {
                let size = state::content(&*self.layer(number)?).len() as u64;
                let mode = state::FILE_MODE;
                // Changed just now: so the kernel reads it again.
                (
                    of_ours(node, FileType::RegularFile, mode, size, now),
                    NOT_AT_ALL,
                )
            }
        })
    }

    /// The node of a name, or how long it stays missing.
    pub(super) fn find(&self, directory: Node, name: &[u8]) -> Answer<Result<Node, Duration>> {
        if name == b"." {
            return Ok(Ok(directory));
        }
        let up = name == b"..";
        Ok(match directory {
            Node::Root if up => Ok(Node::Root),
            Node::Root if name == OPENER.as_bytes() => Ok(Node::Opener),
            Node::Root => match layer_number(name) {
                Some(number) => {
                    let layer = self.layers.get(number);
                    layer
                        .map(|layer| Node::Tree(number, layer.tree().root()))
                        .ok_or(NOT_AT_ALL)
                }
                None => Err(NOT_AT_ALL),
            },
            Node::Tree(number, nid) => {
                let layer = self.layer(number)?;
                let is_root = nid == layer.tree().root();
                if is_root && up {
                    return Ok(Ok(Node::Root));
                }
                if is_root && name == STATE_DIRECTORY.as_bytes() {
                    return Ok(Ok(Node::StateDirectory(number)));
                }
                let found = layer.tree().lookup(nid, name).map_err(errno)?;
                found.map(|nid| Node::Tree(number, nid)).ok_or(FOR_EVER)
            }
            Node::StateDirectory(number) => {
                let layer = self.layer(number)?;
                if up {
                    return Ok(Ok(Node::Tree(number, layer.tree().root())));
                }
                let found = name == state::file_name(&layer).as_bytes();
                found.then_some(Node::StateFile(number)).ok_or(FOR_EVER)
            }
            Node::Opener | Node::StateFile(_) => return Err(Errno::ENOTDIR),
        })
    }

    pub(super) fn read_tree(
        &self,
        number: u32,
        nid: Nid,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        let layer = match self.layer(number) {
            Ok(layer) => layer,
            Err(errno) => return reply.error(errno),
        };
        let size = size.min(REQUEST_BYTES_MAX) as usize;
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(size.max(buffer.len()), 0);
            let Some(buffer) = buffer.get_mut(..size) else {
                return reply.error(Errno::EIO);
            };
            match layer.read(nid, offset, buffer) {
                Ok(Read::Ready(bytes)) => reply.data(buffer.get(..bytes).unwrap_or_default()),
                Ok(Read::Pending(pending)) => {
                    count(&self.counters.read_waited);
                    let counters = self.counters.clone();
                    self.runtime.spawn(async move {
                        match pending.await {
                            Ok(bytes) => reply.data(&bytes),
                            // The layer has logged it.
                            Err(_) => {
                                count(&counters.read_failed);
                                reply.error(Errno::EIO);
                            }
                        }
                    });
                }
                // The same: a line for each read would flood the log.
                Err(_) => {
                    count(&self.counters.read_failed);
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    pub(super) fn xattr<T>(
        &self,
        number: INodeNo,
        read: impl FnOnce(&LazyLayer, Nid) -> Answer<T>,
    ) -> Answer<T> {
        count(&self.counters.xattr);
        match self.node(number)? {
            Node::Tree(number, nid) => read(&*self.layer(number)?, nid),
            _ => Err(Errno::NO_XATTR),
        }
    }
}

thread_local! {
    /// Where reads are put together that are answered at once. As large as the largest one.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn of_tree(number: u32, layer: &LazyLayer, nid: Nid) -> Answer<FileAttr> {
    let inode = layer.tree().inode(nid).map_err(errno)?;
    Ok(of_inode(Node::Tree(number, nid), &inode))
}

pub(super) fn errno(error: ReadError) -> Errno {
    match error {
        ReadError::NotADirectory(_) => Errno::ENOTDIR,
        ReadError::NotASymlink(_) => Errno::EINVAL,
        ReadError::NotAnImage(_) | ReadError::Damaged { .. } => {
            tracing::error!(%error, "the tree of a layer is damaged");
            Errno::EIO
        }
    }
}

pub(super) fn answer_xattr(value: Answer<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(errno) => reply.error(errno),
    }
}
