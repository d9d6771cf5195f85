//! What the cache asks of the filesystem: every call that changes something, so that tests can record the order of
//! them and let them fail.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, UTIME_OMIT, statvfs, utimensat};
use rustix::io::{ReadWriteFlags, preadv2};

/// The space of a filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) total: u64,
    /// What is left for this process.
    pub(crate) free: u64,
}

/// Files and directories. Files are 0600, directories 0700, links are not followed.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// A new file, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// A regular file that is there, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<File>;
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Fills `buffer` if all of that is in memory. If not, or if that cannot be known, false.
    fn read_now(&self, file: &File, buffer: &mut [u8], offset: u64) -> bool {
        let _ = (file, buffer, offset);
        false
    }
    fn set_len(&self, file: &File, len: u64) -> io::Result<()>;
    /// The content of a file, and its length.
    fn sync_data(&self, file: &File) -> io::Result<()>;
    /// The names in a directory.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Writes a time of modification down, without syncing it.
    fn touch(&self, path: &Path, milliseconds: u64) -> io::Result<()>;
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Milliseconds since 1970.
    fn now(&self) -> u64;
    /// Another one each time that the machine is started. None if the kernel does not tell.
    fn boot(&self) -> Option<String>;
}

/// The disk of this system.
#[derive(Debug)]
pub(crate) struct System;

impl Disk for System {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        // Not waiting matters only where a stranger has put a fifo.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
        let file = options.open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no regular file",
            )),
        }
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        file.read_exact_at(buffer, offset)
    }

    fn read_now(&self, file: &File, buffer: &mut [u8], offset: u64) -> bool {
        let length = buffer.len();
        let mut buffers = [IoSliceMut::new(buffer)];
        let read = preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT);
        read == Ok(length)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn touch(&self, path: &Path, milliseconds: u64) -> io::Result<()> {
        let seconds = i64::try_from(milliseconds / 1000).map_err(io::Error::other)?;
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: seconds,
                tv_nsec: (milliseconds % 1000 * 1_000_000) as _,
            },
        };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let answer = statvfs(path)?;
        Ok(Space {
            total: answer.f_blocks.saturating_mul(answer.f_frsize),
            free: answer.f_bavail.saturating_mul(answer.f_frsize),
        })
    }

    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
    }

    fn boot(&self) -> Option<String> {
        // random(4): one line, a UUID.
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let id = id.trim();
        let is_id = !id.is_empty() && !id.contains(char::is_whitespace);
        is_id.then(|| id.to_owned())
    }
}

/// Whether there is no space, or none for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
