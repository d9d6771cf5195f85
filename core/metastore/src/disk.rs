//! The database file. redb's own file backend, and what it leaves open about a full or failing disk.
//!
//! - Space is allocated when the file grows. So a full disk is met there, where a transaction can still be
//!   rolled back, and not by a later write into a hole in the middle of a commit.
//! - Some space is kept beyond the end, for opening the database and for removing snapshots: a store on a full
//!   disk must still be able to recover, to answer, and to let go.
//! - Opening reads from the disk and not from the page cache. After a failed fsync the two may differ.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;

/// Room for the pages of several small transactions.
const RESERVE_BYTES: u64 = 256 * 1024;

/// Whether the file may grow into its reserve, that is, without space of its own for all of its new length.
pub(crate) type UseReserve = Arc<AtomicBool>;

/// A database file, locked while it is open.
#[derive(Debug)]
pub(crate) struct Disk {
    backend: FileBackend,
    /// The same file, for what `backend` does not do.
    file: File,
    use_reserve: UseReserve,
}

impl Disk {
    /// Opens the file.
    pub(crate) fn open(path: &Path, use_reserve: UseReserve) -> Result<Self, redb::Error> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(redb::Error::Corrupted("the file is empty".to_owned()));
        }
        // A hint; without it the page cache answers.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        Disk::new(file, use_reserve)
    }

    /// Makes an empty file, readable by its owner alone, in place of whatever is there.
    pub(crate) fn create(path: &Path) -> Result<Self, redb::Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Disk::new(file, UseReserve::default())
    }

    fn new(file: File, use_reserve: UseReserve) -> Result<Self, redb::Error> {
        Ok(Disk {
            backend: FileBackend::new(file.try_clone()?)?,
            file,
            use_reserve,
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(
            &self.file,
            FallocateFlags::KEEP_SIZE,
            0,
            len + RESERVE_BYTES,
        ) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) if self.use_reserve.load(Ordering::Relaxed) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.backend.len()? {
            self.allocate(len)?;
        }
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
