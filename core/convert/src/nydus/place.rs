//! Where inodes are, and what does not fit behind them.

use super::BLOCK_BYTES;
use super::merge::{Merged, What};
use super::order::Order;
use super::xattr;
use crate::error::{Error, Result};

/// Bytes of an inode that says when the file was modified.
pub(super) const INODE_BYTES: u64 = 64;

/// An inode's number is where it is, in this unit.
const SLOT_BYTES: u64 = 32;

/// Bytes of the address of a chunk.
pub(super) const ADDRESS_BYTES: u64 = 8;

/// Bytes of an entry of a directory before its name: inode, where the name is, type.
pub(super) const ENTRY_BYTES: u64 = 12;

/// Inodes begin one block behind where they are counted from: else the root would have the number 0, which says to some
/// programs that the file is deleted.
const FIRST: u64 = BLOCK_BYTES;

/// The place of an inode.
#[derive(Debug)]
pub(super) struct Place {
    /// Where it begins, counted from where inodes are counted from.
    pub(super) offset: u64,
    /// Bytes of what it is said to have.
    pub(super) size: u64,
    /// Its extended attributes.
    pub(super) xattrs: Vec<u8>,
    /// Whether the last, shorter block of what it has follows it.
    pub(super) inline: bool,
    /// The first block of what does not follow it, counted from behind all inodes.
    pub(super) block: u64,
}

impl Place {
    /// The number of the inode.
    pub(super) fn nid(&self) -> u64 {
        self.offset / SLOT_BYTES
    }

    /// Where what follows it begins: inode and attributes.
    pub(super) fn behind(&self) -> u64 {
        self.offset + INODE_BYTES + self.xattrs.len() as u64
    }
}

/// The places of all inodes in their order.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) all: Vec<Place>,
    /// Where inodes end, in blocks counted from where they are counted from.
    pub(super) inode_blocks: u64,
    /// Blocks of what does not fit behind them.
    pub(super) blocks: u64,
}

impl Places {
    pub(super) fn of(tree: &Merged, order: &Order, chunk_bytes: u32) -> Result<Places> {
        let mut places = Places {
            all: Vec::with_capacity(order.numbers.len()),
            inode_blocks: 0,
            blocks: 0,
        };
        let mut end = FIRST;
        for number in &order.numbers {
            let node = &tree.nodes[*number];
            let xattrs = xattr::body(node)?;
            let head = INODE_BYTES + xattrs.len() as u64;
            let mut place = Place {
                offset: end.next_multiple_of(SLOT_BYTES),
                size: 0,
                xattrs,
                inline: false,
                block: places.blocks,
            };
            match &node.what {
                What::Directory(_) => {
                    place.size = directory_bytes(tree, *number);
                    end = places.content(&mut place, head);
                }
                What::Symlink(target) => {
                    place.size = target.len() as u64;
                    end = places.content(&mut place, head);
                }
                What::File { size, .. } => {
                    place.size = *size;
                    let count = size.div_ceil(u64::from(chunk_bytes));
                    let head = place.offset + head;
                    end = head.next_multiple_of(ADDRESS_BYTES) + count * ADDRESS_BYTES;
                }
                _ => end = place.offset + head,
            }
            places.all.push(place);
        }
        places.inode_blocks = end.div_ceil(BLOCK_BYTES);
        let blocks = places.inode_blocks + places.blocks;
        // Tables come before and behind.
        Error::check_limit("the blocks of a bootstrap", blocks, u64::from(u32::MAX) / 2)?;
        Ok(places)
    }

    /// Makes room for what a directory or a symbolic link has, and answers where the next inode may begin. What is behind
    /// an inode is in the same block, or elsewhere.
    fn content(&mut self, place: &mut Place, head: u64) -> u64 {
        let tail = place.size % BLOCK_BYTES;
        place.inline = tail != 0 && head + tail <= BLOCK_BYTES;
        if !place.inline {
            self.blocks += place.size.div_ceil(BLOCK_BYTES);
            return place.offset + head;
        }
        if place.offset % BLOCK_BYTES + head + tail > BLOCK_BYTES {
            place.offset = place.offset.next_multiple_of(BLOCK_BYTES);
        }
        self.blocks += place.size / BLOCK_BYTES;
        place.offset + head + tail
    }
}

/// The names in a directory, its own and its parent's among them, sorted: none if it names one of these.
pub(super) fn names(tree: &Merged, number: usize, parent: usize) -> Vec<(&[u8], usize)> {
    let mut names: Vec<(&[u8], usize)> = vec![(b".", number), (b"..", parent)];
    names.extend(tree.children(number));
    names.sort_unstable_by_key(|(name, _)| *name);
    names
}

/// Bytes of the blocks of a directory, the last one as far as there is anything in it.
fn directory_bytes(tree: &Merged, number: usize) -> u64 {
    let mut bytes = 0;
    for (name, _) in names(tree, number, number) {
        let entry = ENTRY_BYTES + name.len() as u64;
        if bytes % BLOCK_BYTES + entry > BLOCK_BYTES {
            bytes = bytes.next_multiple_of(BLOCK_BYTES);
        }
        bytes += entry;
    }
    bytes
}
