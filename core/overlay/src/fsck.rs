//! Finds and repairs what contradicts itself in a root that no daemon uses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pontoon_metastore::{Record, SnapshotId, Store};
use pontoon_snapshot::{Error, Key, Kind, Result, SnapshotterName};

use crate::engine::visit_all;
use crate::mounted;
use crate::recovery::{self, lacks};
use crate::root::{Locked, Root, make_directory, metadata_of};

/// What [`fsck`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// How many snapshots have a record.
    pub snapshots: u64,
    /// Everything that is not as it should be, in the order in which it was found.
    pub findings: Vec<Finding>,
}

/// One contradiction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: a snapshot, a directory, a table.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// What a repair does about it or, where it does nothing, what the operator can do.
    pub remedy: String,
    /// Whether a repair helps.
    pub repairable: bool,
    /// Whether it was repaired.
    pub repaired: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.problem, self.remedy)
    }
}

/// Compares metadata and directories of `root`, and with `repair` makes them agree. Nothing is changed without it.
///
/// A repair never touches a snapshot that is whole. Directories are looked at, and orphans among them deleted, only
/// once the metadata is sound. [`Error::Unavailable`] if a daemon uses the root.
pub fn fsck(root: &Path, repair: bool) -> Result<FsckReport> {
    require_root(root)?;
    let locked = Locked::new(root)?;
    let mut check = Check {
        repair,
        report: FsckReport::default(),
    };
    check.layout(&locked)?;
    if !Path::new(&locked.directories()[0].0).is_dir() {
        return Ok(check.report);
    }
    let metadata = metadata_of(locked.path());
    let root = Root::from_locked(locked)?;
    if !metadata.exists() {
        check.without_metadata(&root)?;
        return Ok(check.report);
    }
    if check.metadata(&metadata)? {
        check.snapshots(&root, &Store::open(&metadata)?)?;
    }
    Ok(check.report)
}

/// Refuses a directory that is no root, before a lock file is made in it.
fn require_root(root: &Path) -> Result<()> {
    if metadata_of(root).exists() || root.join("snapshots").exists() {
        return Ok(());
    }
    Err(Error::invalid(
        format!("root {}", root.display()),
        "there is neither metadata.redb nor snapshots/ in it; give the root of a daemon",
    ))
}

struct Check {
    repair: bool,
    report: FsckReport,
}

/// A snapshot in its keyspace.
type Name = (SnapshotterName, Key);

impl Check {
    fn found(
        &mut self,
        object: String,
        problem: impl Into<String>,
        remedy: impl Into<String>,
        fix: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if self.repair {
            fix()?;
        }
        self.report.findings.push(Finding {
            object,
            problem: problem.into(),
            remedy: remedy.into(),
            repairable: true,
            repaired: self.repair,
        });
        Ok(())
    }

    /// The directories of the root itself.
    fn layout(&mut self, root: &Locked) -> Result<()> {
        for (directory, mode) in root.directories() {
            let object = format!("directory {directory}");
            let fix = || make_directory(&directory, mode);
            match fs::symlink_metadata(&directory) {
                Ok(metadata) if metadata.is_dir() => {
                    let found = metadata.permissions().mode() & 0o7777;
                    if found != mode {
                        let problem = format!("its mode is {found:04o}, not {mode:04o}");
                        self.found(object, problem, "set its mode", fix)?;
                    }
                }
                Ok(_) => {
                    let problem = Error::io(
                        format!("use {directory} as a directory"),
                        std::io::ErrorKind::NotADirectory.into(),
                    );
                    return Err(problem);
                }
                Err(_) => self.found(object, "it is missing", "make it", fix)?,
            }
        }
        Ok(())
    }

    /// Directories are all that is left: never taken for orphans.
    fn without_metadata(&mut self, root: &Root) -> Result<()> {
        let directories = recovery::directories(root)?.len();
        if directories > 0 {
            self.report.findings.push(Finding {
                object: format!("file {}", root.metadata().display()),
                problem: format!("it is missing, and there are {directories} snapshot directories"),
                remedy: "restore it, or delete the directories in snapshots/ by hand to begin anew"
                    .to_owned(),
                repairable: false,
                repaired: false,
            });
        }
        Ok(())
    }

