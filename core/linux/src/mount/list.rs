//! Which mounts there are.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// A mount, as proc_pid_mountinfo(5) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is.
    pub target: PathBuf,
    /// The filesystem's type, `fuse.pontoon` for example.
    pub fs_type: String,
    /// What was mounted, as it was called then.
    pub source: PathBuf,
}

/// The mounts in this process's namespace whose targets lie below `directory`, the oldest first. It must be absolute
/// and without links, as the kernel tells it.
pub fn mounts_below(directory: &Path) -> Result<Vec<Mounted>> {
    let mountinfo =
        fs::read(MOUNTINFO).map_err(|error| Error::new(format!("read {MOUNTINFO}"), error))?;
    let mounts = mountinfo.split(|byte| *byte == b'\n').filter_map(parse);
    let below = |mount: &Mounted| mount.target != directory && mount.target.starts_with(directory);
    Ok(mounts.filter(below).collect())
}

fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let target = path(fields.nth(4)?);
    // Any number of optional fields, then a hyphen.
    fields.find(|field| *field == b"-")?;
    Some(Mounted {
        target,
        fs_type: String::from_utf8_lossy(fields.next()?).into_owned(),
        source: path(fields.next()?),
    })
}

/// A path in which blanks, tabs, newlines and backslashes are written as three octal digits.
fn path(told: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(told.len());
    let mut rest = told;
    while let [first, after @ ..] = rest {
        rest = after;
        let mut byte = *first;
        if byte == b'\\'
            && let [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                behind @ ..,
            ] = after
        {
            byte = (a - b'0') << 6 | (b - b'0') << 3 | (c - b'0');
            rest = behind;
        }
        bytes.push(byte);
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = b"36 35 0:52 / /a\\040b/c\\134d rw,relatime shared:1 master:2 - fuse.pontoon pontoon rw,x";
        let expected = Mounted {
            target: "/a b/c\\d".into(),
            fs_type: "fuse.pontoon".to_owned(),
            source: "pontoon".into(),
        };
        assert_eq!(parse(line), Some(expected));
        for line in [
            &b""[..],
            b"36 35 0:52 / /a rw",
            b"36 35 0:52 / /a rw - ext4",
        ] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn mounts_below_a_directory_are_listed() {
        let below = |path: &str| mounts_below(Path::new(path)).unwrap();
        let proc = Path::new("/proc");
        assert!(below("/").iter().any(|mount| mount.target == proc));
        assert!(below("/proc").iter().all(|mount| mount.target != proc));
    }
}
