//! The redb database of a store, which is opened again after it failed.
//!
//! redb refuses everything after an I/O error until it is closed and opened, because what it then holds in
//! memory may not be what is in the file. So a failure closes it here, and the next operation opens it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, RwLock};

use redb::{Builder, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};

use crate::disk::Disk;
use crate::failure::Fault;
use crate::schema;

/// Memory for pages of the file. A page that is not in it is in the system's page cache.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

type Opener = Box<dyn Fn() -> Result<redb::Database, Fault> + Send + Sync>;

/// The database, open unless it failed.
pub(crate) struct Database {
    opener: Opener,
    open: RwLock<Option<redb::Database>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// The database in a file.
    pub(crate) fn at(path: PathBuf) -> Self {
        Database::new(Box::new(move || {
            let (disk, opening) = Disk::open(&path)?;
            let database = open(disk)?;
            opening.store(false, Ordering::Relaxed);
            Ok(database)
        }))
    }

    /// The database in what `backend` answers.
    pub(crate) fn with_backend<B: StorageBackend>(
        backend: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    ) -> Self {
        Database::new(Box::new(move || {
            open(backend().map_err(redb::Error::from)?)
        }))
    }

    fn new(opener: Opener) -> Self {
        Database {
            opener,
            open: RwLock::new(None),
        }
    }

    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, Fault> {
        self.with(|database| Ok(database.begin_read()?))
    }

    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, Fault> {
        self.with(|database| Ok(database.begin_write()?))
    }

    /// Closes the database; whoever needs it next opens it again. Transactions in progress fail.
    pub(crate) fn close(&self) {
        // Closing writes to the file; where that fails, opening repairs it.
        let _ = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    fn with<T>(&self, begin: impl FnOnce(&redb::Database) -> Result<T, Fault>) -> Result<T, Fault> {
        if let Some(database) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            return begin(database);
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let database = match open.take() {
            Some(database) => database,
            None => (self.opener)()?,
        };
        begin(open.insert(database))
    }
}

fn open(backend: impl StorageBackend) -> Result<redb::Database, Fault> {
    let database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        // Every page is verified now, so that a damaged one is an error here and not a panic later.
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)?;
    schema::prepare(&database)?;
    Ok(database)
}