    /// The metadata by itself. Whether it can be relied on now.
    fn metadata(&mut self, path: &Path) -> Result<bool> {
        let checked = pontoon_metastore::check(path, self.repair)?;
        let is_sound = checked
            .findings
            .iter()
            .all(|finding| finding.repairable && checked.repaired);
        let findings = checked.findings.into_iter().map(|finding| Finding {
            object: finding.object,
            problem: finding.problem,
            remedy: finding.remedy,
            repairable: finding.repairable,
            repaired: finding.repairable && checked.repaired,
        });
        self.report.findings.extend(findings);
        self.report.snapshots = checked.snapshots;
        Ok(is_sound)
    }

    /// Each record against its directory.
    fn snapshots(&mut self, root: &Root, store: &Store) -> Result<()> {
        let mut directories = recovery::directories(root)?;
        let mut damaged = Vec::new();
        let mut children: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
        let mut unreadable = Ok(());
        visit_all(store, &mut |name, record| {
            directories.remove(&record.id);
            if let Some(parent) = &record.info.parent {
                let parent = (name.clone(), parent.clone());
                let child = (name.clone(), record.info.key.clone());
                children.entry(parent).or_default().push(child);
            }
            match lacks(root, &record) {
                Ok(true) => damaged.push((name.clone(), record)),
                Ok(false) => {}
                Err(error) => unreadable = Err(error),
            }
        })?;
        unreadable?;
        let mut dropped = BTreeSet::new();
        for (name, record) in &damaged {
            if record.info.kind == Kind::Committed {
                let lost = (name.clone(), record.info.key.clone());
                self.drop_lost(store, lost, &children, &mut dropped)?;
            }
        }
        for (name, record) in damaged {
            let kept = !dropped.contains(&(name.clone(), record.info.key.clone()));
            if record.info.kind != Kind::Committed && kept {
                self.restore(root, store, &name, &record)?;
            }
        }
        for removed in store.removed()? {
            directories.remove(&removed.id);
        }
        self.orphans(root, directories)
    }

    fn restore(
        &mut self,
        root: &Root,
        store: &Store,
        name: &SnapshotterName,
        record: &Record,
    ) -> Result<()> {
        let kind = record.info.kind;
        let object = format!("{kind} snapshot {} of {name}", record.info.key);
        let parts = recovery::parts(root, record.id)?;
        let owner = recovery::owner(root, store, name, &record.info);
        let fix = || root.restore(record.id, kind, owner);
        if parts.upper {
            self.found(object, "its work directory is missing", "make it", fix)
        } else {
            let problem = format!("its directory snapshots/{}/fs is missing", record.id);
            self.found(
                object,
                problem,
                "make it, empty: what was written is lost",
                fix,
            )
        }
    }

    /// A committed snapshot that is lost takes along all that is built on it, the topmost first.
    fn drop_lost(
        &mut self,
        store: &Store,
        lost: Name,
        children: &BTreeMap<Name, Vec<Name>>,
        dropped: &mut BTreeSet<Name>,
    ) -> Result<()> {
        let mut doomed = vec![lost.clone()];
        let mut next = 0;
        while let Some(name) = doomed.get(next) {
            doomed.extend(children.get(name).cloned().unwrap_or_default());
            next += 1;
        }
        for doomed in doomed.into_iter().rev() {
            if !dropped.insert(doomed.clone()) {
                continue;
            }
            let (name, key) = doomed;
            let object = format!("snapshot {key} of {name}");
            let problem = if key == lost.1 {
                "it is committed, and its directory is missing".to_owned()
            } else {
                format!("it is built on {}, whose directory is missing", lost.1)
            };
            self.found(object, problem, LOST, || {
                store.remove(&name, &key).map(drop)
            })?;
        }
        Ok(())
    }

    fn orphans(&mut self, root: &Root, directories: BTreeSet<SnapshotId>) -> Result<()> {
        let in_use = mounted::ids(root.snapshots())?;
        for id in directories {
            let path = root.snapshots().join(id.to_string());
            let object = format!("directory {}", path.display());
            if in_use.contains(&id) {
                self.report.findings.push(Finding {
                    object,
                    problem: "no snapshot has it, but it is mounted".to_owned(),
                    remedy: "stop the container that uses it and run this again".to_owned(),
                    repairable: false,
                    repaired: false,
                });
                continue;
            }
            self.found(object, "no snapshot has it", "delete it", || {
                root.remove(id)
                    .map_err(|error| Error::io(format!("delete {}", path.display()), error))
            })?;
        }
        Ok(())
    }
}

/// What is done about a snapshot whose files are gone. containerd's own records still name it, and pulling the image
/// unpacks nothing for as long as they do.
const LOST: &str = "REMOVE IT WITH ITS DATA; then remove the image and the containers that use it, let containerd collect, and pull the image again";
