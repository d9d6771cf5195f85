//! Directories as blocks of sorted entries.

use std::ops::Range;

use pontoon_layer::Tree;

use super::order::Order;
use crate::FileType;
use crate::disk::{BLOCK_BYTES, dirent};

const BLOCK: usize = BLOCK_BYTES as usize;

/// The entries of a directory.
pub(super) struct Directory<'a> {
    entries: Vec<Entry<'a>>,
    blocks: Vec<Range<usize>>,
}

struct Entry<'a> {
    name: &'a [u8],
    /// The inode, in [`Order`].
    number: usize,
    file_type: FileType,
}

impl Entry<'_> {
    fn bytes(&self) -> usize {
        dirent::BYTES + self.name.len()
    }
}

impl<'a> Directory<'a> {
    pub(super) fn of(tree: &'a Tree, order: &Order, number: usize) -> Self {
        let children = tree.children(order.ids()[number]);
        let mut entries = Vec::with_capacity(children.len() + 2);
        entries.extend(children.map(|(name, id)| Entry {
            name,
            number: order.number(id),
            file_type: FileType::from(tree.node(id).kind),
        }));
        for (name, number) in [(&b"."[..], number), (b"..", order.parent(number))] {
            let at = entries.partition_point(|entry| entry.name < name);
            let file_type = FileType::Directory;
            entries.insert(
                at,
                Entry {
                    name,
                    number,
                    file_type,
                },
            );
        }
        let blocks = blocks(&entries);
        Directory { entries, blocks }
    }

    /// How long it is: all of its blocks but for what is not used of the last one.
    pub(super) fn bytes(&self) -> usize {
        let last = self.blocks.last().cloned().unwrap_or_default();
        let last: usize = self.entries[last].iter().map(Entry::bytes).sum();
        (self.blocks.len() - 1) * BLOCK + last
    }

    pub(super) fn encode(&self, nid: impl Fn(usize) -> u64) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes()];
        for (block, range) in bytes.chunks_mut(BLOCK).zip(&self.blocks) {
            let entries = &self.entries[range.clone()];
            let mut name_at = entries.len() * dirent::BYTES;
            for (entry, place) in entries.iter().zip((0..).step_by(dirent::BYTES)) {
                let mut put =
                    |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
                put(place, &nid(entry.number).to_le_bytes());
                // Below 4096.
                put(place + dirent::NAME_OFFSET, &(name_at as u16).to_le_bytes());
                put(place + dirent::FILE_TYPE, &[entry.file_type.in_directory()]);
                put(name_at, entry.name);
                name_at += entry.name.len();
            }
        }
        bytes
    }
}

/// Which entries are in which block: as many as fit.
fn blocks(entries: &[Entry<'_>]) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let (mut first, mut used) = (0, 0);
    for (index, entry) in entries.iter().enumerate() {
        if used + entry.bytes() > BLOCK {
            blocks.push(first..index);
            (first, used) = (index, 0);
        }
        used += entry.bytes();
    }
    blocks.push(first..entries.len());
    blocks
}
