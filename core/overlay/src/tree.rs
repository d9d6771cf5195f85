//! Whole directory trees: measured and deleted without following links and without leaving the filesystem.
//!
//! What is in a snapshot was made by somebody else, who may still be changing it: nothing here trusts a path of
//! more than one name, and no depth or width of a tree can exhaust the stack, the memory or the descriptors.

mod remove;
mod usage;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, RawDir, RawDirEntry, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

pub(crate) use remove::remove;
pub(crate) use usage::usage;

/// Asks a running removal or measurement to end; it answers an error of kind `Interrupted`.
#[derive(Debug, Default)]
pub(crate) struct Cancel(AtomicBool);

impl Cancel {
    /// One that is never set.
    pub(crate) fn never() -> &'static Cancel {
        static NEVER: Cancel = Cancel(AtomicBool::new(false));
        &NEVER
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn check(&self) -> io::Result<()> {
        if self.is_set() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

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
