//! What lies where in an image. Everything is little-endian. Offsets of fields are those of the structs of the same
//! name in Linux's `fs/erofs/erofs_fs.h`.

/// Blocks of the image, and of the data file.
pub(crate) const BLOCK_BYTES: u64 = 1 << BLOCK_BITS;
pub(crate) const BLOCK_BITS: u32 = 12;

/// The image starts at block 0, so a nid is an offset in it, in slots of this many bytes.
pub(crate) const SLOT_BYTES: u64 = 32;

/// `struct erofs_super_block`, at [`super_block::OFFSET`].
pub(crate) mod super_block {
    pub(crate) const OFFSET: usize = 1024;
    pub(crate) const BYTES: usize = 128;
    pub(crate) const MAGIC_VALUE: u32 = 0xe0f5_e1e2;

    pub(crate) const MAGIC: usize = 0;
    pub(crate) const CHECKSUM: usize = 4;
    pub(crate) const FEATURE_COMPAT: usize = 8;
    pub(crate) const BLOCK_BITS: usize = 12;
    /// 16 bits, so the root comes first.
    pub(crate) const ROOT_NID: usize = 14;
    pub(crate) const INODES: usize = 16;
    pub(crate) const BLOCKS: usize = 36;
    pub(crate) const META_BLOCK: usize = 40;
    pub(crate) const XATTR_BLOCK: usize = 44;
    pub(crate) const UUID: usize = 48;
    pub(crate) const UUID_BYTES: usize = 16;
    pub(crate) const FEATURE_INCOMPAT: usize = 80;
    pub(crate) const EXTRA_DEVICES: usize = 86;
    /// In units of [`super::device_slot::BYTES`].
    pub(crate) const DEVICE_TABLE: usize = 88;

    /// A checksum of block 0, and each inode has the time of its last change of content.
    pub(crate) const COMPAT: u32 = 0x1 | 0x2;
    /// Chunk-based files, and a device table.
    pub(crate) const INCOMPAT: u32 = 0x4 | 0x8;
}

/// `struct erofs_deviceslot`, one, right behind the superblock.
pub(crate) mod device_slot {
    pub(crate) const BYTES: usize = 128;
    pub(crate) const OFFSET: usize = super::super_block::OFFSET + super::super_block::BYTES;
    pub(crate) const BLOCKS: usize = 64;
}

/// The device of all files' data.
pub(crate) const DATA_DEVICE: u16 = 1;

/// `struct erofs_inode_extended`.
pub(crate) mod inode {
    pub(crate) const BYTES: u64 = 64;

    pub(crate) const FORMAT: usize = 0;
    pub(crate) const XATTR_COUNT: usize = 2;
    pub(crate) const MODE: usize = 4;
    pub(crate) const SIZE: usize = 8;
    /// Chunk format, first block or device number: what the type and the layout make of it.
    pub(crate) const UNION: usize = 16;
    pub(crate) const NUMBER: usize = 20;
    pub(crate) const UID: usize = 24;
    pub(crate) const GID: usize = 28;
    pub(crate) const MTIME: usize = 32;
    pub(crate) const MTIME_NANOSECONDS: usize = 40;
    pub(crate) const LINKS: usize = 44;

    /// The extended version; the layout is in the bits above.
    pub(crate) const EXTENDED: u16 = 1;
    pub(crate) const LAYOUT_SHIFT: u32 = 1;
    pub(crate) const PLAIN: u16 = 0;
    pub(crate) const INLINE: u16 = 2;
    pub(crate) const CHUNKS: u16 = 4;

    /// The first block of what has no data.
    pub(crate) const NO_BLOCK: u32 = u32::MAX;
}

