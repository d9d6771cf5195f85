//! EROFS mounts straight from a file: Linux 6.12 with `CONFIG_EROFS_FS_BACKED_BY_FILE`, no loop device.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::overlay::explained;
use super::{attach, stat_below};
use crate::{Error, Result};

/// How the kernel reads the files of an EROFS mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceReads {
    /// Through their own pages, of which EROFS makes copies. Who waits can be killed.
    Buffered,
    /// Straight into EROFS's pages, where the files' filesystem can do that. Who waits can be killed when that one has
    /// answered.
    Direct,
}

/// Mounts the EROFS image in the file `image` at `target`, a directory, read-only. `devices` are the files that
/// the image's device table stands for, in its order, and are read as `reads` says.
///
/// The kernel opens the devices before this returns. So if one lies on a FUSE mount, another thread must be serving
/// it. Until it is unmounted the mount holds image and devices; no process needs them open. Paths are at most 255
/// bytes long. A kernel that cannot do this says `ENODEV` (no EROFS) or `ENOTBLK` (only from block devices).
pub fn mount_erofs(
    image: &Path,
    devices: &[&Path],
    reads: DeviceReads,
    target: &Path,
) -> Result<()> {
    attach(detached(image, devices, reads)?.as_fd(), target)
}

/// Whether the kernel can do this with the image in the file `image` and its `devices`: mounts it nowhere, and looks at
/// its root. Nothing stays behind.
pub fn try_erofs(image: &Path, devices: &[&Path]) -> Result<()> {
    let mount = detached(image, devices, DeviceReads::Buffered)?;
    stat_below(mount.as_fd(), ".").map(drop)
}

fn detached(image: &Path, devices: &[&Path], reads: DeviceReads) -> Result<OwnedFd> {
    let operation = || format!("mount the EROFS image {}", image.display());
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| Error::new(operation(), errno))?;
    let refused = |errno: Errno| explained(&context, operation(), errno);
    fsconfig_set_string(&context, "source", image).map_err(refused)?;
    for device in devices {
        fsconfig_set_string(&context, "device", *device).map_err(refused)?;
    }
    if reads == DeviceReads::Direct {
        fsconfig_set_flag(&context, "directio").map_err(refused)?;
    }
    fsconfig_set_flag(&context, "ro").map_err(refused)?;
    fsconfig_create(&context).map_err(refused)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(refused)
}
