//! Measures a tree.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use pontoon_snapshot::Usage;
use rustix::fs::{AtFlags, CWD, FileType, Mode, RawDir, Stat};
use rustix::io::Errno;

use super::{Cancel, OPEN, is_dot, next_entry, open_child};

/// Bytes of directory entries that are read at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// How often a measurement starts anew because a directory was moved under it.
const ATTEMPTS_MAX: u32 = 5;

/// What the directory `path` takes: the allocated blocks of each inode once, its own included. What vanishes
/// meanwhile is left out.
pub(crate) fn usage(path: &Path, cancel: &Cancel) -> io::Result<Usage> {
    let mut attempt = 1;
    loop {
        match measure(path, cancel) {
            Err(error) if attempt < ATTEMPTS_MAX && moved(&error) => attempt += 1,
            answer => return answer,
        }
    }
}

fn measure(path: &Path, cancel: &Cancel) -> io::Result<Usage> {
    let root = rustix::fs::openat(CWD, path, OPEN, Mode::empty())?;
    let mut scan = Scan {
        usage: Usage::default(),
        linked: HashSet::new(),
        cancel,
    };
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut levels = vec![scan.enter(root.as_fd(), buffer.spare_capacity_mut())?];
    let mut current = root;
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.directories.pop() else {
            levels.pop();
            if let Some(above) = levels.last() {
                current = parent_of(current, above)?;
            }
            continue;
        };
        match open_child(current.as_fd(), &*name) {
            Ok(child) => {
                levels.push(scan.enter(child.as_fd(), buffer.spare_capacity_mut())?);
                current = child;
            }
            Err(error) if not_ours(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(scan.usage)
}

/// A directory on the way down: what is left to visit in it, and how to know it again on the way up.
struct Level {
    identity: (u64, u64),
    directories: Vec<CString>,
}

struct Scan<'a> {
    usage: Usage,
    /// Files with several links that were counted.
    linked: HashSet<(u64, u64)>,
    cancel: &'a Cancel,
}

impl Scan<'_> {
    /// Counts `directory` and the files in it.
    fn enter(
        &mut self,
        directory: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
    ) -> io::Result<Level> {
        let stat = rustix::fs::fstat(directory)?;
        self.count(&stat);
        let mut directories = Vec::new();
        let mut entries = RawDir::new(directory, buffer);
        while let Some(entry) = next_entry(&mut entries)? {
            self.cancel.check()?;
            let name = entry.file_name();
            if is_dot(name) {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                directories.push(name.to_owned());
                continue;
            }
            match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    directories.push(name.to_owned());
                }
                Ok(stat) => self.count_file(&stat),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Level {
            identity: identity(&stat),
            directories,
        })
    }

    fn count_file(&mut self, stat: &Stat) {
        if stat.st_nlink == 1 || self.linked.insert(identity(stat)) {
            self.count(stat);
        }
    }

    fn count(&mut self, stat: &Stat) {
        // The unit of st_blocks is 512 bytes on every filesystem.
        self.usage.size_bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        self.usage.inodes += 1;
    }
}

/// The directory above `child`, which must be the one that it was entered from.
fn parent_of(child: OwnedFd, above: &Level) -> io::Result<OwnedFd> {
    match rustix::fs::openat(&child, "..", OPEN, Mode::empty()) {
        Ok(parent) if identity(&rustix::fs::fstat(&parent)?) == above.identity => Ok(parent),
        // Moved or deleted meanwhile.
        Ok(_) | Err(Errno::NOENT) => Err(Errno::STALE.into()),
        Err(errno) => Err(errno.into()),
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn moved(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::STALE)
}

/// Vanished, replaced by something else, or another filesystem.
fn not_ours(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
    )
}

#[cfg(test)]
mod tests;
