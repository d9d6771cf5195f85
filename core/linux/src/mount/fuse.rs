//! The kernel's end of a FUSE connection: its device and its mount.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::attach;
use super::overlay::explained;
use crate::{Error, Result};

/// Opens `/dev/fuse`: a connection that is mounted nowhere yet.
pub fn open_fuse_device() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open("/dev/fuse", flags, Mode::empty())
        .map_err(|errno| Error::new("open /dev/fuse (is the module fuse loaded?)", errno))
}

/// Mounts the connection of `device` at `target`, a directory, read-only, as type `fuse.pontoon`.
///
/// All users may look (`allow_other`) at what the modes of the files let them, which the kernel checks
/// (`default_permissions`). Device nodes and set-user-ID bits count, as in any directory that overlays lie on, so the
/// directories above must keep others out.
///
/// Returns before the kernel's first request is answered; whoever looks at `target` waits until somebody serves.
pub fn mount_fuse(device: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let operation = || format!("mount a FUSE connection at {}", target.display());
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| Error::new(operation(), errno))?;
    let refused = |errno: Errno| explained(&context, operation(), errno);
    let device = device.as_raw_fd().to_string();
    for (key, value) in [
        ("source", "pontoon"),
        ("subtype", "pontoon"),
        ("fd", &device),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        fsconfig_set_string(&context, key, value).map_err(refused)?;
    }
    for flag in ["allow_other", "default_permissions", "ro"] {
        fsconfig_set_flag(&context, flag).map_err(refused)?;
    }
    fsconfig_create(&context).map_err(refused)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mount = fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(refused)?;
    attach(mount.as_fd(), target)
}

/// Takes the topmost mount off `target`. Who uses it keeps it. False if nothing is mounted there.
pub fn detach(target: &Path) -> Result<bool> {
    take_off(target, UnmountFlags::DETACH)
}

/// Ends the FUSE connection that is mounted at `target` and takes the mount off: requests that wait fail, and so
/// does what users of the mount ask from then on. False if nothing is mounted there.
pub fn abort(target: &Path) -> Result<bool> {
    take_off(target, UnmountFlags::DETACH | UnmountFlags::FORCE)
}

fn take_off(target: &Path, flags: UnmountFlags) -> Result<bool> {
    match rustix::mount::unmount(target, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::new(format!("unmount {}", target.display()), errno)),
    }
}

/// Whether a mount is at `path` whose FUSE server is gone.
pub fn is_disconnected(path: &Path) -> bool {
    // Neither stat, which may answer from what the kernel remembers of the root, nor open: once a server has said that
    // it need not hear of opens (fuse(4), ENOSYS), the kernel opens by itself, also when the server is gone.
    let asked = rustix::fs::statfs(path);
    matches!(
        asked,
        Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::CONNREFUSED)
    )
}

/// Whether something is mounted at `path` itself. Linux 5.8.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let statx = rustix::fs::statx(CWD, path, flags, StatxFlags::empty())
        .map_err(|errno| Error::new(format!("look at {}", path.display()), errno))?;
    Ok(statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Has the kernel read up to `bytes` ahead of a sequential reader on the filesystem of `path`, for which it asks in
/// one request. Asks the filesystem, so somebody must be serving it.
pub fn set_read_ahead(path: &Path, bytes: u32) -> Result<()> {
    let failed = |source| Error {
        operation: format!("set how far to read ahead on {}", path.display()),
        said: None,
        source,
    };
    let stat = rustix::fs::stat(path).map_err(|errno| failed(errno.into()))?;
    let (major, minor) = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    fs::write(setting, (bytes / 1024).to_string()).map_err(failed)
}
