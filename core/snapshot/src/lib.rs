//! The snapshot domain: what a snapshotter is, without gRPC and without I/O.
//!
//! A **snapshot** is a filesystem state kept under a **key** (active and view snapshots) or a **name**
//! (committed ones); both live in one keyspace, so both are a [`Key`]. An active snapshot is made on top
//! of a committed **parent**, mounted, written, and committed under a name, which others may then use as
//! their parent. The contract is that of containerd's snapshots service, `containerd.services.snapshots.v1`.
//!
//! - [`Snapshotter`]: the operations, one keyspace each; [`Keyspaces`] hands out one per snapshotter name.
//! - [`Info`], [`Kind`], [`Mount`], [`Usage`]: what they answer.
//! - [`Key`], [`SnapshotterName`], [`Labels`], [`LabelChange`]: checked input; a value of one of these types
//!   is within the limits.
//! - [`Filter`]: the filter grammar of List.
//! - [`Error`] and its [`Class`]: what went wrong, and how a boundary should report it.
//!
//! This crate deliberately does not know where snapshots are stored or how they are mounted.

mod error;
mod filter;
mod info;
mod key;
mod labels;
mod snapshotter;

pub use error::{Class, Error, Result};
pub use filter::{EXPRESSIONS_MAX, FILTERS_BYTES_MAX, FILTERS_MAX, Filter, FilterError};
pub use info::{Info, Kind, Mount, Usage};
pub use key::{KEY_BYTES_MAX, Key, KeyStyle, NAME_BYTES_MAX, SnapshotterName};
pub use labels::{
    LABEL_BYTES_MAX, LABEL_GID_MAPPING, LABEL_MAX_SIZE, LABEL_SNAPSHOT_REF, LABEL_UID_MAPPING,
    LABELS_BYTES_MAX, LabelChange, Labels,
};
pub use snapshotter::{Keyspaces, Snapshotter, Visit};
