//! Directories: blocks of sorted entries, so that a name is found by two binary searches.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::{FileType, Inode, Nid, ReadError, View};
use crate::disk::{BLOCK_BITS, BLOCK_BYTES, dirent, u16_at, u64_at};

/// An entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name: up to 255 bytes, neither `/` nor NUL among them in images that were not damaged.
    pub name: &'a [u8],
    /// The inode.
    pub nid: Nid,
    /// What it is.
    pub file_type: FileType,
    /// Where to go on behind this entry: above all those before it, below 2^63.
    pub next_cookie: u64,
}

/// One block of entries.
#[derive(Clone, Copy)]
struct Block<'a> {
    bytes: &'a [u8],
    entries: usize,
}

impl<'a> Block<'a> {
    /// None unless there is room for an entry and its name.
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let names = usize::from(u16_at(bytes, dirent::NAME_OFFSET)?);
        let entries = names / dirent::BYTES;
        let sound = names.is_multiple_of(dirent::BYTES) && entries > 0 && names <= bytes.len();
        sound.then_some(Block { bytes, entries })
    }

    fn name_offset(&self, index: usize) -> Option<usize> {
        u16_at(self.bytes, index * dirent::BYTES + dirent::NAME_OFFSET).map(usize::from)
    }

    fn name(&self, index: usize) -> Option<&'a [u8]> {
        let start = self.name_offset(index)?;
        let name = if index + 1 < self.entries {
            self.bytes.get(start..self.name_offset(index + 1)?)?
        } else {
            // The last one ends with the block, or with the first of the zeros that fill it.
            let rest = self.bytes.get(start..)?;
            let end = rest.iter().position(|byte| *byte == 0);
            &rest[..end.unwrap_or(rest.len())]
        };
        (1..=dirent::NAME_BYTES_MAX)
            .contains(&name.len())
            .then_some(name)
    }

    fn nid(&self, index: usize) -> Option<Nid> {
        u64_at(self.bytes, index * dirent::BYTES).map(Nid)
    }

    fn file_type(&self, index: usize) -> Option<FileType> {
        let number = self.bytes.get(index * dirent::BYTES + dirent::FILE_TYPE)?;
        FileType::of_directory(*number)
    }

    fn entry(&self, index: usize, next_cookie: u64) -> Option<DirEntry<'a>> {
        Some(DirEntry {
            name: self.name(index)?,
            nid: self.nid(index)?,
            file_type: self.file_type(index)?,
            next_cookie,
        })
    }
}

impl<'a> View<'a> {
    fn directory(&self, nid: Nid) -> Result<Inode, ReadError> {
        let inode = self.inode(nid)?;
        match inode.file_type {
            FileType::Directory => Ok(inode),
            _ => Err(ReadError::NotADirectory(nid)),
        }
    }

    fn entries(&self, directory: &Inode, index: u64) -> Result<Block<'a>, ReadError> {
        let block = directory.block(self, index).and_then(Block::new);
        block.ok_or(directory.nid.damaged("a block of its entries is not one"))
    }

    pub(super) fn lookup(&self, nid: Nid, name: &[u8]) -> Result<Option<Nid>, ReadError> {
        let directory = self.directory(nid)?;
        let damaged = || nid.damaged("an entry is not one");
        // The last block whose first name is not above the one in question.
        let found = search(directory.blocks(), |index| {
            let first = self.entries(&directory, index)?.name(0);
            Ok(first.ok_or_else(damaged)?.cmp(name))
        })?;
        let (block, same) = match found {
            Some(found) => found,
            None => return Ok(None),
        };
        let block = self.entries(&directory, block)?;
        let index = match same {
            true => 0,
            false => match search(block.entries as u64, |index| {
                let entry = block.name(index as usize);
                Ok(entry.ok_or_else(damaged)?.cmp(name))
            })? {
                Some((index, true)) => index as usize,
                _ => return Ok(None),
            },
        };
        block.nid(index).ok_or_else(damaged).map(Some)
    }

    pub(super) fn read_dir(
        &self,
        nid: Nid,
        cookie: u64,
        mut emit: impl FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let directory = self.directory(nid)?;
        let mut first = (cookie % BLOCK_BYTES) as usize;
        for number in cookie >> BLOCK_BITS..directory.blocks() {
            let block = self.entries(&directory, number)?;
            for index in first..block.entries {
                let next_cookie = match index + 1 < block.entries {
                    true => (number << BLOCK_BITS) + index as u64 + 1,
                    false => (number + 1) << BLOCK_BITS,
                };
                let entry = block.entry(index, next_cookie);
                let entry = entry.ok_or(nid.damaged("an entry is not one"))?;
                if emit(entry).is_break() {
                    return Ok(());
                }
            }
            first = 0;
        }
        Ok(())
    }
}

/// The last of `count` elements in order that is not above what is looked for, and whether it is that; `compare`
/// compares an element with it.
fn search<E>(
    count: u64,
    mut compare: impl FnMut(u64) -> Result<Ordering, E>,
) -> Result<Option<(u64, bool)>, E> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(middle)? {
            Ordering::Equal => return Ok(Some((middle, true))),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    Ok(low.checked_sub(1).map(|last| (last, false)))
}
