//! What a test binary provides.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use pontoon_snapshot::Keyspaces;

/// Which snapshotter is under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oracle {
    /// Pontoon.
    No,
    /// containerd's own overlayfs, by which the cases are checked.
    Containerd,
}

/// A fresh snapshotter.
pub struct Harness {
    /// Its keyspaces.
    pub keyspaces: Arc<dyn Keyspaces>,
    /// Its root, below which `snapshots/` holds one directory for each snapshot.
    pub root: PathBuf,
    /// Whether it is Pontoon's.
    pub oracle: Oracle,
    /// Dropped when the case is over: the process, the directory.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness")
            .field("root", &self.root)
            .field("oracle", &self.oracle)
            .finish_non_exhaustive()
    }
}
