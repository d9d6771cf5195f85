//! The database file. redb's own file backend, and what it leaves open about a full or failing disk.
//!
//! - Space is allocated when the file grows. So a full disk is met there, where a transaction can still be
//!   rolled back, and not by a later write into a hole in the middle of a commit.
//! - Some space is kept beyond the end, which only opening may use: a store on a full disk must still be able
//!   to recover and answer.
//! - Opening reads from the disk and not from the page cache. After a failed fsync the two may differ.

use std::fs::{File, OpenOptions};
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

/// What recovery may write: the pages of one small transaction, with room to spare.
const RESERVE_BYTES: u64 = 256 * 1024;

/// A database file, locked while it is open.
#[derive(Debug)]
pub(crate) struct Disk {
    backend: FileBackend,
    /// The same file, for what `backend` does not do.
    file: File,
    opening: Arc<AtomicBool>,
}

impl Disk {
    /// Opens the file, or makes it, readable by its owner alone. The flag is to be cleared once the database is
    /// open.
    pub(crate) fn open(path: &Path) -> Result<(Self, Arc<AtomicBool>), redb::Error> {
        let file = open_file(path)?;
        // A hint; without it the page cache answers.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        let opening = Arc::new(AtomicBool::new(true));
        let disk = Disk {
            backend: FileBackend::new(file.try_clone()?)?,
            file,
            opening: opening.clone(),
        };
        Ok((disk, opening))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(
            &self.file,
            FallocateFlags::KEEP_SIZE,
            0,
            len + RESERVE_BYTES,
        ) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) if self.opening.load(Ordering::Relaxed) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = options.create(true).truncate(false).open(path)?;
            // Without this a power failure could take the new file away with all that was committed to it.
            let directory = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(file)
        }
        other => other,
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
