//! The redb database of a store, which is opened again after it failed.
//!
//! redb refuses everything after an I/O error until it is closed and opened, because what it then holds in
//! memory may not be what is in the file. So a failure closes it here, and the next operation opens it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_snapshot::Error;

use redb::{Builder, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};

use crate::disk::{Disk, UseReserve};
use crate::failure::Fault;
use crate::schema;

/// Memory for pages of the file. A page that is not in it is in the system's page cache; at 10,000 snapshots
/// more of it made nothing faster.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

/// How long a database is waited for that somebody holds when it is to be reopened.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is tried meanwhile.
const INTERVAL: Duration = Duration::from_millis(20);

type Opener = Box<dyn Fn() -> Result<redb::Database, Fault> + Send + Sync>;

/// The database, open unless it failed.
pub(crate) struct Database {
    opener: Opener,
    use_reserve: UseReserve,
    open: RwLock<Option<redb::Database>>,
    /// Whether it ever was.
    opened: AtomicBool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// The database in a file, which is made if it is not there.
    pub(crate) fn at(path: PathBuf) -> Result<Self, Fault> {
        if !path.try_exists().map_err(redb::Error::from)? {
            create(&path)?;
        }
        // From here on a file that is not there was taken away, and an empty store would not be it.
        Ok(Database::existing(path))
    }

    /// The database in a file that is there.
    pub(crate) fn existing(path: PathBuf) -> Self {
        let use_reserve = UseReserve::default();
        let opener = {
            let use_reserve = use_reserve.clone();
            move || {
                use_reserve.store(true, Ordering::Relaxed);
                let database = open(Disk::open(&path, use_reserve.clone())?);
                use_reserve.store(false, Ordering::Relaxed);
                database
            }
        };
        Database::new(Box::new(opener), use_reserve)
    }

    /// The database in what `backend` answers.
    pub(crate) fn with_backend<B: StorageBackend>(
        backend: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    ) -> Self {
        let opener = Box::new(move || open(backend().map_err(redb::Error::from)?));
        Database::new(opener, UseReserve::default())
    }

    fn new(opener: Opener, use_reserve: UseReserve) -> Self {
        Database {
            opener,
            use_reserve,
            open: RwLock::new(None),
            opened: AtomicBool::new(false),
        }
    }

    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, Fault> {
        self.with(|database| Ok(database.begin_read()?))
    }

    /// Begins a transaction, which may use the reserve of a full disk where it frees more than it takes.
    pub(crate) fn begin_write(&self, frees: bool) -> Result<WriteTransaction, Fault> {
        let transaction = self.with(|database| Ok(database.begin_write()?))?;
        self.use_reserve.store(frees, Ordering::Relaxed);
        Ok(transaction)
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

    /// A database that was open and is held by somebody is waited for: what is still ending with the failed one
    /// holds it, and lets it go. At the first opening it is another daemon, which does not.
    fn with<T>(&self, begin: impl Fn(&redb::Database) -> Result<T, Fault>) -> Result<T, Fault> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let outcome = self.try_with(&begin);
            let held = matches!(&outcome, Err(Fault::Database(error))
                if matches!(**error, redb::Error::DatabaseAlreadyOpen));
            if !held || !self.opened.load(Ordering::Relaxed) {
                return outcome;
            }
            if Instant::now() >= deadline {
                return Err(Fault::Refused(Error::Unavailable {
                    operation: "reopening the database after a failure".to_owned(),
                    reason: "another process has it open; stop that and try again".to_owned(),
                }));
            }
            thread::sleep(INTERVAL);
        }
    }

    fn try_with<T>(
        &self,
        begin: impl FnOnce(&redb::Database) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if let Some(database) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            return begin(database);
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let database = match open.take() {
            Some(database) => database,
            None => (self.opener)()?,
        };
        self.opened.store(true, Ordering::Relaxed);
        begin(open.insert(database))
    }
}

/// Makes the file under another name until it is whole: a crash leaves either no database or an empty one.
fn create(path: &Path) -> Result<(), Fault> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    drop(open(Disk::create(Path::new(&unfinished))?)?);
    rename_durably(Path::new(&unfinished), path).map_err(redb::Error::from)?;
    Ok(())
}

fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
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
