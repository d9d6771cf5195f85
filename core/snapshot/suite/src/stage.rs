//! What a case plays on.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_linux::{Mounter, SystemMounter};
use pontoon_snapshot::{
    Class, Filter, Info, Key, Labels, Mount, Result, Snapshotter, SnapshotterName,
};
use tempfile::TempDir;

use crate::{Harness, Oracle};

/// The snapshotter name that the cases use.
const NAME: &str = "suite";

/// A snapshotter and a place for mounts. Its methods panic where an answer is not what must be.
pub struct Stage {
    sn: Arc<dyn Snapshotter>,
    work: TempDir,
    // Last: what the above need must go after them.
    harness: Harness,
}

/// A mounted snapshot; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    target: TempDir,
}

impl Stage {
    /// Opens the keyspace of the cases.
    pub fn new(harness: Harness) -> Self {
        let name = SnapshotterName::new(NAME).unwrap();
        Stage {
            sn: harness.keyspaces.open(&name).unwrap(),
            work: tempfile::Builder::new().prefix("suite-").tempdir().unwrap(),
            harness,
        }
    }

    /// The snapshotter under test.
    pub fn sn(&self) -> &dyn Snapshotter {
        &*self.sn
    }

    /// The keyspace of another snapshotter name.
    pub fn keyspace(&self, name: &str) -> Arc<dyn Snapshotter> {
        let name = SnapshotterName::new(name).unwrap();
        self.harness.keyspaces.open(&name).unwrap()
    }

    /// Whether this is containerd, from which Pontoon differs here for the given reason.
    pub fn differs(&self, reason: &str) -> bool {
        assert!(!reason.is_empty());
        self.harness.oracle == Oracle::Containerd
    }

    /// A fresh directory.
    pub fn directory(&self) -> PathBuf {
        tempfile::tempdir_in(self.work.path()).unwrap().keep()
    }

    /// Prepare.
    pub fn prepare(&self, name: &str, parent: &str) -> Vec<Mount> {
        self.prepare_with(name, parent, &[])
    }

    /// Prepare with labels.
    pub fn prepare_with(&self, name: &str, parent: &str, pairs: &[(&str, &str)]) -> Vec<Mount> {
        let mounts = self
            .sn
            .prepare(&key(name), parent_key(parent).as_ref(), labels(pairs));
        let mounts = mounts.unwrap_or_else(|error| panic!("prepare {name} on {parent:?}: {error}"));
        assert!(!mounts.is_empty(), "prepare {name} answered no mounts");
        mounts
    }

    /// View.
    pub fn view(&self, name: &str, parent: &str) -> Vec<Mount> {
        let mounts = self
            .sn
            .view(&key(name), parent_key(parent).as_ref(), Labels::default());
        let mounts = mounts.unwrap_or_else(|error| panic!("view {name} of {parent:?}: {error}"));
        assert!(!mounts.is_empty(), "view {name} answered no mounts");
        mounts
    }

    /// Commit.
    pub fn commit(&self, name: &str, of: &str) {
        self.commit_with(name, of, "", &[]);
    }

    /// Commit with a parent and labels.
    pub fn commit_with(&self, name: &str, of: &str, parent: &str, pairs: &[(&str, &str)]) {
        self.sn
            .commit(
                &key(name),
                &key(of),
                parent_key(parent).as_ref(),
                labels(pairs),
            )
            .unwrap_or_else(|error| panic!("commit {of} as {name} on {parent:?}: {error}"));
    }

    /// Remove.
    pub fn remove(&self, name: &str) {
        self.sn
            .remove(&key(name))
            .unwrap_or_else(|error| panic!("remove {name}: {error}"));
    }

    /// Stat.
    pub fn stat(&self, name: &str) -> Info {
        self.sn
            .stat(&key(name))
            .unwrap_or_else(|error| panic!("stat {name}: {error}"))
    }

    /// Commits `name` on `parent`, with what `change` does to its mount.
    pub fn layer(&self, name: &str, parent: &str, change: impl Fn(&Path)) {
        let active = format!("{name}-active");
        let mounts = self.prepare(&active, parent);
        change(self.mount(&mounts).path());
        self.commit(name, &active);
    }

    /// Commits `name` on `parent`, as it is.
    pub fn empty_layer(&self, name: &str, parent: &str) {
        self.prepare(&format!("{name}-active"), parent);
        self.commit(name, &format!("{name}-active"));
    }

    /// Mounts `mounts` at a fresh directory.
    pub fn mount(&self, mounts: &[Mount]) -> Mounted {
        let mounted = Mounted {
            target: tempfile::tempdir_in(self.work.path()).unwrap(),
        };
        for mount in mounts {
            SystemMounter
                .mount(mount, mounted.path())
                .unwrap_or_else(|error| panic!("mount {mount:?}: {error:?}"));
        }
        mounted
    }

    /// The keys of the snapshots that any of `filters` matches, in the order of List.
    pub fn found(&self, filters: &[&str]) -> Vec<String> {
        let mut keys = Vec::new();
        self.walk(filters, |info| keys.push(info.key.as_str().to_owned()));
        keys
    }

    /// Calls `visit` with each snapshot that any of `filters` matches.
    pub fn walk(&self, filters: &[&str], mut visit: impl FnMut(Info)) {
        let filter = Filter::parse(filters).unwrap();
        self.sn
            .walk(&filter, &mut |info| {
                visit(info);
                ControlFlow::Continue(())
            })
            .unwrap_or_else(|error| panic!("list {filters:?}: {error}"));
    }

    /// How many directories there are for snapshots, once everything removed is gone.
    pub fn directories(&self) -> usize {
        self.sn.cleanup().unwrap();
        let snapshots = self.harness.root.join("snapshots");
        std::fs::read_dir(snapshots).unwrap().count()
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("work", &self.work)
            .field("harness", &self.harness)
            .finish_non_exhaustive()
    }
}

impl Mounted {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.target.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = SystemMounter.unmount(self.path());
        if !std::thread::panicking() {
            unmounted
                .unwrap_or_else(|error| panic!("unmount {}: {error:?}", self.path().display()));
        }
    }
}

/// The key `text`.
pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// The labels `pairs`.
pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pair = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    Labels::new(pairs.iter().map(pair)).unwrap()
}

/// The key of the parent, where the empty text means none.
pub(crate) fn parent_key(text: &str) -> Option<Key> {
    (!text.is_empty()).then(|| key(text))
}

/// Panics unless `result` is an error of `class`; answers its text.
#[track_caller]
pub(crate) fn refused<T: fmt::Debug>(result: Result<T>, class: Class) -> String {
    match result {
        Err(error) if error.class() == class => error.to_string(),
        other => panic!("{class:?} expected, but it is {other:?}"),
    }
}
