//! The directories of a root.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pontoon_linux::{DirLock, LockError};
use pontoon_metastore::SnapshotId;
use pontoon_snapshot::{Error, Kind, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::tree::{self, Cancel};

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

/// A root that this process has locked and not looked into.
#[derive(Debug)]
pub(crate) struct Locked {
    path: PathBuf,
    text: String,
    lock: DirLock,
}

impl Locked {
    /// Locks a directory that is there.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path)
            .map_err(|error| Error::io(format!("open root {}", path.display()), error))?;
        let text = usable_in_options(&path)?.to_owned();
        let lock = lock(&path)?;
        Ok(Locked { path, text, lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directories in a root, and their modes.
    pub(crate) fn directories(&self) -> [(String, u32); 2] {
        [
            (format!("{}/snapshots", self.text), 0o700),
            (format!("{}/empty", self.text), 0o755),
        ]
    }
}

/// The file of the metastore in `root`.
pub(crate) fn metadata_of(root: &Path) -> PathBuf {
    root.join("metadata.redb")
}

/// Which directories of a snapshot are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) upper: bool,
    pub(crate) work: bool,
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
        let locked = Locked::new(path)?;
        for (directory, mode) in locked.directories() {
            make_directory(&directory, mode)?;
        }
        Self::from_locked(locked)
    }

    /// A root whose directories are there.
    pub(crate) fn from_locked(locked: Locked) -> Result<Self> {
        let Locked { path, text, lock } = locked;
        let snapshots = format!("{text}/snapshots");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let snapshots_fd = rustix::fs::open(&snapshots, flags, Mode::empty())
            .map_err(|errno| Error::io(format!("open {snapshots}"), errno.into()))?;
        Ok(Root {
            path,
            snapshots,
            empty: format!("{text}/empty"),
            snapshots_fd,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn metadata(&self) -> PathBuf {
        metadata_of(&self.path)
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

    /// Makes the directories of a snapshot, none of which may be there. What was made is removed if that fails.
    pub(crate) fn make(&self, id: SnapshotId, kind: Kind, owner: Owner) -> Result<()> {
        let base = id.to_string();
        rustix::fs::mkdirat(&self.snapshots_fd, &base, Mode::from(0o700))
            .map_err(|errno| self.not_made(id, errno.into()))?;
        let filled = self.make_upper(&base, owner).and_then(|()| match kind {
            Kind::Active => self.make_work(&base),
            _ => Ok(()),
        });
        filled.map_err(|error| {
            let _ = self.remove(id);
            self.not_made(id, error)
        })
    }

    /// Makes those directories of a snapshot that are missing.
    pub(crate) fn restore(&self, id: SnapshotId, kind: Kind, owner: Owner) -> Result<()> {
        let base = id.to_string();
        let failed = |error| self.not_made(id, error);
        match rustix::fs::mkdirat(&self.snapshots_fd, &base, Mode::from(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        let there = self.parts(id).map_err(failed)?;
        if !there.upper {
            self.make_upper(&base, owner).map_err(failed)?;
        }
        if kind == Kind::Active && !there.work {
            self.make_work(&base).map_err(failed)?;
        }
        Ok(())
    }

    /// Which directories of a snapshot are there.
    pub(crate) fn parts(&self, id: SnapshotId) -> io::Result<Parts> {
        let is_directory = |name: &str| {
            let path = format!("{id}/{name}");
            match rustix::fs::statat(&self.snapshots_fd, path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
                Err(errno) => Err(io::Error::from(errno)),
            }
        };
        Ok(Parts {
            upper: is_directory("fs")?,
            work: is_directory("work")?,
        })
    }

    fn not_made(&self, id: SnapshotId, error: io::Error) -> Error {
        Error::io(format!("create directory {}/{id}", self.snapshots), error)
    }

    fn make_upper(&self, base: &str, owner: Owner) -> io::Result<()> {
        let upper = format!("{base}/fs");
        self.make_one(&upper, 0o755)?;
        if owner != Owner::ROOT {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&self.snapshots_fd, &upper, Some(uid), Some(gid), flags)?;
        }
        Ok(())
    }

    fn make_work(&self, base: &str) -> io::Result<()> {
        self.make_one(&format!("{base}/work"), 0o711)
    }

    /// The mode is set in a second step, because the umask of the process takes away from that of the first.
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
        self.remove_unless(id, Cancel::never())
    }

    /// As [`Root::remove`], ending with an error of kind `Interrupted` when it is cancelled.
    pub(crate) fn remove_unless(&self, id: SnapshotId, cancel: &Cancel) -> io::Result<()> {
        tree::remove(self.snapshots_fd.as_fd(), &id.to_string(), cancel)
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

/// Makes a directory, or gives it the right mode.
pub(crate) fn make_directory(path: &str, mode: u32) -> Result<()> {
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
