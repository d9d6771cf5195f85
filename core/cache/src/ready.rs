//! The file `ready`: which chunks are in `data` and synced.
//!
//! Blocks of 512 bytes, for a disk writes a sector wholly or not: bits of [`BLOCK_CHUNKS`] chunks, then the first 16
//! bytes of a SHA-256 over the digest of the chunk table, the number of the block and the bits. A block of zeros, or
//! one beyond the end of the file, has no bit set. A block whose check does not match is not believed: a bit that
//! should not be set would give zeros for a file's content.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;

use pontoon_layer::{Algorithm, Digest, Hasher};

use crate::disk::Disk;

pub(crate) const BLOCK_BYTES: usize = 512;
const CHECK_BYTES: usize = 16;
const BITS_BYTES: usize = BLOCK_BYTES - CHECK_BYTES;
const BLOCK_WORDS: usize = BITS_BYTES / 8;

/// Chunks whose bits are in one block.
pub(crate) const BLOCK_CHUNKS: usize = BLOCK_WORDS * 64;

/// What the file `ready` of a layer says, or is to say next.
#[derive(Debug)]
pub(crate) struct Ready {
    table: Digest,
    len: usize,
    words: Vec<u64>,
    /// Blocks that are not as in the file.
    dirty: BTreeSet<usize>,
}

impl Ready {
    /// No bit of `len` is set. `table` is the digest of the layer's chunk table.
    pub(crate) fn empty(table: Digest, len: usize) -> Self {
        Ready {
            table,
            len,
            words: vec![0; len.div_ceil(BLOCK_CHUNKS) * BLOCK_WORDS],
            dirty: BTreeSet::new(),
        }
    }

    /// What the content of a file says, and how many blocks of it are damaged. Those count as clear and are
    /// written again with the next change.
    pub(crate) fn decode(bytes: &[u8], table: Digest, len: usize) -> (Self, usize) {
        let mut ready = Ready::empty(table, len);
        let mut damaged = 0;
        let blocks = ready.words.len() / BLOCK_WORDS;
        for (number, block) in bytes.chunks(BLOCK_BYTES).take(blocks).enumerate() {
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            match ready.checked(number, block) {
                Some(words) => {
                    let start = number * BLOCK_WORDS;
                    ready.words[start..start + BLOCK_WORDS].copy_from_slice(&words);
                }
                None => {
                    damaged += 1;
                    ready.dirty.insert(number);
                }
            }
        }
        (ready, damaged)
    }

    /// The longest file that says something, in bytes.
    pub(crate) fn file_bytes(len: usize) -> usize {
        len.div_ceil(BLOCK_CHUNKS) * BLOCK_BYTES
    }

    fn checked(&self, number: usize, block: &[u8]) -> Option<[u64; BLOCK_WORDS]> {
        let (bits, check) = block.split_at_checked(BITS_BYTES)?;
        if check != self.check(number, bits) {
            return None;
        }
        let mut words = [0; BLOCK_WORDS];
        for (word, bytes) in words.iter_mut().zip(bits.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(words)
    }

    fn check(&self, number: usize, bits: &[u8]) -> [u8; CHECK_BYTES] {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(self.table.bytes());
        hasher.update(&(number as u64).to_le_bytes());
        hasher.update(bits);
        let mut check = [0; CHECK_BYTES];
        for (byte, hashed) in check.iter_mut().zip(hasher.finish().bytes()) {
            *byte = *hashed;
        }
        check
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len).filter(|index| self.words[index / 64] & (1 << (index % 64)) != 0)
    }

    pub(crate) fn set(&mut self, index: usize) {
        self.change(index, |word, mask| word | mask);
    }

    pub(crate) fn clear(&mut self, index: usize) {
        self.change(index, |word, mask| word & !mask);
    }

    /// Clears every bit. The caller empties the file.
    pub(crate) fn clear_all(&mut self) {
        self.words.fill(0);
        self.dirty.clear();
    }

