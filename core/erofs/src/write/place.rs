//! What goes where in an image.

use pontoon_layer::{Kind, Tree};

use super::WriteError;
use super::directory::Directory;
use super::order::Order;
use super::xattr::Bodies;
use crate::disk::{self, BLOCK_BITS, BLOCK_BYTES, SLOT_BYTES, chunk, device_slot, inode};

const BLOCK: usize = BLOCK_BYTES as usize;
const SLOT: usize = SLOT_BYTES as usize;
const INODE: usize = inode::BYTES as usize;

/// Where an inode is and what belongs to it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) offset: usize,
    /// What the inode says of its size.
    pub(super) size: u64,
    /// Behind inode and extended attributes: chunk indexes, or the end of a directory or a target.
    pub(super) content: usize,
    /// Whether the end of the directory or the target is there.
    pub(super) inline: bool,
    /// The block where the rest of it begins.
    pub(super) block: u32,
}

impl Place {
    pub(super) fn nid(&self) -> u64 {
        (self.offset / SLOT) as u64
    }

    pub(super) fn xattrs(&self) -> usize {
        self.offset + INODE
    }
}

/// Where everything is.
#[derive(Debug)]
pub(super) struct Places {
    inodes: Vec<Place>,
    /// The first block behind the contents, and behind the shared attributes that follow.
    shared: usize,
    end: usize,
}

impl Places {
    pub(super) fn of(
        tree: &Tree,
        order: &Order,
        bodies: &Bodies,
        data_size: u64,
    ) -> Result<Self, WriteError> {
        let mut plan = Plan {
            cursor: device_slot::OFFSET + device_slot::BYTES,
            blocks: 0,
        };
        let mut inodes = Vec::with_capacity(order.ids().len());
        for (number, id) in order.ids().iter().enumerate() {
            let node = tree.node(*id);
            let xattrs = bodies.body(number).len();
            inodes.push(match node.kind {
                Kind::File { data_offset } => {
                    check_data(data_offset, node.size, data_size)
                        .map_err(|what| WriteError::at(tree, *id, what))?;
                    plan.file(node.size, xattrs)
                }
                Kind::Symlink(target) => {
                    check_target(target).map_err(|what| WriteError::at(tree, *id, what))?;
                    plan.content(target.len(), xattrs)?
                }
                Kind::Directory => {
                    plan.content(Directory::of(tree, order, number).bytes(), xattrs)?
                }
                _ => plan.file(0, xattrs),
            });
        }
        // fsck.erofs 1.5 reads the header of extended attributes even where there are none.
        let contents = (plan.cursor + disk::xattr::HEADER_BYTES).div_ceil(BLOCK);
        for place in &mut inodes {
            if place.block != inode::NO_BLOCK {
                let block = contents + place.block as usize;
                place.block = u32::try_from(block).map_err(|_| WriteError::TooLarge)?;
            }
        }
        let shared = contents + plan.blocks;
        Ok(Places {
            inodes,
            shared,
            end: shared + bodies.shared().len().div_ceil(BLOCK),
        })
    }

    pub(super) fn of_inode(&self, number: usize) -> &Place {
        &self.inodes[number]
    }

    /// Where the shared attributes are; 0 if there are none.
    pub(super) fn shared_xattrs(&self) -> usize {
        match self.end > self.shared {
            true => self.shared << BLOCK_BITS,
            false => 0,
        }
    }

    /// How many blocks the image has.
    pub(super) fn blocks(&self) -> Result<u32, WriteError> {
        u32::try_from(self.end).map_err(|_| WriteError::TooLarge)
    }
}

fn check_data(offset: u64, size: u64, data_size: u64) -> Result<(), &'static str> {
    if size == 0 {
        return Ok(());
    }
    if !offset.is_multiple_of(BLOCK_BYTES) {
        return Err("its data is not aligned to 4096 bytes");
    }
    match offset.checked_add(size) {
        Some(end) if end <= data_size => Ok(()),
        _ => Err("its data is not in the data file"),
    }
}

fn check_target(target: &[u8]) -> Result<(), &'static str> {
    match target.len() {
        1..BLOCK => Ok(()),
        _ => Err("its target is longer than 4095 bytes, or empty"),
    }
}

/// What is placed so far.
struct Plan {
    /// Behind the last inode.
    cursor: usize,
    /// How many blocks of contents there are.
    blocks: usize,
}

impl Plan {
    /// An inode and `length` bytes behind it, whose first `together` bytes have to be in one block. Where they are.
    fn inode(&mut self, together: usize, length: usize) -> usize {
        let offset = self.cursor.next_multiple_of(SLOT);
        let fits = offset % BLOCK + together <= BLOCK;
        let offset = if fits {
            offset
        } else {
            offset.next_multiple_of(BLOCK)
        };
        self.cursor = offset + length;
        offset
    }

    /// An inode with chunk indexes, or with nothing.
    fn file(&mut self, size: u64, xattrs: usize) -> Place {
        let chunks = size.div_ceil(1 << chunk::BITS) as usize;
        // Inodes are aligned to more than indexes.
        let content = (INODE + xattrs).next_multiple_of(chunk::BYTES as usize);
        let offset = self.inode(INODE, content + chunks * chunk::BYTES as usize);
        Place {
            offset,
            size,
            content: offset + content,
            inline: false,
            block: inode::NO_BLOCK,
        }
    }

    /// An inode with a directory or a target of `size` bytes. What does not fill a block is beside the inode if both
    /// are in one block then: the kernel wants that of targets, and reading a small directory takes one page.
    fn content(&mut self, size: usize, xattrs: usize) -> Result<Place, WriteError> {
        let tail = size % BLOCK;
        let content = INODE + xattrs;
        let inline = tail > 0 && content + tail <= BLOCK;
        let offset = match inline {
            true => self.inode(content + tail, content + tail),
            false => self.inode(INODE, content),
        };
        let blocks = match inline {
            true => size / BLOCK,
            false => size.div_ceil(BLOCK),
        };
        let block = match blocks {
            0 => inode::NO_BLOCK,
            // From the first block of contents on, until that one is known.
            _ => u32::try_from(self.blocks).map_err(|_| WriteError::TooLarge)?,
        };
        self.blocks += blocks;
        Ok(Place {
            offset,
            size: size as u64,
            content: offset + content,
            inline,
            block,
        })
    }
}
