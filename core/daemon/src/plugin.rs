//! What a plugin brings to the daemon.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pontoon_snapshot::{Class, Key, Keyspaces, Result, SnapshotterName};

use crate::config::Section;

/// A kind of snapshotter: a name, a section of the configuration, and an engine.
pub trait Plugin: 'static {
    /// Its name: the binary is `pontoon-NAME`, the section `[NAME]`.
    const NAME: &'static str;

    /// Whether Mounts only composes what is there. It may not be if mounting brings layers back, over a network say;
    /// then it does not run where it would hold up other requests.
    const MOUNTS_ARE_QUICK: bool = false;

    /// Its section of the configuration.
    type Section: Section + Default;

    /// Opens the engine on `root`, which no other daemon has.
    fn open(root: &Path, section: &Self::Section) -> Result<Arc<dyn Engine>>;

    /// What containerd may be told that it can ask for: `capabilities` of `[proxy_plugins.NAME]`, on the filesystem of
    /// `root`, which need not exist.
    fn capabilities(root: &Path, section: &Self::Section) -> Result<Vec<&'static str>>;
}

/// All keyspaces of a root, and what a daemon needs to know of them besides.
pub trait Engine: Keyspaces {
    /// A cheap read of the metadata: an error, or no answer, means that nothing else would work either.
    fn probe(&self) -> Result<()>;

    /// What there is, for the metrics.
    fn census(&self) -> Result<Census>;

    /// Ends the work in the background and makes everything durable. The engine is not used afterwards.
    fn close(&self);
}

/// Numbers of an engine at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// How many snapshots there are under each snapshotter name.
    pub snapshots: Vec<(SnapshotterName, u64)>,
    /// How many directories of removed snapshots are still to be deleted.
    pub removed: u64,
    /// How many transactions were written to disk since the start.
    pub transactions: u64,
    /// How many operations those held; several in one when several callers came together.
    pub operations: u64,
    /// How often a layer was declined since the start, and so left to containerd, by reason.
    pub declined: BTreeMap<String, u64>,
}

impl Engine for pontoon_overlay::Engine {
    fn probe(&self) -> Result<()> {
        // Any name and key do: that there is no such snapshot is an answer.
        let keyspace = self.open(&SnapshotterName::new("probe")?)?;
        match keyspace.stat(&Key::new("probe")?) {
            Err(error) if error.class() != Class::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn census(&self) -> Result<Census> {
        let written = self.written();
        Ok(Census {
            transactions: written.transactions,
            operations: written.operations,
            snapshots: self.names()?,
            removed: self.removed()?,
            declined: self.declined(),
        })
    }

    fn close(&self) {
        self.close();
    }
}
