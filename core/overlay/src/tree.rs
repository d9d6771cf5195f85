//! Whole directory trees: measured and deleted without following links and without leaving the filesystem.
//!
//! What is in a snapshot was made by somebody else, who may still be changing it: nothing here trusts a path of
//! more than one name, and no depth or width of a tree can exhaust the stack, the memory or the descriptors.

mod remove;
mod usage;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, RawDirEntry, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

pub(crate) use remove::remove;
pub(crate) use usage::usage;

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The directory `name` in `parent`. `EXDEV` if another filesystem is mounted there.
fn open_child(parent: BorrowedFd<'_>, name: impl Arg + Copy) -> io::Result<OwnedFd> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    loop {
        match rustix::fs::openat2(parent, name, OPEN, Mode::empty(), within) {
            // A rename elsewhere disturbed the look-up.
            Err(Errno::AGAIN) => {}
            // A sandbox without the call; `NOFOLLOW` is what matters most.
            Err(Errno::NOSYS | Errno::PERM) => {
                return Ok(rustix::fs::openat(parent, name, OPEN, Mode::empty())?);
            }
            opened => return Ok(opened?),
        }
    }
}

/// The next entry of a directory, which ends early if the directory is deleted meanwhile.
fn next_entry<'a>(
    entries: &'a mut RawDir<'_, BorrowedFd<'_>>,
) -> io::Result<Option<RawDirEntry<'a>>> {
    match entries.next() {
        None | Some(Err(Errno::NOENT)) => Ok(None),
        Some(Ok(entry)) => Ok(Some(entry)),
        Some(Err(errno)) => Err(errno.into()),
    }
}

fn is_dot(name: &std::ffi::CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
