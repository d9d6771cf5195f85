//! The bootstrap: an EROFS image of all files without their data, and tables of blobs and chunks.
//!
//! In this order: superblocks and the table of devices; blobs; inodes; blocks of directories and targets; chunks.

use super::merge::{Merged, Node, What};
use super::order::Order;
use super::place::{ADDRESS_BYTES, ENTRY_BYTES, Place, Places, names};
use super::stock::{Blob, Chunk, Stock};
use super::{BLOCK_BYTES, Nydus, blob, xattr};
use crate::error::{Error, Result};

/// Where EROFS' superblock is, and RAFS' own behind it, and the table of devices.
const SUPER: usize = 1024;
pub(super) const EXTENDED: usize = SUPER + 128;
const DEVICES: usize = EXTENDED + 256;
const DEVICE_BYTES: usize = 128;
const BLOB_BYTES: usize = 256;
const CHUNK_BYTES: usize = 80;

const MAGIC: u32 = 0xe0f5_e1e2;
/// A feature that need not be known: RAFS v6.
const RAFS_V6: u32 = 0x4000_0000;
/// Features that must be: files in chunks, a table of devices.
const CHUNKS_AND_DEVICES: u32 = 4 | 8;

const FLAG_OWNERS: u64 = 0x10;
const FLAG_XATTRS: u64 = 0x20;

const CHUNK_COMPRESSED: u32 = 1;

/// The last one that an address can name: 8 bits, counted from 1.
const BLOBS_MAX: u64 = 254;

/// Data is in whole blocks elsewhere; the same, but the end follows the inode; in chunks.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;
const CHUNKED: u16 = 4;

/// Addresses of chunks are of 8 bytes. Below is the size of chunks, as a power of two of blocks.
const CHUNK_INDEXES: u32 = 0x20;

/// All that a bootstrap is made of.
pub(super) struct Image<'a> {
    pub(super) tree: &'a Merged,
    pub(super) stock: &'a Stock,
    /// The chunks of all files: those of one follow each other.
    pub(super) numbers: &'a [u32],
    pub(super) nydus: Nydus,
    pub(super) chunk_bytes: u32,
}

/// The bootstrap of `image`.
pub(super) fn write(image: &Image<'_>) -> Result<Vec<u8>> {
    let blobs = &image.stock.blobs;
    Error::check_limit("the blobs of an image", blobs.len() as u64, BLOBS_MAX)?;
    let order = Order::of(image.tree);
    check_names(image.tree, &order)?;
    let places = Places::of(image.tree, &order, image.chunk_bytes)?;
    let blob_table = (DEVICES + blobs.len() * DEVICE_BYTES).next_multiple_of(BLOCK_BYTES as usize);
    let meta = (blob_table + blobs.len() * BLOB_BYTES).next_multiple_of(BLOCK_BYTES as usize);
    let used = used(image, &order);
    let chunk_table = meta + block(places.inode_blocks + places.blocks);
    let end = chunk_table + used.iter().filter(|used| **used).count() * CHUNK_BYTES;
    let mut writer = Writer {
        bytes: vec![0; end.next_multiple_of(BLOCK_BYTES as usize)],
        image,
        order: &order,
        places: &places,
        meta,
    };
    writer.superblock();
    writer.extended(blob_table, chunk_table, end - chunk_table);
    for (number, blob) in blobs.iter().enumerate() {
        writer.device(number, blob);
        writer.blob(blob_table, number, blob);
    }
    for (number, place) in order.numbers.iter().zip(&places.all) {
        writer.node(*number, place)?;
    }
    let chunks = image.stock.chunks.iter().zip(&used);
    let chunks = chunks.filter_map(|(chunk, used)| used.then_some(chunk));
    for (at, chunk) in (chunk_table..).step_by(CHUNK_BYTES).zip(chunks) {
        writer.chunk(at, chunk);
    }
    Ok(writer.bytes)
}

