//! The directories of a root.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pontoon_linux::{DirLock, LockError};
use pontoon_metastore::SnapshotId;
use pontoon_snapshot::{Error, Kind, Result};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use crate::tree;

/// A root that this process has locked.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    /// `<path>/snapshots` as text, for mount options.
    snapshots: String,
    /// `<path>/empty` as text.
    empty: String,
    snapshots_fd: OwnedFd,
    _lock: DirLock,
}

/// Who owns the root directory of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    pub(crate) const ROOT: Owner = Owner { uid: 0, gid: 0 };
}

impl Root {
    /// Makes what is missing and locks the root.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        make_root(path)?;
        Self::open_existing(path)
    }

    /// As [`Root::open`], for a root that must be there.
    pub(crate) fn open_existing(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path)
            .map_err(|error| Error::io(format!("open root {}", path.display()), error))?;
        let text = usable_in_options(&path)?;
        let lock = lock(&path)?;
        let snapshots = format!("{text}/snapshots");
        let empty = format!("{text}/empty");
        make_directory(&snapshots, 0o700)?;
        make_directory(&empty, 0o755)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let snapshots_fd = rustix::fs::open(&snapshots, flags, Mode::empty())
            .map_err(|errno| Error::io(format!("open {snapshots}"), errno.into()))?;
        Ok(Root {
            path,
            snapshots,
            empty,
            snapshots_fd,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn metadata(&self) -> PathBuf {
        self.path.join("metadata.redb")
    }

    pub(crate) fn snapshots(&self) -> &Path {
        Path::new(&self.snapshots)
    }

    pub(crate) fn empty(&self) -> &str {
        &self.empty
    }

    pub(crate) fn upper(&self, id: SnapshotId) -> String {
        format!("{}/{id}/fs", self.snapshots)
    }

    pub(crate) fn work(&self, id: SnapshotId) -> String {
        format!("{}/{id}/work", self.snapshots)
    }

    /// Makes the directories of a snapshot. What was made is removed if that fails.
    ///
    /// The modes are set in a second step, because the umask of the process takes away from those of the first.
    pub(crate) fn make(&self, id: SnapshotId, kind: Kind, owner: Owner) -> Result<()> {
        let base = id.to_string();
        let made = self.make_in(&base, kind, owner);
        if made.is_err() {
            let _ = self.remove(id);
        }
        made.map_err(|error| {
            Error::io(format!("create directory {}/{base}", self.snapshots), error)
        })
    }

    fn make_in(&self, base: &str, kind: Kind, owner: Owner) -> io::Result<()> {
        rustix::fs::mkdirat(&self.snapshots_fd, base, Mode::from(0o700))?;
        let fs = format!("{base}/fs");
        self.make_one(&fs, 0o755)?;
        if owner != Owner::ROOT {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&self.snapshots_fd, &fs, Some(uid), Some(gid), flags)?;
        }
        if kind == Kind::Active {
            self.make_one(&format!("{base}/work"), 0o711)?;
        }
        Ok(())
    }

    fn make_one(&self, name: &str, mode: u32) -> io::Result<()> {
        let mode = Mode::from(mode);
        rustix::fs::mkdirat(&self.snapshots_fd, name, mode)?;
        Ok(rustix::fs::chmodat(
            &self.snapshots_fd,
            name,
            mode,
            AtFlags::empty(),
        )?)
    }

    /// Deletes the directory of a snapshot with all that is in it; none is fine.
    pub(crate) fn remove(&self, id: SnapshotId) -> io::Result<()> {
        self.remove_entry(&id.to_string())
    }

    /// Deletes `snapshots/<name>`.
    pub(crate) fn remove_entry(&self, name: &str) -> io::Result<()> {
        tree::remove(self.snapshots_fd.as_fd(), name)
    }

    /// The names of everything in `snapshots/`.
    pub(crate) fn list(&self) -> Result<Vec<String>> {
        let failed = |error| Error::io(format!("list {}", self.snapshots), error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.snapshots).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            match name.into_string() {
                Ok(name) => names.push(name),
                // Not made here, so not ours to delete.
                Err(name) => tracing::warn!(?name, "ignoring a strange name in snapshots/"),
            }
        }
        Ok(names)
    }

    /// Who owns the directory `path`.
    pub(crate) fn owner_of(path: &str) -> Result<Owner> {
        let stat = rustix::fs::stat(path)
            .map_err(|errno| Error::io(format!("stat {path}"), errno.into()))?;
        Ok(Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        })
    }

    /// Makes durable what was written to the filesystem of this root.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.snapshots_fd)
            .map_err(|errno| Error::io(format!("sync {}", self.snapshots), errno.into()))
    }
}

fn make_root(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::io(format!("create root {}", path.display()), error))
}

/// The root's path as text, refused if it cannot be part of the mount options that containerd joins with commas.
fn usable_in_options(path: &Path) -> Result<&str> {
    let text = path.to_str();
    match text {
        Some(text) if !text.contains([',', ':', '\\', '"']) => Ok(text),
        _ => Err(Error::invalid(
            format!("root {}", path.display()),
            "it is part of mount options, so it must be UTF-8 without commas, colons, quotes and backslashes; choose another path",
        )),
    }
}

fn lock(path: &Path) -> Result<DirLock> {
    DirLock::acquire(path).map_err(|error| match error {
        LockError::Held { .. } => Error::Unavailable {
            operation: format!("opening root {}", path.display()),
            reason: format!("{error}; stop that process, or use another root"),
        },
        LockError::Failed { source, .. } => {
            Error::io(format!("lock root {}", path.display()), source)
        }
    })
}

fn make_directory(path: &str, mode: u32) -> Result<()> {
    let failed = |error| Error::io(format!("create directory {path}"), error);
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path).map_err(failed)?;
            if !metadata.is_dir() {
                return Err(failed(io::ErrorKind::NotADirectory.into()));
            }
            if metadata.permissions().mode() & 0o7777 == mode {
                return Ok(());
            }
        }
        made => made.map_err(failed)?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}
