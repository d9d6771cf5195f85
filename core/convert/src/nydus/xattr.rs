//! Extended attributes, behind their inode.

use super::merge::{Node, What};
use crate::error::{Error, Result};

/// What a name begins with, and its number (Linux, `fs/erofs/erofs_fs.h`). Those that end with a dot need a name behind
/// them, the others are whole names.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Before all attributes. That some are shared RAFS does not have.
const HEADER_BYTES: usize = 12;

/// The length of a name, its prefix' number, the length of the value.
const ENTRY_BYTES: usize = 4;

/// What follows the inode of `node`; nothing, if it has no attributes. Those that no filesystem of Linux takes are left
/// out: in no known namespace, or in `user` of anything but a file or a directory.
pub(super) fn body(node: &Node) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let user = matches!(node.what, What::Directory(_) | What::File { .. });
    for (name, value) in &*node.xattrs {
        let Some((prefix, suffix)) = split(name).filter(|_| is_kept(name, user)) else {
            continue;
        };
        let lengths = (u8::try_from(suffix.len()), u16::try_from(value.len()));
        let (Ok(name_length), Ok(value_length)) = lengths else {
            return Err(Error::unsupported(
                name,
                "an extended attribute of more than 64 KiB",
                "RAFS",
            ));
        };
        if body.is_empty() {
            body.resize(HEADER_BYTES, 0);
        }
        body.extend([name_length, prefix]);
        body.extend(value_length.to_le_bytes());
        body.extend(suffix);
        body.extend(value);
        body.resize(body.len().next_multiple_of(ENTRY_BYTES), 0);
    }
    count(body.len()).map(|_| body)
}

/// What an inode says of how many there are: words of 4 bytes behind the header, and one.
pub(super) fn count(bytes: usize) -> Result<u16> {
    if bytes == 0 {
        return Ok(0);
    }
    let words = bytes.saturating_sub(HEADER_BYTES) / 4 + 1;
    u16::try_from(words).map_err(|_| Error::TooLarge {
        what: "the bytes of the extended attributes of a file",
        limit: u64::from(u16::MAX) * 4,
    })
}

/// Whether anybody on Linux can have an attribute of this name; `user` says whether the file may have those in `user`.
pub(crate) fn is_kept(name: &[u8], user: bool) -> bool {
    split(name).is_some_and(|(prefix, _)| prefix != 1 || user)
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(number, prefix)| {
        let suffix = name.strip_prefix(*prefix)?;
        (prefix.ends_with(b".") != suffix.is_empty()).then_some((*number, suffix))
    })
}
