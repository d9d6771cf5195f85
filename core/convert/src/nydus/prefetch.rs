//! The table of a bootstrap that says which files are to be fetched early, and in which order: numbers of inodes, 32 bits
//! each (nydus 2.2, `rafs/src/metadata/layout/v6.rs`, `RafsV6PrefetchTable`).

use pontoon_layer::Limits;
use pontoon_layer::rafs::Bootstrap;

use super::BLOCK_BYTES;
use super::boot::EXTENDED;
use crate::error::{Error, Result};

/// Where RAFS' superblock says where the table is, and how many bytes it has.
const OFFSET: usize = EXTENDED + 40;
const LENGTH: usize = EXTENDED + 48;

/// `bootstrap` with a table of those of the files at `paths` that it has, in place of the one that it may have, and how many
/// that are. Nothing else is another: the table comes behind all that there is.
pub(crate) fn put(bootstrap: &[u8], paths: &[Vec<u8>]) -> Result<(Vec<u8>, u64)> {
    let limits = Limits::default();
    let opened = Bootstrap::open(bootstrap, &limits).map_err(Error::Unreadable)?;
    let mut names = opened.names();
    let mut numbers: Vec<u32> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut found = 0;
    for path in paths {
        let nid = names.file(path).map_err(Error::Unreadable)?;
        // What is further behind no table can name.
        let Some(nid) = nid.and_then(|nid| u32::try_from(nid).ok()) else {
            continue;
        };
        found += 1;
        // Another name of the same file is not another file.
        if seen.insert(nid) {
            numbers.push(nid);
        }
    }
    let mut bytes = bootstrap[..end(bootstrap)].to_vec();
    let offset = bytes.len();
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    let length = u32::try_from(bytes.len() - offset).unwrap_or(u32::MAX);
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    bytes[OFFSET..OFFSET + 8].copy_from_slice(&(offset as u64).to_le_bytes());
    bytes[LENGTH..LENGTH + 4].copy_from_slice(&length.to_le_bytes());
    // As whoever serves the image will read it.
    let opened = Bootstrap::open(&bytes, &limits).map_err(Error::Unreadable)?;
    if !opened
        .prefetch_nids()
        .eq(numbers.iter().map(|nid| u64::from(*nid)))
    {
        let reason = "the table of files to fetch early is not read back as it was written";
        return Err(Error::malformed("the bootstrap", reason));
    }
    Ok((bytes, found))
}

/// Where all that is no table of this module's ends.
fn end(bootstrap: &[u8]) -> usize {
    let field = |at: usize, length: usize| -> usize {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&bootstrap[at..at + length]);
        usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX)
    };
    let (offset, length) = (field(OFFSET, 8), field(LENGTH, 4));
    let block = BLOCK_BYTES as usize;
    let is_last = length > 0
        && offset.is_multiple_of(block)
        && offset >= field(EXTENDED + 24, 8).saturating_add(field(EXTENDED + 32, 8))
        && (offset.saturating_add(length)).checked_next_multiple_of(block) == Some(bootstrap.len());
    match is_last {
        true => offset,
        false => bootstrap.len(),
    }
}
