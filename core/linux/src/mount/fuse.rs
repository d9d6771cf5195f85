//! The kernel's end of a FUSE connection: its device and its mount.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::attach;
use super::overlay::explained;
use crate::{Error, Result, raw};

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

/// The number of the FUSE connection that is mounted at `path`: the minor number of its device, by which it is known in
/// `/sys/fs/fuse/connections`. Asks nobody who serves it. `None` if nothing is mounted there.
pub fn connection_at(path: &Path) -> Result<Option<u32>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let statx = rustix::fs::statx(CWD, path, flags, StatxFlags::empty())
        .map_err(|errno| Error::new(format!("look at {}", path.display()), errno))?;
    let is_root = statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(is_root.then_some(statx.stx_dev_minor))
}

/// Ends the connection of this number, whoever has its device: what waits fails.
pub fn abort_connection(number: u32) -> Result<()> {
    let path = format!("/sys/fs/fuse/connections/{number}/abort");
    fs::write(&path, "1").map_err(|error| Error::new(format!("write to {path}"), error))
}

/// Whether the connection of `device` is mounted somewhere and was not ended. Asks nobody who serves it.
pub fn is_connected(device: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&device, PollFlags::empty())];
    // An error is always told (linux/fs/fuse/dev.c, fuse_dev_poll).
    matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
}

/// Has the kernel ask again whatever it has asked on `device` and was not answered, since whoever read it is gone.
/// `FUSE_NOTIFY_RESEND` of linux/fuse.h, Linux 6.9.
pub fn resend(device: BorrowedFd<'_>) -> Result<()> {
    const NOTIFY_RESEND: i32 = 7;
    // struct fuse_out_header: its length, what is told, and no request that is answered.
    let mut header = [0; 16];
    let told = 16_u32
        .to_ne_bytes()
        .into_iter()
        .chain(NOTIFY_RESEND.to_ne_bytes());
    header
        .iter_mut()
        .zip(told)
        .for_each(|(place, byte)| *place = byte);
    rustix::io::write(device, &header)
        .map(drop)
        .map_err(|errno| Error::new("have FUSE requests sent again", errno))
}

/// The number of a descriptor that somebody else owns, a library for instance, and that can be made to be something
/// else.
#[derive(Debug)]
pub struct Slot {
    number: RawFd,
    /// What is open under the number, for as long as nobody else has got it.
    identity: (u64, u64),
}

impl Slot {
    /// That of `descriptor`.
    pub fn of(descriptor: BorrowedFd<'_>) -> Result<Self> {
        let number = descriptor.as_raw_fd();
        let identity = raw::identity(number).ok_or_else(|| gone(number))?;
        Ok(Slot { number, identity })
    }

    /// Makes it another descriptor of what `source` is. Its owner reads and writes that from now on; a thread that waits
    /// goes on waiting for what it was. An error if its owner has closed it.
    pub fn fill(&mut self, source: BorrowedFd<'_>) -> Result<()> {
        if raw::identity(self.number) != Some(self.identity) {
            return Err(gone(self.number));
        }
        raw::replace(self.number, source)
            .map_err(|error| Error::new("replace a descriptor", error))?;
        *self = Slot::of(source).map(|filled| Slot {
            number: self.number,
            ..filled
        })?;
        Ok(())
    }
}

fn gone(number: RawFd) -> Error {
    let reason = "somebody else has closed it";
    Error::invalid(format!("use descriptor {number}"), reason)
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