/// Archives may have directories with names of whiteouts, as parents of other entries. Whoever reads a bootstrap takes them for
/// whiteouts, and no layer may have such files (OCI image specification, `layer.md`).
fn check_names(tree: &Merged, order: &Order) -> Result<()> {
    let all = order
        .numbers
        .iter()
        .flat_map(|number| tree.children(*number));
    for (name, _) in all {
        if name.starts_with(b".wh.") {
            let what = "a name of a whiteout that is none";
            return Err(Error::unsupported(name, what, "nydus"));
        }
    }
    Ok(())
}

/// Which chunks are of any file: of those that were replaced, nobody asks.
fn used(image: &Image<'_>, order: &Order) -> Vec<bool> {
    let mut used = vec![false; image.stock.chunks.len()];
    for number in &order.numbers {
        for chunk in chunks(image, &image.tree.nodes[*number]) {
            used[*chunk as usize] = true;
        }
    }
    used
}

/// The numbers of the chunks of a file.
fn chunks<'a>(image: &Image<'a>, node: &Node) -> &'a [u32] {
    let What::File { size, data } = node.what else {
        return &[];
    };
    let count = size.div_ceil(u64::from(image.chunk_bytes));
    let range = usize::try_from(data)
        .ok()
        .zip(usize::try_from(data + count).ok());
    let found = range.and_then(|(first, end)| image.numbers.get(first..end));
    found.unwrap_or_default()
}

/// So many blocks, in bytes. All bytes of a bootstrap are in memory.
fn block(count: u64) -> usize {
    usize::try_from(count * BLOCK_BYTES).unwrap_or(usize::MAX)
}

struct Writer<'a> {
    bytes: Vec<u8>,
    image: &'a Image<'a>,
    order: &'a Order,
    places: &'a Places,
    /// Where inodes are counted from.
    meta: usize,
}

