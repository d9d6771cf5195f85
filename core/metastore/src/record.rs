//! What the store is asked and what it answers.

use std::fmt;
use std::str::FromStr;

use pontoon_snapshot::{Info, Key, Kind, Labels, Usage};

/// Names a snapshot's directory, `snapshots/<id>`. Unique in a store over all snapshotter names, and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(u64);

impl SnapshotId {
    /// The id with this number.
    pub const fn new(number: u64) -> Self {
        SnapshotId(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not what [`SnapshotId`]'s `Display` writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseSnapshotIdError;

impl fmt::Display for ParseSnapshotIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a snapshot id; use a decimal number without leading zeros")
    }
}

impl std::error::Error for ParseSnapshotIdError {}

impl FromStr for SnapshotId {
    type Err = ParseSnapshotIdError;

    /// Reads exactly what `Display` writes, so that a directory name has one reading.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = SnapshotId(text.parse().map_err(|_| ParseSnapshotIdError)?);
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(ParseSnapshotIdError)
        }
    }
}

/// One snapshot as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its directory.
    pub id: SnapshotId,
    /// What Stat answers.
    pub info: Info,
    /// What it takes on disk, where that is known.
    pub usage: Option<Usage>,
    /// What a layer provider keeps about it; opaque here.
    pub layer: Option<Vec<u8>>,
}

/// One committed ancestor of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its directory.
    pub id: SnapshotId,
    /// Its name.
    pub name: Key,
    /// What a layer provider keeps about it.
    pub layer: Option<Vec<u8>>,
}

/// A snapshot that was removed while its directory was not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its directory.
    pub id: SnapshotId,
    /// What a layer provider kept about it.
    pub layer: Option<Vec<u8>>,
}

/// An active or view snapshot to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// From [`Store::allocate_id`](crate::Store::allocate_id).
    pub id: SnapshotId,
    /// Its key.
    pub key: Key,
    /// Active or view.
    pub kind: Kind,
    /// The committed snapshot below it.
    pub parent: Option<Key>,
    /// Its labels.
    pub labels: Labels,
}

/// What [`Store::create`](crate::Store::create) made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The new snapshot.
    pub record: Record,
    /// Its ancestors, nearest first.
    pub chain: Vec<Link>,
}

/// A snapshot that is committed from its beginning, because a layer provider brought the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// From [`Store::allocate_id`](crate::Store::allocate_id).
    pub id: SnapshotId,
    /// Its name.
    pub name: Key,
    /// The committed snapshot below it.
    pub parent: Option<Key>,
    /// Its labels.
    pub labels: Labels,
    /// What it takes on disk, where that is known.
    pub usage: Option<Usage>,
    /// What the layer provider keeps about it.
    pub layer: Option<Vec<u8>>,
}

/// An active snapshot to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitSnapshot {
    /// The active snapshot; the key is free afterwards.
    pub key: Key,
    /// The name of the committed snapshot.
    pub name: Key,
    /// A parent for a snapshot that was prepared without one; else its own parent or none.
    pub parent: Option<Key>,
    /// Its labels; those of the active snapshot are not kept.
    pub labels: Labels,
    /// What it takes on disk, where that is known already.
    pub usage: Option<Usage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        assert_eq!("42".parse(), Ok(SnapshotId::new(42)));
        for bad in ["", "042", "+42", "-1", "4 2", "42x", "18446744073709551616"] {
            assert_eq!(
                bad.parse::<SnapshotId>(),
                Err(ParseSnapshotIdError),
                "{bad}"
            );
        }
    }
}
