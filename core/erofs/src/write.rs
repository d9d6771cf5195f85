//! Makes an image of a tree: of the same tree the same bytes, always.
//!
//! In this order: superblock and device table; inodes, each with its extended attributes, its chunk indexes or, if it
//! fits in the same block, the end of its directory or its target; blocks of directories and targets; the extended
//! attributes that several inodes have. What a directory lists follows each other, and so do the directories of a
//! subtree.

mod directory;
mod order;
mod place;
#[cfg(test)]
mod tests;
mod xattr;

use pontoon_layer::{Algorithm, Hasher, Kind, Node, NodeId, Tree};

use crate::FileType;
use crate::disk::{self, BLOCK_BITS, BLOCK_BYTES, chunk, device_slot, inode, super_block};
use directory::Directory;
use order::Order;
use place::{Place, Places};
use xattr::Bodies;

/// Why there can be no image of a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Something in it that EROFS has no form for.
    #[error("the layer does not fit in a metadata image: {path}: {what}; unpack it instead")]
    Unrepresentable {
        /// Where, relative to the root; the first of its names.
        path: String,
        /// What about it.
        what: &'static str,
    },
    /// The image or the data file would have more blocks than EROFS can count.
    #[error(
        "the layer does not fit in a metadata image: it is larger than 16 TiB; unpack it instead"
    )]
    TooLarge,
}

impl WriteError {
    fn at(tree: &Tree, id: NodeId, what: &'static str) -> Self {
        let mut found = None;
        tree.walk(|path, at| {
            if at == id && found.is_none() {
                found = Some(format!("/{}", String::from_utf8_lossy(path)));
            }
            found.is_none()
        });
        WriteError::Unrepresentable {
            path: found.unwrap_or_default(),
            what,
        }
    }
}

/// An image of `tree`, whose files have their data in the first `data_size` bytes of the data file.
///
/// The data file must end with a whole block of 4096 bytes: the kernel fails to read half of one.
///
/// Left out are extended attributes that no filesystem of Linux takes: those that are neither ACLs nor in one of the
/// namespaces `user`, `trusted` and `security`, and those in `user` of anything but files and directories. An error is
/// what EROFS has no form for: a symbolic link with a target of 4096 bytes, an extended attribute of 64 KiB, data that
/// is not aligned or not in the data file, and 16 TiB of anything.
pub fn write(tree: &Tree, data_size: u64) -> Result<Vec<u8>, WriteError> {
    let data_blocks = u32::try_from(data_size.div_ceil(BLOCK_BYTES)).ok();
    // The last number stands for no block.
    let data_blocks = data_blocks.filter(|blocks| *blocks < inode::NO_BLOCK);
    let data_blocks = data_blocks.ok_or(WriteError::TooLarge)?;
    let order = Order::of(tree);
    let bodies = Bodies::of(tree, &order)?;
    let places = Places::of(tree, &order, &bodies, data_size)?;
    let mut image = Image::new(places.blocks()?);
    for (number, id) in order.ids().iter().enumerate() {
        let node = tree.node(*id);
        let place = places.of_inode(number);
        let body = bodies.body(number);
        image.inode(number, &node, place, body.len());
        image.put(place.xattrs(), body);
        match node.kind {
            Kind::File { data_offset } => image.chunks(place.content, data_offset, node.size),
            Kind::Symlink(target) => image.content(place, target),
            Kind::Directory => {
                let directory = Directory::of(tree, &order, number);
                image.content(
                    place,
                    &directory.encode(|number| places.of_inode(number).nid()),
                );
            }
            _ => {}
        }
    }
    image.put(places.shared_xattrs(), bodies.shared());
    image.head(&order, &places, data_blocks);
    Ok(image.0)
}

/// An image that is being made. Everything goes where [`Places`] made room for it.
struct Image(Vec<u8>);

impl Image {
    fn new(blocks: u32) -> Self {
        Image(vec![0; (blocks as usize) << BLOCK_BITS])
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn inode(&mut self, number: usize, node: &Node<'_>, place: &Place, xattr_bytes: usize) {
        let (layout, union) = match node.kind {
            Kind::File { .. } if node.size > 0 => (inode::CHUNKS, chunk::FORMAT.into()),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                (inode::PLAIN, device_number(major, minor))
            }
            _ if place.inline => (inode::INLINE, place.block),
            _ => (inode::PLAIN, place.block),
        };
        let xattr_count = disk::xattr::count(xattr_bytes).unwrap_or_default();
        let mode = node.mode | FileType::from(node.kind).mode();
        let mut put = |field, bytes: &[u8]| self.put(place.offset + field, bytes);
        let format = inode::EXTENDED | (layout << inode::LAYOUT_SHIFT);
        put(inode::FORMAT, &format.to_le_bytes());
        put(inode::XATTR_COUNT, &xattr_count.to_le_bytes());
        put(inode::MODE, &mode.to_le_bytes());
        put(inode::SIZE, &place.size.to_le_bytes());
        put(inode::UNION, &union.to_le_bytes());
        // Only for programs that cannot take 64 bits.
        put(inode::NUMBER, &(number as u32 + 1).to_le_bytes());
        put(inode::UID, &node.uid.to_le_bytes());
        put(inode::GID, &node.gid.to_le_bytes());
        put(inode::MTIME, &node.mtime.seconds.to_le_bytes());
        put(
            inode::MTIME_NANOSECONDS,
            &node.mtime.nanoseconds.to_le_bytes(),
        );
        put(inode::LINKS, &node.links.to_le_bytes());
    }

