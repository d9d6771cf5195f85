//! What can go wrong with a snapshot, and how a boundary should report it.

use std::error::Error as StdError;

use crate::{FilterError, Key, KeyStyle, Kind, SnapshotterName};

/// The result of a snapshot operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How a boundary reports an error; gRPC has one code for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// No such snapshot.
    NotFound,
    /// The key or name is taken.
    AlreadyExists,
    /// The snapshot is not in a state that allows this.
    FailedPrecondition,
    /// The request can never succeed as it is.
    Invalid,
    /// The disk or a limit is full.
    Exhausted,
    /// Not now: shutting down, or something that this needs is away. Try again.
    Unavailable,
    /// This snapshotter does not do this.
    Unimplemented,
    /// What is stored contradicts itself.
    Corrupt,
    /// A failure of ours or of the system below.
    Internal,
}

/// A failed snapshot operation. The text says what to do next where the caller can do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No snapshot has this key.
    #[error("snapshot {key}: not found")]
    NotFound {
        /// The key asked for.
        key: Key,
    },
    /// The parent that Prepare, View or Commit names does not exist.
    #[error("parent {parent} of snapshot {key}: not found; prepare and commit the parent first")]
    ParentNotFound {
        /// The snapshot to be made.
        key: Key,
        /// The parent that it names.
        parent: Key,
    },
    /// Prepare or View on a parent that is not committed.
    #[error("parent {parent} of snapshot {key} is {kind}, not committed; commit it first")]
    ParentNotCommitted {
        /// The snapshot to be made.
        key: Key,
        /// The parent that it names.
        parent: Key,
        /// What the parent is.
        kind: Kind,
    },
    /// Commit with a parent that is not committed.
    #[error(
        "cannot rebase snapshot {key} on {parent}: that is {kind}, not committed; commit it first"
    )]
    RebaseOnUncommitted {
        /// The snapshot to commit.
        key: Key,
        /// The parent that it names.
        parent: Key,
        /// What the parent is.
        kind: Kind,
    },
    /// Commit with another parent than the snapshot has.
    #[error(
        "cannot change the parent of snapshot {key} from {parent} to {given}: only a snapshot without a parent can be rebased"
    )]
    ParentDiffers {
        /// The snapshot to commit.
        key: Key,
        /// The parent that it has.
        parent: Key,
        /// The parent that Commit names.
        given: Key,
    },
    /// The key or name is in use.
    #[error("snapshot {key}: already exists")]
    AlreadyExists {
        /// The key or name.
        key: Key,
    },
    /// The layer that Prepare asks for is here already, as the committed snapshot `name`.
    #[error("snapshot {name} of {target}: already exists; use it instead of unpacking")]
    LayerExists {
        /// The committed snapshot.
        name: Key,
        /// The chain ID asked for.
        target: String,
    },
    /// Mounts of a committed snapshot.
    #[error("snapshot {key} is committed, which has no mounts; make a view of it")]
    NotMountable {
        /// The committed snapshot.
        key: Key,
    },
    /// Commit of a snapshot that is not active.
    #[error("cannot commit snapshot {key}: it is {kind}, not active")]
    NotActive {
        /// The snapshot.
        key: Key,
        /// What it is.
        kind: Kind,
    },
    /// Remove of a snapshot that others are built on. The word "remove" is part of the contract.
    #[error("cannot remove snapshot {key}: {child} is built on it; remove that first")]
    HasChildren {
        /// The snapshot.
        key: Key,
        /// One of its children.
        child: Key,
    },
    /// Update of a field that cannot change.
    #[error(
        "cannot update field {field}: only labels can change; use \"labels\" or \"labels.KEY\" in the mask"
    )]
    ImmutableField {
        /// The field, quoted.
        field: String,
    },
    /// A key of another style than those under this name.
    #[error(
        "cannot create {key} under snapshotter {name}: its snapshots have {present} keys, this key is {given}; give each containerd or BuildKit a snapshotter name of its own"
    )]
    MixedKeys {
        /// The snapshotter name.
        name: SnapshotterName,
        /// The key refused.
        key: Key,
        /// The style of the keys that are there.
        present: KeyStyle,
        /// The style of the key refused.
        given: KeyStyle,
    },
    /// Input that can never succeed.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// The object: which key, label or field.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A filter that cannot be parsed.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A request that this snapshotter refuses as things are.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// The operation and its object.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// An operation that this snapshotter does not have.
    #[error("{operation} is not supported by this snapshotter")]
    Unimplemented {
        /// The operation.
        operation: &'static str,
    },
    /// The operation cannot be done now.
    #[error("{operation} is not possible now: {reason}")]
    Unavailable {
        /// The operation and its object.
        operation: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The disk failed in the middle of a change and cannot be read, so that nobody knows whether the change is
    /// there. What belongs to it must be kept.
    #[error(
        "{operation} failed, but may have been done all the same: the disk cannot be read; look whether it was before trying again"
    )]
    Uncertain {
        /// The operation and its object.
        operation: String,
        /// The system's answer.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// No space, or no more of something limited.
    #[error("{operation} failed: no space left; free disk space or inodes and try again")]
    Exhausted {
        /// The operation and its object.
        operation: String,
        /// The system's answer.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Stored data that contradicts itself.
    #[error("{what} is damaged: {reason}; stop the daemon and run `pontoon fsck`")]
    Corrupt {
        /// The object.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A failure of the system below.
    #[error("{operation} failed")]
    Failed {
        /// The operation and its object.
        operation: String,
        /// The system's answer.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The answer of a snapshotter in another process.
    #[error("{message}")]
    Remote {
        /// How it reported its error.
        class: Class,
        /// Its text.
        message: String,
    },
}

impl Error {
    /// Invalid input: `what` is the object, `reason` says why and what to do.
    pub fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Invalid {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// A failed call to the system: [`Error::Exhausted`] where `source` says that the disk is full, else
    /// [`Error::Failed`].
    pub fn io(operation: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let operation = operation.into();
        match source.kind() {
            StorageFull | QuotaExceeded => Error::Exhausted {
                operation,
                source: source.into(),
            },
            _ => Error::Failed {
                operation,
                source: source.into(),
            },
        }
    }

    /// How a boundary reports this error.
    pub fn class(&self) -> Class {
        match self {
            Error::NotFound { .. } | Error::ParentNotFound { .. } => Class::NotFound,
            Error::AlreadyExists { .. } | Error::LayerExists { .. } => Class::AlreadyExists,
            Error::RebaseOnUncommitted { .. }
            | Error::NotMountable { .. }
            | Error::NotActive { .. }
            | Error::HasChildren { .. }
            | Error::MixedKeys { .. }
            | Error::Refused { .. } => Class::FailedPrecondition,
            Error::ParentNotCommitted { .. }
            | Error::ParentDiffers { .. }
            | Error::ImmutableField { .. }
            | Error::Invalid { .. }
            | Error::Filter(_) => Class::Invalid,
            Error::Exhausted { .. } => Class::Exhausted,
            Error::Unavailable { .. } | Error::Uncertain { .. } => Class::Unavailable,
            Error::Unimplemented { .. } => Class::Unimplemented,
            Error::Corrupt { .. } => Class::Corrupt,
            Error::Failed { .. } => Class::Internal,
            Error::Remote { class, .. } => *class,
        }
    }
}