    /// Everything is written again with the next change.
    pub(crate) fn set_dirty(&mut self) {
        self.dirty = (0..self.words.len() / BLOCK_WORDS).collect();
    }

    fn change(&mut self, index: usize, change: impl Fn(u64, u64) -> u64) {
        if index >= self.len {
            return;
        }
        let word = &mut self.words[index / 64];
        let changed = change(*word, 1 << (index % 64));
        if *word != changed {
            *word = changed;
            self.dirty.insert(index / BLOCK_CHUNKS);
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Writes and syncs what changed. What is not known to be on the disk is written again the next time.
    pub(crate) fn write(&mut self, disk: &dyn Disk, file: &File) -> io::Result<()> {
        for number in &self.dirty {
            let mut block = [0; BLOCK_BYTES];
            let start = number * BLOCK_WORDS;
            let words = &self.words[start..start + BLOCK_WORDS];
            if words.iter().any(|word| *word != 0) {
                for (bytes, word) in block.chunks_mut(8).zip(words) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                let check = self.check(*number, &block[..BITS_BYTES]);
                block[BITS_BYTES..].copy_from_slice(&check);
            }
            disk.write_at(file, &block, (number * BLOCK_BYTES) as u64)?;
        }
        disk.sync_data(file)?;
        self.dirty.clear();
        Ok(())
    }
}

/// Clears every bit of the file at `path` durably, if it is there.
pub(crate) fn clear_file(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    disk.set_len(&file, 0)?;
    disk.sync_data(&file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::disk::System;

    fn written(ready: &mut Ready) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        ready.write(&System, &file).unwrap();
        assert!(!ready.is_dirty());
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn example() -> (Ready, Vec<usize>) {
        let mut ready = Ready::empty(Digest::of(b"table"), 10_000);
        let indexes = vec![0, 1, 63, 64, 3967, 3968, 9999];
        indexes.iter().for_each(|index| ready.set(*index));
        ready.set(10_000);
        (ready, indexes)
    }

    #[test]
    fn what_is_written_is_read() {
        let (mut ready, indexes) = example();
        let bytes = written(&mut ready);
        assert_eq!(bytes.len(), Ready::file_bytes(10_000));
        let (read, damaged) = Ready::decode(&bytes, Digest::of(b"table"), 10_000);
        assert_eq!(damaged, 0);
        assert_eq!(read.iter().collect::<Vec<_>>(), indexes);
    }

    #[test]
    fn a_changed_block_says_nothing_and_the_others_what_they_said() {
        let (mut ready, _) = example();
        let bytes = written(&mut ready);
        for position in 0..BLOCK_BYTES {
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            let (read, damaged) = Ready::decode(&changed, Digest::of(b"table"), 10_000);
            assert_eq!(damaged, 1, "changed at {position}");
            assert_eq!(read.iter().collect::<Vec<_>>(), [3968, 9999]);
            assert!(read.is_dirty());
        }
    }

    #[test]
    fn another_tables_bits_and_half_a_file_are_not_believed() {
        let (mut ready, _) = example();
        let bytes = written(&mut ready);
        let (read, damaged) = Ready::decode(&bytes, Digest::of(b"other"), 10_000);
        assert_eq!((read.iter().count(), damaged), (0, 3));
        let (read, damaged) = Ready::decode(&bytes[..700], Digest::of(b"table"), 10_000);
        assert_eq!((read.iter().count(), damaged), (5, 1));
        let mut moved = bytes.clone();
        moved.copy_within(..BLOCK_BYTES, BLOCK_BYTES);
        let (_, damaged) = Ready::decode(&moved, Digest::of(b"table"), 10_000);
        assert_eq!(damaged, 1);
    }

    #[test]
    fn cleared_bits_are_gone() {
        let (mut ready, indexes) = example();
        indexes.iter().for_each(|index| ready.clear(*index));
        let bytes = written(&mut ready);
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
