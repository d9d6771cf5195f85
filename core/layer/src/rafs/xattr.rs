//! Extended attributes, which are EROFS', and all behind their inode.

use super::inode::Inode;
use super::malformed;
use crate::error::FormatError;
use crate::limits::Limits;

/// Before the attributes; what it could say, shared attributes, RAFS does not have.
const HEADER_BYTES: usize = 12;
const SHARED_COUNT: usize = 4;

/// What a name begins with, by number.
const PREFIXES: [Option<&[u8]>; 7] = [
    None,
    Some(b"user."),
    Some(b"system.posix_acl_access"),
    Some(b"system.posix_acl_default"),
    Some(b"trusted."),
    None,
    Some(b"security."),
];

/// Name and value.
type Xattr = (Vec<u8>, Vec<u8>);

/// The attributes of a file.
pub(super) fn read(inode: &Inode<'_>, limits: &Limits) -> Result<Vec<Xattr>, FormatError> {
    let mut found = Vec::new();
    let Some((header, mut rest)) = inode.xattrs.split_at_checked(HEADER_BYTES) else {
        return Ok(found);
    };
    let refuse = |reason: &str| {
        malformed(format!(
            "the extended attributes of its inode {} {reason}",
            inode.nid
        ))
    };
    FormatError::check_limit(
        "the size of a file's extended attributes in bytes",
        rest.len() as u64,
        limits.xattr_bytes_max as u64,
    )?;
    if header.get(SHARED_COUNT) != Some(&0) {
        return Err(refuse("are shared"));
    }
    while !rest.is_empty() {
        let (entry, behind) = split(rest).ok_or_else(|| refuse("do not end where they should"))?;
        let prefix = PREFIXES.get(entry.prefix).copied().flatten();
        let prefix = prefix.ok_or_else(|| refuse("have a name that begins with nothing known"))?;
        let name = [prefix, entry.name].concat();
        if name.len() > 255 || name.ends_with(b".") || name.contains(&0) {
            return Err(refuse("have a name that no attribute has"));
        }
        FormatError::check_limit(
            "the number of a file's extended attributes",
            found.len() as u64 + 1,
            limits.xattrs_max as u64,
        )?;
        found.push((name, entry.value.to_vec()));
        rest = behind;
    }
    Ok(found)
}

struct Entry<'a> {
    prefix: usize,
    name: &'a [u8],
    value: &'a [u8],
}

/// The first attribute, and what follows it.
fn split(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let ([name_length, prefix, low, high], rest) = bytes.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::from(*name_length))?;
    let value_length = usize::from(u16::from_le_bytes([*low, *high]));
    let (value, rest) = rest.split_at_checked(value_length)?;
    let padding = (name.len() + value.len()).next_multiple_of(4) - name.len() - value.len();
    let entry = Entry {
        prefix: usize::from(*prefix),
        name,
        value,
    };
    Some((entry, rest.get(padding..)?))
}