/// `struct erofs_inode_chunk_index`, behind inode and extended attributes.
pub(crate) mod chunk {
    pub(crate) const BYTES: u64 = 8;
    pub(crate) const DEVICE: usize = 2;
    pub(crate) const BLOCK: usize = 4;
    /// Chunks of 1 GiB: nearly every file is one. The format goes up to 8 TiB, but programs on 32-bit machines and
    /// `fsck.erofs --extract` count a chunk's bytes in 32 bits.
    pub(crate) const BITS: u32 = 30;
    /// 8-byte indexes, and how much larger than a block a chunk is.
    pub(crate) const FORMAT: u16 = 0x20 | (BITS - super::BLOCK_BITS) as u16;
}

/// `struct erofs_dirent`. A block holds as many as fit, then their names, both in the order of the names.
pub(crate) mod dirent {
    pub(crate) const BYTES: usize = 12;
    pub(crate) const NAME_OFFSET: usize = 8;
    pub(crate) const FILE_TYPE: usize = 10;
    pub(crate) const NAME_BYTES_MAX: usize = 255;
}

/// `struct erofs_xattr_ibody_header`, `struct erofs_xattr_entry`.
pub(crate) mod xattr {
    pub(crate) const HEADER_BYTES: usize = 12;
    pub(crate) const SHARED_COUNT: usize = 4;
    pub(crate) const SHARED_MAX: usize = u8::MAX as usize;
    pub(crate) const ID_BYTES: usize = 4;
    pub(crate) const ENTRY_BYTES: usize = 4;
    pub(crate) const NAME_BYTES: usize = 0;
    pub(crate) const NAME_INDEX: usize = 1;
    pub(crate) const VALUE_BYTES: usize = 2;
    pub(crate) const ALIGN: usize = 4;

    /// The indexes that stand for the beginning of a name; what the kernel does not show is not here.
    pub(crate) const PREFIXES: [(u8, &str); 5] = [
        (1, "user."),
        (2, "system.posix_acl_access"),
        (3, "system.posix_acl_default"),
        (4, "trusted."),
        (6, "security."),
    ];

    /// What an inode says of how many bytes its attributes are, which is never just the header.
    pub(crate) fn count(bytes: usize) -> Option<u16> {
        match bytes.checked_sub(HEADER_BYTES) {
            None | Some(0) => Some(0),
            Some(rest) => u16::try_from(rest / ID_BYTES + 1).ok(),
        }
    }

    /// The inverse of [`count`].
    pub(crate) fn bytes(count: u16) -> usize {
        match usize::from(count) {
            0 => 0,
            count => HEADER_BYTES + (count - 1) * ID_BYTES,
        }
    }
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    let end = offset.checked_add(N)?;
    bytes.get(offset..end)?.try_into().ok()
}

/// What the checksum field of the superblock should hold: of block 0 from the superblock on, with that field zero.
/// None if `image` is shorter than a block.
pub(crate) fn checksum(image: &[u8]) -> Option<u32> {
    let block = image.get(super_block::OFFSET..BLOCK_BYTES as usize)?;
    let (magic, rest) = block.split_at_checked(super_block::CHECKSUM)?;
    let (_, rest) = rest.split_at_checked(size_of::<u32>())?;
    let parts = [magic, &[0; size_of::<u32>()], rest];
    Some(parts.into_iter().fold(u32::MAX, crc32c))
}

/// CRC-32C, without the inversions at both ends. Bit by bit: it only ever sees one block.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(crc, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => (crc >> 1) ^ POLYNOMIAL,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        // RFC 3720 B.4: 32 bytes of zeros, and 32 bytes 0 to 31.
        assert_eq!(!crc32c(u32::MAX, &[0; 32]), 0x8a91_36aa);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(!crc32c(u32::MAX, &ascending), 0x46dd_794e);
    }

    #[test]
    fn the_count_of_xattrs_tells_their_bytes() {
        assert_eq!(xattr::count(0), Some(0));
        assert_eq!(xattr::bytes(0), 0);
        for bytes in [16, 20, 4096, 262_148] {
            let count = xattr::count(bytes).unwrap();
            assert_eq!(xattr::bytes(count), bytes);
        }
        assert_eq!(xattr::count(262_152), None);
    }
}
