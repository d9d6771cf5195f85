//! What a snapshotter answers: [`Info`], [`Kind`], [`Mount`], [`Usage`].

use std::fmt;
use std::time::SystemTime;

use crate::{Key, Labels};

/// What a snapshot is, and so what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A read-only mount of a committed snapshot.
    View,
    /// A writable snapshot, which can be committed.
    Active,
    /// An immutable snapshot, which can be a parent.
    Committed,
}

impl Kind {
    /// The word that the filter grammar uses: `view`, `active` or `committed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::View => "view",
            Kind::Active => "active",
            Kind::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One snapshot, as Stat and List answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The key (active, view) or the name (committed).
    pub key: Key,
    /// The name of the committed snapshot below, if any.
    pub parent: Option<Key>,
    /// What the snapshot is.
    pub kind: Kind,
    /// When it was prepared, or committed for a committed snapshot.
    pub created: SystemTime,
    /// When its labels changed last; equal to `created` until then.
    pub updated: SystemTime,
    /// Its labels.
    pub labels: Labels,
}

/// What a snapshot takes on disk, without its parents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk space (allocated blocks, not file lengths).
    pub size_bytes: u64,
    /// Inodes, the root directory included; hard links count once.
    pub inodes: u64,
}

/// One mount for the caller to make, in the form of mount(8): `mount -t TYPE -o OPTIONS SOURCE TARGET`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// The filesystem type, or `bind`.
    pub fs_type: String,
    /// The source: a path for `bind`, the word `overlay` for overlays.
    pub source: String,
    /// A path below the container's root to mount at; empty for the root itself.
    pub target: String,
    /// Mount options, one each.
    pub options: Vec<String>,
}