    fn chunks(&mut self, offset: usize, data_offset: u64, size: u64) {
        let starts = (0..size).step_by(1 << chunk::BITS);
        for (index, start) in starts.enumerate() {
            let offset = offset + index * chunk::BYTES as usize;
            // Places saw that it is below the number of blocks of the data file.
            let block = ((data_offset + start) >> BLOCK_BITS) as u32;
            self.put(offset + chunk::DEVICE, &disk::DATA_DEVICE.to_le_bytes());
            self.put(offset + chunk::BLOCK, &block.to_le_bytes());
        }
    }

    /// The bytes of a directory or a symbolic link.
    fn content(&mut self, place: &Place, bytes: &[u8]) {
        let whole = match place.inline {
            true => bytes.len() & !(BLOCK_BYTES as usize - 1),
            false => bytes.len(),
        };
        let (blocks, tail) = bytes.split_at(whole);
        if !blocks.is_empty() {
            self.put((place.block as usize) << BLOCK_BITS, blocks);
        }
        self.put(place.content, tail);
    }

    /// Superblock and device table, when all the rest is there.
    fn head(&mut self, order: &Order, places: &Places, data_blocks: u32) {
        let blocks = (self.0.len() >> BLOCK_BITS) as u32;
        let slot = (device_slot::OFFSET / device_slot::BYTES) as u16;
        // It comes first: nowhere near 2^16.
        let root = places.of_inode(0).nid() as u16;
        let shared = (places.shared_xattrs() >> BLOCK_BITS) as u32;
        self.put(
            device_slot::OFFSET + device_slot::BLOCKS,
            &data_blocks.to_le_bytes(),
        );
        let mut put = |field, bytes: &[u8]| self.put(super_block::OFFSET + field, bytes);
        put(super_block::MAGIC, &super_block::MAGIC_VALUE.to_le_bytes());
        put(
            super_block::FEATURE_COMPAT,
            &super_block::COMPAT.to_le_bytes(),
        );
        put(super_block::BLOCK_BITS, &[BLOCK_BITS as u8]);
        put(super_block::ROOT_NID, &root.to_le_bytes());
        put(
            super_block::INODES,
            &(order.ids().len() as u64).to_le_bytes(),
        );
        put(super_block::BLOCKS, &blocks.to_le_bytes());
        put(super_block::XATTR_BLOCK, &shared.to_le_bytes());
        put(
            super_block::FEATURE_INCOMPAT,
            &super_block::INCOMPAT.to_le_bytes(),
        );
        put(super_block::EXTRA_DEVICES, &disk::DATA_DEVICE.to_le_bytes());
        put(super_block::DEVICE_TABLE, &slot.to_le_bytes());
        if let Some(uuid) = uuid(&self.0) {
            self.put(super_block::OFFSET + super_block::UUID, &uuid);
        }
        if let Some(checksum) = disk::checksum(&self.0) {
            self.put(
                super_block::OFFSET + super_block::CHECKSUM,
                &checksum.to_le_bytes(),
            );
        }
    }
}

/// The UUID of an image: a digest of all of it but the UUID itself and the checksum. It tells whether an image was
/// damaged, and overlayfs wants one that differs from layer to layer (for `index` and `xino`).
///
/// None if the image has no superblock.
pub(crate) fn uuid(image: &[u8]) -> Option<[u8; super_block::UUID_BYTES]> {
    const CHECKSUM: usize = super_block::OFFSET + super_block::CHECKSUM;
    const UUID: usize = super_block::OFFSET + super_block::UUID;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(image.get(..CHECKSUM)?);
    hasher.update(image.get(CHECKSUM + size_of::<u32>()..UUID)?);
    hasher.update(image.get(UUID + super_block::UUID_BYTES..)?);
    let digest = hasher.finish();
    let mut uuid: [u8; super_block::UUID_BYTES] = digest
        .bytes()
        .get(..super_block::UUID_BYTES)?
        .try_into()
        .ok()?;
    // RFC 9562: version 8, whose other bits are anybody's.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Some(uuid)
}

/// As Linux encodes device numbers in 32 bits.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}
