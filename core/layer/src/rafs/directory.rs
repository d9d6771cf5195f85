//! Directories: blocks of sorted entries, then their names.

use super::field::{u16_at, u64_at};
use super::inode::Inode;
use super::{BLOCK_BYTES, Bootstrap, malformed};
use crate::error::FormatError;

/// Bytes of an entry: inode, where its name is, type.
const ENTRY_BYTES: usize = 12;

/// Linux' own limit.
const NAME_BYTES_MAX: usize = 255;

impl<'a> Bootstrap<'a> {
    /// Gives every name in a directory, in order, but for `.` and `..`, with the number of its inode to `visit`. Names
    /// are checked: sorted, so none comes twice, and none that could lead anywhere else.
    pub(super) fn list(
        &self,
        directory: &Inode<'a>,
        mut visit: impl FnMut(&'a [u8], u64) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        let mut last: &[u8] = &[];
        for index in 0..directory.size.div_ceil(BLOCK_BYTES as u64) {
            let block = self.block(directory, index)?;
            let refuse = |reason: &str| {
                malformed(format!(
                    "block {index} of its directory {} {reason}",
                    directory.nid
                ))
            };
            let entries = entries(block).ok_or_else(|| refuse("holds no entries"))?;
            for entry in 0..entries {
                let name = name(block, entries, entry)
                    .ok_or_else(|| refuse("has a name outside of it"))?;
                let nid = u64_at(block, entry * ENTRY_BYTES)
                    .ok_or_else(|| refuse("has an entry outside of it"))?;
                if name.contains(&b'/') || name.contains(&0) {
                    return Err(refuse("has a name that no file has"));
                }
                if !last.is_empty() && name <= last {
                    return Err(refuse("is not sorted"));
                }
                last = name;
                if name != b"." && name != b".." {
                    visit(name, nid)?;
                }
            }
        }
        Ok(())
    }
}

/// How many entries: the first name follows them.
fn entries(block: &[u8]) -> Option<usize> {
    let names = usize::from(u16_at(block, 8)?);
    let sound = names.is_multiple_of(ENTRY_BYTES) && names > 0 && names <= block.len();
    sound.then_some(names / ENTRY_BYTES)
}

fn name(block: &[u8], entries: usize, entry: usize) -> Option<&[u8]> {
    let place = |entry: usize| u16_at(block, entry * ENTRY_BYTES + 8).map(usize::from);
    let start = place(entry)?;
    let name = if entry + 1 < entries {
        block.get(start..place(entry + 1)?)?
    } else {
        // The last one ends with the block, or with the first of the zeros that fill it.
        let rest = block.get(start..)?;
        let end = rest.iter().position(|byte| *byte == 0);
        rest.get(..end.unwrap_or(rest.len()))?
    };
    (1..=NAME_BYTES_MAX).contains(&name.len()).then_some(name)
}