impl Writer<'_> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: usize, word: u32) {
        self.put(at, &word.to_le_bytes());
    }

    fn long(&mut self, at: usize, long: u64) {
        self.put(at, &long.to_le_bytes());
    }

    fn short(&mut self, at: usize, short: u16) {
        self.put(at, &short.to_le_bytes());
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the root is the first inode, and numbers of blocks and blobs were checked"
    )]
    fn superblock(&mut self) {
        let root = self.places.all.first().map_or(0, Place::nid);
        let blobs = &self.image.stock.blobs;
        let blocks = blobs.iter().map(|blob| blob.data_bytes / BLOCK_BYTES);
        let blocks: u64 = blocks.sum();
        self.word(SUPER, MAGIC);
        self.word(SUPER + 8, RAFS_V6);
        // Bits of the size of a block.
        self.bytes[SUPER + 12] = 12;
        self.short(SUPER + 14, root as u16);
        self.long(SUPER + 16, self.order.numbers.len() as u64);
        // For statfs alone.
        self.word(SUPER + 36, blocks.min(u64::from(u32::MAX)) as u32);
        self.word(SUPER + 40, (self.meta / BLOCK_BYTES as usize) as u32);
        self.word(SUPER + 80, CHUNKS_AND_DEVICES);
        self.short(SUPER + 86, blobs.len() as u16);
        // Where the table of devices is, in its records.
        self.short(SUPER + 88, (DEVICES / DEVICE_BYTES) as u16);
    }

    fn extended(&mut self, blob_table: usize, chunk_table: usize, chunk_table_bytes: usize) {
        let nydus = self.image.nydus;
        let has_xattrs = self.places.all.iter().any(|place| !place.xattrs.is_empty());
        let flags = nydus.compression.flag()
            | nydus.digest.flag()
            | FLAG_OWNERS
            | if has_xattrs { FLAG_XATTRS } else { 0 };
        let blobs = self.image.stock.blobs.len() * BLOB_BYTES;
        self.long(EXTENDED, flags);
        self.long(EXTENDED + 8, blob_table as u64);
        self.word(EXTENDED + 16, u32::try_from(blobs).unwrap_or_default());
        self.word(EXTENDED + 20, self.image.chunk_bytes);
        self.long(EXTENDED + 24, chunk_table as u64);
        self.long(EXTENDED + 32, chunk_table_bytes as u64);
    }

    fn device(&mut self, number: usize, blob: &Blob) {
        let at = DEVICES + number * DEVICE_BYTES;
        self.put(at, blob.digest.hex().as_bytes());
        let blocks = u32::try_from(blob.data_bytes / BLOCK_BYTES);
        self.word(at + 64, blocks.unwrap_or(u32::MAX));
    }

    fn blob(&mut self, table: usize, number: usize, blob: &Blob) {
        let at = table + number * BLOB_BYTES;
        let Nydus {
            compression,
            digest,
        } = self.image.nydus;
        self.put(at, blob.digest.hex().as_bytes());
        self.word(at + 64, u32::try_from(number).unwrap_or(u32::MAX));
        self.word(at + 68, self.image.chunk_bytes);
        self.word(at + 72, blob.chunks);
        self.word(at + 76, compression.code());
        self.word(at + 80, digest.code());
        self.word(at + 84, blob::FEATURES);
        self.long(at + 88, blob.bytes);
        self.long(at + 96, blob.data_bytes);
        self.word(at + 108, blob.table.compression.code());
        self.long(at + 112, blob.table.offset);
        self.long(at + 120, blob.table.stored_bytes);
        self.long(at + 128, blob.table.bytes);
    }

    fn chunk(&mut self, at: usize, chunk: &Chunk) {
        self.put(at, &chunk.hash);
        self.word(at + 32, chunk.blob);
        self.word(
            at + 36,
            if chunk.compressed {
                CHUNK_COMPRESSED
            } else {
                0
            },
        );
        self.word(at + 40, chunk.stored_bytes);
        self.word(at + 44, chunk.bytes);
        self.long(at + 48, chunk.offset);
        self.long(at + 56, chunk.data_offset);
        self.word(at + 72, chunk.index);
    }

    /// An inode, and what it has.
    fn node(&mut self, number: usize, place: &Place) -> Result<()> {
        let node = &self.image.tree.nodes[number];
        // Blocks are counted from the beginning of the bootstrap.
        let first = (self.meta as u64 / BLOCK_BYTES) + self.places.inode_blocks + place.block;
        let first = u32::try_from(first).unwrap_or(u32::MAX);
        let (layout, union) = match &node.what {
            What::File { .. } => (CHUNKED, self.file(node, place)),
            What::CharDevice(major, minor) | What::BlockDevice(major, minor) => {
                (PLAIN, device_number(*major, *minor))
            }
            _ if place.inline => (INLINE, first),
            _ => (PLAIN, first),
        };
        match &node.what {
            What::Symlink(target) => self.content(place, target),
            What::Directory(_) => {
                let directory = self.directory(number);
                self.content(place, &directory);
            }
            _ => {}
        }
        let at = self.meta + usize::try_from(place.offset).unwrap_or(usize::MAX);
        // It has the longer form, with the time.
        self.short(at, 1 | layout << 1);
        self.short(at + 2, xattr::count(place.xattrs.len())?);
        self.short(at + 4, node.mode | kind(&node.what).0);
        self.long(at + 8, place.size);
        self.word(at + 16, union);
        let index = self.order.place(number) + 1;
        self.word(at + 20, u32::try_from(index).unwrap_or(u32::MAX));
        self.word(at + 24, node.uid);
        self.word(at + 28, node.gid);
        self.put(at + 32, &node.mtime.seconds.to_le_bytes());
        self.word(at + 40, node.mtime.nanoseconds);
        self.word(at + 44, self.order.links(number));
        self.put(at + 64, &place.xattrs);
        Ok(())
    }

    /// Writes the addresses of the chunks of a file, and answers how large its chunks are, for EROFS: if they follow each
    /// other, it may take the whole file for one.
    fn file(&mut self, node: &Node, place: &Place) -> u32 {
        let image = self.image;
        let behind = place.behind().next_multiple_of(ADDRESS_BYTES);
        let mut at = self.meta + usize::try_from(behind).unwrap_or(usize::MAX);
        let mut follow = true;
        let mut next = None;
        for number in chunks(image, node) {
            let chunk = &image.stock.chunks[*number as usize];
            let here = (chunk.blob, chunk.data_offset);
            follow &= next.is_none_or(|next| next == here);
            next = Some((chunk.blob, chunk.data_offset + u64::from(image.chunk_bytes)));
            self.put(at, &address(chunk));
            at += ADDRESS_BYTES as usize;
        }
        let chunk_bytes = u64::from(image.chunk_bytes);
        let one = match follow && place.size > chunk_bytes {
            true => place.size.next_power_of_two(),
            false => chunk_bytes,
        };
        CHUNK_INDEXES | (one / BLOCK_BYTES).trailing_zeros()
    }

    /// The blocks of a directory: entries, then their names.
    fn directory(&self, number: usize) -> Vec<u8> {
        let tree = self.image.tree;
        let names = names(tree, number, self.order.parent(number));
        let mut bytes = Vec::new();
        let mut rest = &names[..];
        while !rest.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
            let mut used = 0;
            let fit = rest.iter().take_while(|(name, _)| {
                used += ENTRY_BYTES + name.len() as u64;
                used <= BLOCK_BYTES
            });
            let (block, behind) = rest.split_at(fit.count().max(1));
            rest = behind;
            let mut name_at = block.len() * ENTRY_BYTES as usize;
            for (name, child) in block {
                let place = &self.places.all[self.order.place(*child)];
                bytes.extend(place.nid().to_le_bytes());
                // Less than the bytes of a block.
                bytes.extend(u16::try_from(name_at).unwrap_or_default().to_le_bytes());
                bytes.extend([kind(&tree.nodes[*child].what).1, 0]);
                name_at += name.len();
            }
            block.iter().for_each(|(name, _)| bytes.extend(*name));
        }
        bytes
    }

    /// Writes what a directory or a symbolic link has.
    fn content(&mut self, place: &Place, bytes: &[u8]) {
        let blocks = match place.inline {
            true => bytes.len() - bytes.len() % BLOCK_BYTES as usize,
            false => bytes.len(),
        };
        let (blocks, tail) = bytes.split_at(blocks);
        let at = self.meta + block(self.places.inode_blocks + place.block);
        self.put(at, blocks);
        let behind = usize::try_from(place.behind()).unwrap_or(usize::MAX);
        self.put(self.meta + behind, tail);
    }
}

/// The low 16 bits of the chunk's number, the blob's number plus 1, the high 8 bits of the chunk's number, and the block.
fn address(chunk: &Chunk) -> [u8; ADDRESS_BYTES as usize] {
    let [low, middle, high, _] = chunk.index.to_le_bytes();
    let [blob, ..] = (chunk.blob + 1).to_le_bytes();
    let block = u32::try_from(chunk.data_offset / BLOCK_BYTES).unwrap_or(u32::MAX);
    let [a, b, c, d] = block.to_le_bytes();
    [low, middle, blob, high, a, b, c, d]
}

/// Bits of the type of a file, and what a directory says of it.
fn kind(what: &What) -> (u16, u8) {
    match what {
        What::File { .. } => (0o100_000, 1),
        What::Directory(_) => (0o040_000, 2),
        What::CharDevice(..) => (0o020_000, 3),
        What::BlockDevice(..) => (0o060_000, 4),
        What::Fifo => (0o010_000, 5),
        What::Socket => (0o140_000, 6),
        What::Symlink(_) => (0o120_000, 7),
    }
}

/// Major and minor number, as Linux packs them into 32 bits.
fn device_number(major: u32, minor: u32) -> u32 {
    minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}
