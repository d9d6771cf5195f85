//! Attributes of directories in layers that are directories themselves.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use pontoon_layer::{Attributes, Time};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The attributes of the directory `path` in the first of `layers`, the topmost first, that has anything there; `None`
/// if that is no directory, or if none has. As containerd's applier looks (`pkg/archive/tar.go`, `mkparent`).
pub fn directories<P: AsRef<Path>>(layers: &[P], path: &Path) -> io::Result<Option<Attributes>> {
    for layer in layers {
        match open(layer.as_ref(), path) {
            Ok(fd) => return attributes(&fd).map_err(Into::into),
            Err(Errno::NOENT) => {}
            // Something else is there, or on the way there.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Links on the way are followed as if the layer's root were `/`.
fn open(layer: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(layer, flags, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT;
    loop {
        // The kernel gives up when something else is renamed while it follows `..`.
        match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

fn attributes(fd: &OwnedFd) -> Result<Option<Attributes>, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(None);
    }
    Ok(Some(Attributes {
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        },
        xattrs: xattrs(fd)?,
    }))
}

/// Name and value.
type Xattr = (Vec<u8>, Vec<u8>);

/// All but `trusted.*`: what overlayfs notes there is about that layer alone.
fn xattrs(fd: &OwnedFd) -> Result<Vec<Xattr>, Errno> {
    // Linux' own limits (xattr(7)).
    const LIST_BYTES_MAX: usize = 64 << 10;
    const VALUE_BYTES_MAX: usize = 64 << 10;
    let mut names = [0; 1024];
    let mut long = Vec::new();
    let names: &[u8] = match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(length) => &names[..length],
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            long.resize(LIST_BYTES_MAX, 0);
            let length = rustix::fs::flistxattr(fd, &mut long[..])?;
            &long[..length]
        }
        Err(error) => return Err(error),
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(b"trusted.") {
            continue;
        }
        let mut value = vec![0; VALUE_BYTES_MAX];
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            Err(error) => return Err(error),
        }
        value.shrink_to_fit();
        xattrs.push((name.to_vec(), value));
    }
    Ok(xattrs)
}
