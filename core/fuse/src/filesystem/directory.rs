//! Listing directories.

use std::ops::ControlFlow;

use fuser::{Errno, FileType};

use super::Layered;
use super::answers::{Answer, errno};
use crate::attributes::kind;
use crate::node::Node;
use crate::state;

/// An entry of a directory.
pub(super) struct Entry<'a> {
    pub(super) node: Node,
    pub(super) kind: FileType,
    pub(super) name: &'a [u8],
    /// Where the listing goes on behind it.
    pub(super) next: u64,
}

impl Layered {
    /// Calls `emit` with the entries of a directory from `offset` on, until it answers that there is no space.
    pub(super) fn list(
        &self,
        directory: Node,
        offset: u64,
        emit: &mut dyn FnMut(Entry<'_>) -> bool,
    ) -> Answer<()> {
        match directory {
            Node::Root => {
                let layers = self.layers.list();
                let layers = layers.into_iter().filter_map(|number| {
                    let node = Node::Tree(number, self.layers.get(number)?.tree().root());
                    // By its number, so that removals do not move the others.
                    Some((number.to_string(), node, u64::from(number) + DOTS))
                });
                let dots =
                    [(".", 1), ("..", 2)].map(|(name, next)| (name.to_owned(), directory, next));
                for (name, node, next) in dots.into_iter().chain(layers) {
                    let (kind, name) = (FileType::Directory, name.as_bytes());
                    if next > offset
                        && emit(Entry {
                            node,
                            kind,
                            name,
                            next,
                        })
                    {
                        break;
                    }
                }
                Ok(())
            }
            Node::Tree(number, nid) => {
                let layer = self.layer(number)?;
                let listed = layer.tree().read_dir(nid, offset, |entry| {
                    let full = emit(Entry {
                        node: Node::Tree(number, entry.nid),
                        kind: kind(entry.file_type),
                        name: entry.name,
                        next: entry.next_cookie,
                    });
                    match full {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                });
                listed.map_err(errno)
            }
            Node::StateDirectory(number) => {
                let layer = self.layer(number)?;
                let name = state::file_name(&layer);
                let entries = [
                    (".", directory, FileType::Directory),
                    (
                        "..",
                        Node::Tree(number, layer.tree().root()),
                        FileType::Directory,
                    ),
                    (&*name, Node::StateFile(number), FileType::RegularFile),
                ];
                for (next, (name, node, kind)) in (1..).zip(entries) {
                    let name = name.as_bytes();
                    if next > offset
                        && emit(Entry {
                            node,
                            kind,
                            name,
                            next,
                        })
                    {
                        break;
                    }
                }
                Ok(())
            }
            Node::Opener | Node::Data(_) | Node::StateFile(_) => Err(Errno::ENOTDIR),
        }
    }
}

/// `.` and `..`.
const DOTS: u64 = 2;
