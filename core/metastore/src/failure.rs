//! Failures of the database, in the words of the domain.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use pontoon_snapshot::{Error, Key, SnapshotterName};

/// Why an operation in a transaction did not happen.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The rules refuse it, and it changed nothing. Others in the transaction are not touched.
    Refused(Error),
    /// The database failed, and with it the whole transaction.
    Database(Arc<redb::Error>),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Refused(error)
    }
}

/// redb has an error type for each of its calls; here one is enough.
macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Fault::Database(Arc::new(error.into()))
            }
        })*
    };
}
from_redb!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError
);

/// A fault that several callers get.
#[derive(Debug, Clone)]
pub(crate) enum SharedFault {
    /// The database cannot be opened, in words.
    Refused(String),
    /// It failed.
    Database(Arc<redb::Error>),
    /// It failed in the commit, and cannot be opened to see what is in the file.
    Uncertain(Arc<redb::Error>),
}

impl From<Fault> for SharedFault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(error) => SharedFault::Refused(error.to_string()),
            Fault::Database(error) => SharedFault::Database(error),
        }
    }
}

impl Fault {
    /// The error of the one caller that met it.
    pub(crate) fn error(self, operation: &str, path: &Path) -> Error {
        match self {
            Fault::Refused(error) => error,
            Fault::Database(error) => database_failed(operation, path, &error),
        }
    }
}

impl SharedFault {
    /// The same, where nobody knows whether the commit came through.
    pub(crate) fn uncertain(self) -> Self {
        match self {
            SharedFault::Database(error) => SharedFault::Uncertain(error),
            other => other,
        }
    }

    /// Whether the disk was full, and nothing changed.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, SharedFault::Database(error) if is_full(error))
    }

    /// The error of one of the callers.
    pub(crate) fn error(&self, operation: &str, path: &Path) -> Error {
        match self {
            SharedFault::Refused(reason) => Error::Unavailable {
                operation: operation.to_owned(),
                reason: reason.clone(),
            },
            SharedFault::Database(error) => database_failed(operation, path, error),
            SharedFault::Uncertain(error) => Error::Uncertain {
                operation: format!("{operation} in {}", path.display()),
                source: Box::new(error.clone()),
            },
        }
    }
}

fn is_full(error: &redb::Error) -> bool {
    use ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, redb::Error::Io(io) if matches!(io.kind(), StorageFull | QuotaExceeded))
}

/// A snapshot whose row cannot be right.
pub(crate) fn damaged_snapshot(name: &SnapshotterName, key: &Key, reason: String) -> Error {
    Error::Corrupt {
        what: format!("record of snapshot {key} of {name}"),
        reason,
    }
}

/// The database at `path` failed during `operation`.
fn database_failed(operation: &str, path: &Path, error: &Arc<redb::Error>) -> Error {
    let object = format!("{operation} in {}", path.display());
    let damaged = |reason: &str| Error::Corrupt {
        what: format!("database {}", path.display()),
        reason: reason.to_owned(),
    };
    match error.as_ref() {
        redb::Error::Corrupted(reason) => damaged(reason),
        redb::Error::Io(io) if io.kind() == ErrorKind::InvalidData => damaged(&io.to_string()),
        redb::Error::Io(io) if io.kind() == ErrorKind::UnexpectedEof => {
            damaged("the file ends too early")
        }
        redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => damaged(&error.to_string()),
        full if is_full(full) => Error::Exhausted {
            operation: object,
            source: Box::new(error.clone()),
        },
        redb::Error::DatabaseAlreadyOpen => Error::Refused {
            what: object,
            reason: "another process has the database open; stop the other daemon".to_owned(),
        },
        redb::Error::UpgradeRequired(version) => Error::Refused {
            what: object,
            reason: format!(
                "its file format is version {version}, which this Pontoon does not read; use the version that wrote it"
            ),
        },
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => Error::Unavailable {
            operation: object,
            reason: "the database failed and is being reopened; try again".to_owned(),
        },
        _ => Error::Failed {
            operation: object,
            source: Box::new(error.clone()),
        },
    }
}
