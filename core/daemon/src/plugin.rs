//! What a plugin brings to the daemon.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use pontoon_snapshot::{Class, Key, Keyspaces, Result, SnapshotterName};

use crate::config::Sections;

/// A kind of snapshotter: a name, sections of the configuration, and an engine.
pub trait Plugin: 'static {
    /// Its name: the binary is `pontoon-NAME`, its own section `[NAME]`.
    const NAME: &'static str;

    /// What containerd is told in `exports` of `[proxy_plugins.NAME]` besides the root, and a comment for each.
    const EXPORTS: &'static [(&'static str, &'static str, &'static str)] = &[];

    /// Whether Mounts only composes what is there. It may not be if mounting brings layers back, over a network say;
    /// then it does not run where it would hold up other requests.
    const MOUNTS_ARE_QUICK: bool = false;

    /// Its sections of the configuration.
    type Sections: Sections + Default;

    /// Opens the engine on `root`, which no other daemon has.
    fn open(root: &Path, sections: &Self::Sections) -> Result<Arc<dyn Engine>>;

    /// What containerd may be told that it can ask for: `capabilities` of `[proxy_plugins.NAME]`, on the filesystem of
    /// `root`, which need not exist.
    fn capabilities(root: &Path, sections: &Self::Sections) -> Result<Vec<&'static str>>;
}

/// All keyspaces of a root, and what a daemon needs to know of them besides.
pub trait Engine: Keyspaces {
    /// A cheap read of the metadata: an error, or no answer, means that nothing else would work either.
    fn probe(&self) -> Result<()>;

    /// What there is, for the metrics.
    fn census(&self) -> Result<Census>;

    /// What is known of each layer, for `GET /layers`; `None` if that is nothing.
    fn layers(&self) -> Option<serde_json::Value> {
        None
    }

    /// What is known of other nodes that layers are exchanged with, for `GET /peers`; `None` if there can be none.
    fn peers(&self) -> Option<serde_json::Value> {
        None
    }

    /// The learned orders of starts, for `/profiles`; `None` if it learns none.
    fn profiles(&self) -> Option<Arc<dyn Profiles>> {
        None
    }

    /// What this engine counts beyond its census.
    fn numbers(&self) -> Vec<Number> {
        Vec::new()
    }

    /// Ends the work in the background and makes everything durable. The engine is not used afterwards.
    fn close(&self);
}

/// The learned orders of starts. They are files, so asking takes a disk.
pub trait Profiles: Send + Sync {
    /// A list of those that there are.
    fn list(&self) -> io::Result<serde_json::Value>;

    /// The one called `name`, in the form in which it is handed on.
    fn export(&self, name: &str) -> io::Result<Option<String>>;

    /// Takes one from elsewhere, and answers what it is called. [`io::ErrorKind::InvalidData`] if it is none.
    fn import(&self, bytes: &[u8]) -> io::Result<String>;
}

/// A number that a plugin counts. Its samples have at most one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    /// What it is called, without the prefix `pontoon_`.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Whether it only grows.
    pub grows: bool,
    /// The name of the label, if there is one.
    pub label: Option<&'static str>,
    /// The values, each with the value of the label.
    pub samples: Vec<(String, u64)>,
}

impl Number {
    /// One value without a label.
    pub fn new(name: &'static str, help: &'static str, grows: bool, value: u64) -> Self {
        Number {
            name,
            help,
            grows,
            label: None,
            samples: vec![(String::new(), value)],
        }
    }
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
