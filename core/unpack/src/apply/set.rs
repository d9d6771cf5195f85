//! Owners, modes, times and extended attributes.
//!
//! In this order: data, owner, extended attributes, mode, times. Writing and chown(2) drop capabilities and
//! set-user-ID bits.

use std::os::fd::{AsRawFd, OwnedFd};

use pontoon_layer::{Attributes, OpaqueXattr, Time};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::archive::Entry;
use crate::error::{Error, Result};
use crate::path;
use crate::place::Dir;

/// What something is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) owner: Owner,
    mode: u16,
    /// Of the last access and the last change. `None` where nobody says.
    times: Option<(Time, Time)>,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Whom something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    uid: u32,
    gid: u32,
}

impl<'a> Wanted<'a> {
    pub(super) fn of_entry(entry: &'a Entry) -> Self {
        Wanted {
            owner: Owner {
                uid: entry.uid,
                gid: entry.gid,
            },
            mode: entry.mode,
            times: Some((entry.atime, entry.mtime)),
            xattrs: &entry.xattrs,
        }
    }

    pub(super) fn of_directory(attributes: &'a Attributes, times: Option<(Time, Time)>) -> Self {
        Wanted {
            owner: Owner {
                uid: attributes.uid,
                gid: attributes.gid,
            },
            mode: attributes.mode,
            times,
            xattrs: &attributes.xattrs,
        }
    }
}

/// Sets attributes, and knows which need not be set.
#[derive(Debug)]
pub(super) struct Setter {
    /// Whom files that are made here belong to, if that is known for sure.
    own: Option<Owner>,
    opaque: OpaqueXattr,
    pub(super) skipped: u64,
}

impl Setter {
    pub(super) fn new(root: &OwnedFd, opaque: OpaqueXattr) -> Result<Self> {
        let stat = rustix::fs::fstat(root)
            .map_err(|error| Error::filesystem("looking at", b".", error))?;
        let own = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        // Whether a directory hands its group on is the mount's (`grpid`) and the directory's (set-group-ID) affair.
        // Ours hand on what they were given, and the root's group decides what that is.
        Ok(Setter {
            own: (own.gid == stat.st_gid).then_some(own),
            opaque,
            skipped: 0,
        })
    }

    /// A file or directory that we made, and that is open.
    pub(super) fn open(
        &mut self,
        fd: &OwnedFd,
        path: &dyn Fn() -> Vec<u8>,
        wanted: Wanted<'_>,
    ) -> Result<()> {
        let fail = |operation, error: Errno| Error::filesystem(operation, &path(), error);
        if self.own != Some(wanted.owner) {
            let Owner { uid, gid } = wanted.owner;
            rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|error| fail("changing the owner of", error))?;
        }
        for (name, value) in wanted.xattrs {
            self.xattr(name, true, || {
                rustix::fs::fsetxattr(fd, &name[..], value, XattrFlags::empty())
            })
            .map_err(|error| fail("setting an extended attribute of", error))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(wanted.mode.into()))
            .map_err(|error| fail("changing the mode of", error))?;
        if let Some(times) = wanted.times {
            rustix::fs::futimens(fd, &timestamps(times))
                .map_err(|error| fail("setting the times of", error))?;
        }
        Ok(())
    }

    /// Anything but a directory that we made, by its name in `dir`.
    pub(super) fn named(&mut self, dir: &Dir, name: &[u8], wanted: Wanted<'_>) -> Result<()> {
        let fail = |operation, error: Errno| {
            Error::filesystem(operation, &path::join(&dir.path, name), error)
        };
        let stat = rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| fail("looking at", error))?;
        let owner = Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        if owner != wanted.owner {
            self.own(dir, name, wanted.owner)?;
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        for (key, value) in wanted.xattrs {
            // There is no call that takes a directory and a name before Linux 6.13.
            let link = [
                format!("/proc/self/fd/{}/", dir.fd.as_raw_fd()).as_bytes(),
                name,
            ]
            .concat();
            self.xattr(key, kind == FileType::RegularFile, || {
                rustix::fs::lsetxattr(&link[..], &key[..], value, XattrFlags::empty())
            })
            .map_err(|error| fail("setting an extended attribute of", error))?;
        }
        if kind != FileType::Symlink {
            let mode = Mode::from_raw_mode(wanted.mode.into());
            rustix::fs::chmodat(&dir.fd, name, mode, AtFlags::empty())
                .map_err(|error| fail("changing the mode of", error))?;
        }
        if let Some(times) = wanted.times {
            let times = timestamps(times);
            rustix::fs::utimensat(&dir.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| fail("setting the times of", error))?;
        }
        Ok(())
    }

    /// Changes the owner of `name` in `dir`.
    pub(super) fn own(&self, dir: &Dir, name: &[u8], owner: Owner) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        rustix::fs::chownat(
            &dir.fd,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|error| {
            Error::filesystem("changing the owner of", &path::join(&dir.path, name), error)
        })
    }

    /// Sets one extended attribute with `set`, or leaves it out as containerd does. `plain` says whether it is of a
    /// file or directory: others have no `user.*`.
    fn xattr(
        &mut self,
        name: &[u8],
        plain: bool,
        set: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        // What overlayfs takes as its own notes is not the layer's to say.
        let reserved = name.starts_with(b"trusted.")
            || self.opaque == OpaqueXattr::User && name.starts_with(b"user.overlay.");
        let set = if reserved {
            Err(Errno::OPNOTSUPP)
        } else {
            set()
        };
        match set {
            Err(Errno::OPNOTSUPP) => self.skipped += 1,
            Err(Errno::PERM) if !plain && name.starts_with(b"user.") => self.skipped += 1,
            other => return other,
        }
        Ok(())
    }
}

fn timestamps((accessed, changed): (Time, Time)) -> Timestamps {
    let timespec = |time: Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    Timestamps {
        last_access: timespec(accessed),
        last_modification: timespec(changed),
    }
}
