//! Makes the mounts that a snapshotter answers.
//!
//! Everything is assembled as a detached mount, which nobody sees and which goes away by itself, and attached to
//! its target in one last call. So a failed or killed mount leaves nothing behind.

mod erofs;
pub(crate) mod fuse;
pub(crate) mod list;
mod namespace;
mod options;
mod overlay;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_snapshot::Mount;
use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use crate::raw::{MountChange, mount_setattr};
use crate::{Error, IdMap, Result};
pub use erofs::{DeviceReads, mount_erofs, try_erofs};
pub(crate) use options::MountOptions;
pub(crate) use overlay::detached as detached_overlay;

/// Makes and unmakes mounts.
pub trait Mounter: Send + Sync + fmt::Debug {
    /// Mounts `mount` at `target`, an existing directory (for a bind mount of a file, an existing file).
    /// `mount.target` is not looked at.
    ///
    /// Types are `bind` and `overlay`, options those of mount(8), and `uidmap=`, `gidmap=` (both or none) for
    /// an idmapped mount.
    fn mount(&self, mount: &Mount, target: &Path) -> Result<()>;

    /// Unmounts the topmost mount at `target`. Fails while it is in use.
    fn unmount(&self, target: &Path) -> Result<()>;
}

/// Makes real mounts. Linux 5.12 or later.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemMounter;

impl Mounter for SystemMounter {
    fn mount(&self, mount: &Mount, target: &Path) -> Result<()> {
        let options = MountOptions::parse(&mount.options)
            .map_err(|reason| Error::invalid(describe(mount), reason))?;
        let detached = match mount.fs_type.as_str() {
            "overlay" => overlay::detached(&options)?,
            _ if options.bind.is_some() => detached_bind(Path::new(&mount.source), &options)?,
            _ => {
                let reason = "only overlay and bind mounts are made here";
                return Err(Error::invalid(describe(mount), reason));
            }
        };
        attach(detached.as_fd(), target)
    }

    fn unmount(&self, target: &Path) -> Result<()> {
        let deadline = Instant::now() + BUSY_PATIENCE;
        loop {
            match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
                Err(Errno::BUSY) if Instant::now() < deadline => thread::sleep(BUSY_PAUSE),
                ended => {
                    return ended.map_err(|errno| {
                        Error::new(format!("unmount {}", target.display()), errno)
                    });
                }
            }
        }
    }
}

/// How long an unmount waits for a mount that is in use: a program that any thread is starting holds copies of
/// all open files until its exec.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);

const BUSY_PAUSE: Duration = Duration::from_millis(10);

fn describe(mount: &Mount) -> String {
    format!("mount {} of type {}", mount.source, mount.fs_type)
}

/// A copy of what is mounted at `source`, with the flags and the mapping of `options`.
fn detached_bind(source: &Path, options: &MountOptions<'_>) -> Result<OwnedFd> {
    let detached = clone_tree(source, options.bind == Some(options::Bind::Recursive))?;
    let namespace = options
        .id_map
        .as_ref()
        .map(|map| map.user_namespace())
        .transpose()?;
    change(
        detached.as_fd(),
        &options.change(namespace.as_ref().map(AsFd::as_fd)),
        source,
    )?;
    Ok(detached)
}

/// A detached copy of what is at `path`.
fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
        .map_err(|errno| Error::new(format!("open {} for a mount", path.display()), errno))
}

/// Changes the flags and the mapping of the detached mount of `path`.
fn change(mount: BorrowedFd<'_>, change: &MountChange<'_>, path: &Path) -> Result<()> {
    if change.is_empty() {
        return Ok(());
    }
    mount_setattr(mount, change).map_err(|error| {
        let what = match change.user_namespace {
            Some(_) => "map the ids of",
            None => "set the mount flags of",
        };
        Error::new(format!("{what} {}", path.display()), error)
    })
}

/// Tries whether the filesystem that `path` is on can be mounted with its ids mapped. Nothing stays behind.
pub fn try_id_map(path: &Path, map: &IdMap) -> Result<()> {
    let namespace = map.user_namespace()?;
    let copy = clone_tree(path, false)?;
    let mapped = MountChange {
        user_namespace: Some(namespace.as_fd()),
        ..MountChange::flags(MountAttrFlags::empty(), MountAttrFlags::empty())
    };
    change(copy.as_fd(), &mapped, path)
}

/// Makes a detached mount visible at `target`.
fn attach(mount: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", CWD, target, flags)
        .map_err(|errno| Error::new(format!("attach a mount to {}", target.display()), errno))
}

/// A mount that another process or thread would see in `/proc/self/mountinfo` is at `path`.
pub(crate) fn stat_below(mount: BorrowedFd<'_>, path: &str) -> Result<rustix::fs::Stat> {
    rustix::fs::statat(mount, path, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Error::new(format!("stat {path} in a detached mount"), errno))
}

/// What a [`RecordingMounter`] was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// This mount at this target.
    Mount(Mount, PathBuf),
    /// An unmount of this target.
    Unmount(PathBuf),
}

/// Notes down what it is asked to do and answers success: for tests without privileges.
#[derive(Debug, Default)]
pub struct RecordingMounter {
    calls: Mutex<Vec<Call>>,
}

impl RecordingMounter {
    /// What it was asked so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mounter for RecordingMounter {
    fn mount(&self, mount: &Mount, target: &Path) -> Result<()> {
        self.lock()
            .push(Call::Mount(mount.clone(), target.to_owned()));
        Ok(())
    }

    fn unmount(&self, target: &Path) -> Result<()> {
        self.lock().push(Call::Unmount(target.to_owned()));
        Ok(())
    }
}
