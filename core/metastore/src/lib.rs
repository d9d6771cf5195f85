//! Transactional snapshot metadata on redb.
//!
//! A [`Store`] is one file that holds the record of every snapshot of a daemon. Each snapshotter name is a
//! keyspace of its own; [`SnapshotId`]s are unique over all of them and name the directories.
//!
//! - [`Store`]: the operations. What changes something is durable when it returns: many callers share one
//!   transaction and one fsync, and nobody is answered before it.
//! - [`Record`], [`Link`], [`Removed`]: what it answers. [`NewSnapshot`], [`NewLayer`], [`CommitSnapshot`]: what
//!   it is asked.
//! - [`check`]: finds and repairs what is wrong in a file, for `pontoon fsck`.
//!
//! Inside, `rules` says what may be done (pure, no tables), `rows` reads, `tables` changes in one transaction,
//! `group` gathers the callers, `schema` and `stored` are the file's format, `database` and `disk` keep it open and
//! whole on a disk that fails.
//!
//! This crate knows nothing of directories and mounts.

mod check;
mod database;
mod disk;
mod failure;
mod group;
mod record;
mod rows;
mod rules;
mod schema;
mod store;
mod stored;
mod tables;

pub use check::{CheckReport, Finding, check};
pub use record::{
    CommitSnapshot, Created, Link, NewLayer, NewSnapshot, ParseSnapshotIdError, Record, Removed,
    SnapshotId,
};
pub use store::{Store, Written};
