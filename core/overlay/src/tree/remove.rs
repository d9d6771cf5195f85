//! Deletes a tree.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, RawDir, SeekFrom};
use rustix::io::Errno;

use super::{is_dot, next_entry, open_child};

/// Directories deeper than this are moved up first, so that neither the stack nor the descriptors run out.
const DEPTH_MAX: u32 = 32;

/// Bytes of directory entries that are read at once.
const BUFFER_BYTES: usize = 8 * 1024;

/// Deletes `name` in `parent` and all that is in it. A `name` that is not there is fine.
///
/// Goes on after an error and answers the first one.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let top = match open_child(parent, name) {
        Ok(top) => top,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {
            return unlink(parent, &CString::new(name)?, AtFlags::empty());
        }
        Err(error) => return Err(error),
    };
    let mut removal = Removal {
        top: top.as_fd(),
        moved: 0,
    };
    removal.empty(top.as_fd(), 0)?;
    unlink(parent, &CString::new(name)?, AtFlags::REMOVEDIR)
}

struct Removal<'top> {
    top: BorrowedFd<'top>,
    moved: u64,
}

impl Removal<'_> {
    /// Deletes everything in `directory`.
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            // Deleting while listing may hide entries from the list, and deep ones are moved here: until none is seen.
            rustix::fs::seek(directory, SeekFrom::Start(0))?;
            if !self.pass(directory, depth, buffer.spare_capacity_mut())? {
                return Ok(());
            }
        }
    }

    /// Goes over `directory` once; whether there was anything in it.
    fn pass(
        &mut self,
        directory: BorrowedFd<'_>,
        depth: u32,
        buffer: &mut [MaybeUninit<u8>],
    ) -> io::Result<bool> {
        let mut failed = Ok(());
        let mut seen = false;
        let mut entries = RawDir::new(directory, buffer);
        while let Some(entry) = next_entry(&mut entries)? {
            let name = entry.file_name();
            if is_dot(name) {
                continue;
            }
            seen = true;
            let done = match entry.file_type() {
                FileType::Directory => self.directory(directory, name, depth),
                FileType::Unknown => self.unknown(directory, name, depth),
                _ => unlink(directory, name, AtFlags::empty()),
            };
            failed = failed.and(done);
        }
        failed.map(|()| seen)
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> io::Result<()> {
        if depth == DEPTH_MAX {
            return self.move_up(parent, name);
        }
        match open_child(parent, name) {
            Ok(child) => self.empty(child.as_fd(), depth + 1)?,
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        unlink(parent, name, AtFlags::REMOVEDIR)
    }

    /// An entry of a filesystem that does not tell types.
    fn unknown(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> io::Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(parent, name, flags) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.directory(parent, name, depth)
            }
            Err(Errno::NOENT) => Ok(()),
            _ => unlink(parent, name, AtFlags::empty()),
        }
    }

    /// Moves a directory to the top, where it is found later.
    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            let moved = format!("moved-{}", self.moved);
            self.moved += 1;
            match rustix::fs::renameat(parent, name, self.top, moved) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // The name is taken; there is a free one.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
pub(super) mod tests;
