//! Deletes a tree.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, RawDir};
use rustix::io::Errno;

use super::{Cancel, is_dot, next_entry, open_child};

/// Directories deeper than this are moved up first, so that neither the stack nor the descriptors run out.
const DEPTH_MAX: u32 = 32;

/// How often one directory is gone through before somebody who keeps writing into it has won. Directories that are
/// moved up take a round for every [`DEPTH_MAX`] levels.
const ROUNDS_MAX: u32 = 10_000;

/// Bytes of directory entries that are read at once.
const BUFFER_BYTES: usize = 8 * 1024;

/// Deletes `name` in `parent` and all that is in it. A `name` that is not there is fine.
///
/// Goes on after an error and answers the first one. `ENOTEMPTY` if somebody keeps writing into it.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &str, cancel: &Cancel) -> io::Result<()> {
    let name = &*CString::new(name)?;
    let delete = || match delete_directory(parent, name) {
        Err(Errno::NOTDIR) => unlink(parent, name).map(|()| true),
        deleted => Ok(deleted?),
    };
    until_deleted(delete, || {
        let Some(top) = open_if_there(parent, name)? else {
            return Ok(());
        };
        let mut removal = Removal {
            top: top.as_fd(),
            moved: 0,
            cancel,
        };
        removal.pass(top.as_fd(), 0)
    })
}

/// Deletes what is in a directory by `pass` until `delete` can delete the directory itself.
fn until_deleted(
    mut delete: impl FnMut() -> io::Result<bool>,
    mut pass: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    for _ in 0..ROUNDS_MAX {
        if delete()? {
            return Ok(());
        }
        pass()?;
    }
    Err(Errno::NOTEMPTY.into())
}

struct Removal<'top> {
    top: BorrowedFd<'top>,
    moved: u64,
    cancel: &'top Cancel,
}

impl Removal<'_> {
    /// Deletes what is seen in `directory`, which need not be everything: deleting while listing hides entries from
    /// the list, and deep directories are moved into the topmost one meanwhile.
    fn pass(&mut self, directory: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        let mut failed = Ok(());
        let mut seen = false;
        while let Some(entry) = next_entry(&mut entries)? {
            let name = entry.file_name();
            if is_dot(name) {
                continue;
            }
            self.cancel.check()?;
            seen = true;
            let done = match entry.file_type() {
                FileType::Directory => self.directory(directory, name, depth),
                FileType::Unknown => self.unknown(directory, name, depth),
                _ => unlink(directory, name),
            };
            failed = failed.and(done);
        }
        if seen {
            failed
        } else {
            // Not empty, and yet nothing to be seen in it: going on would go on for ever.
            Err(Errno::NOTEMPTY.into())
        }
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> io::Result<()> {
        let delete = || Ok(delete_directory(parent, name)?);
        until_deleted(delete, || {
            if depth == DEPTH_MAX {
                return self.move_up(parent, name);
            }
            match open_if_there(parent, name)? {
                Some(child) => self.pass(child.as_fd(), depth + 1),
                None => Ok(()),
            }
        })
    }

    /// An entry of a filesystem that does not tell types.
    fn unknown(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: u32) -> io::Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(parent, name, flags) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.directory(parent, name, depth)
            }
            Err(Errno::NOENT) => Ok(()),
            _ => unlink(parent, name),
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

/// Whether a directory is gone now; else there is something in it.
fn delete_directory(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn unlink(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn open_if_there(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    match open_child(parent, name) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(super) mod tests;
