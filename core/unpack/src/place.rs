//! Directories below the root of a layer, and no way out of it.
//!
//! Every step is one of two: a path without symbolic links in it (`openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`), or one name in a directory that is open (`O_NOFOLLOW`). Symbolic links are followed here, not
//! by the kernel, as if the layer's root were `/`: so it is known where a directory really is, and directories that are
//! missing behind a link can be made.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::path;

/// Linux' own limit (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// Directories that are kept open. An archive goes through them one after another, so few are needed.
const OPEN_MAX: usize = 128;

/// A directory of the layer.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) fd: OwnedFd,
    /// Where it is: clean, and without symbolic links.
    pub(crate) path: Vec<u8>,
}

/// The directories of a layer.
#[derive(Debug)]
pub(crate) struct Places {
    root: Rc<Dir>,
    /// By the path that led there, which may have symbolic links in it.
    open: HashMap<Vec<u8>, Rc<Dir>>,
}

/// Makes a directory that is missing.
pub(crate) type Make<'a> = dyn FnMut(&Dir, &[u8]) -> Result<()> + 'a;

impl Places {
    pub(crate) fn open(root: &Path) -> Result<Places> {
        use std::os::unix::ffi::OsStrExt;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|error| Error::filesystem("opening", root.as_os_str().as_bytes(), error))?;
        Ok(Places {
            root: Rc::new(Dir {
                fd,
                path: Vec::new(),
            }),
            open: HashMap::new(),
        })
    }

    pub(crate) fn root(&self) -> &Rc<Dir> {
        &self.root
    }

    /// The directory at `path`, which is clean; missing ones are made by `make`.
    pub(crate) fn dir(&mut self, path: &[u8], make: Option<&mut Make<'_>>) -> Result<Rc<Dir>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(dir) = self.open.get(path) {
            return Ok(Rc::clone(dir));
        }
        let dir = Rc::new(match self.straight(path) {
            Ok(dir) => dir,
            Err(Errno::NOSYS) => return Err(Error::filesystem("opening", path, Errno::NOSYS)),
            Err(_) => self.walk(path, make)?,
        });
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), Rc::clone(&dir));
        Ok(dir)
    }

    /// Something other than a plain file was removed: paths may lead elsewhere now.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
    }

    /// The directory at `path`, if there is no symbolic link on the way.
    pub(crate) fn straight(&self, path: &[u8]) -> Result<Dir, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let start = if path.is_empty() { b"." } else { path };
        let fd = rustix::fs::openat2(&self.root.fd, start, flags, Mode::empty(), resolve)?;
        Ok(Dir {
            fd,
            path: path.to_vec(),
        })
    }

    fn walk(&self, path: &[u8], mut make: Option<&mut Make<'_>>) -> Result<Dir> {
        let fail = |error: Errno| Error::filesystem("opening the directory", path, error);
        let mut at = self.straight(b"").map_err(fail)?;
        let mut todo: Vec<Vec<u8>> = path::components(path).rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                let parent = at.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                at = self.straight(&at.path[..parent]).map_err(fail)?;
                continue;
            }
            match step(&at, &name) {
                Ok(dir) => at = dir,
                Err(Errno::NOENT) => {
                    let make = make.as_mut().ok_or_else(|| fail(Errno::NOENT))?;
                    make(&at, &name)?;
                    at = step(&at, &name).map_err(fail)?;
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(fail(Errno::LOOP));
                    }
                    let target = rustix::fs::readlinkat(&at.fd, &name[..], Vec::new())
                        .map_err(|_| fail(Errno::NOTDIR))?;
                    let target = target.as_bytes();
                    if target.starts_with(b"/") {
                        at = self.straight(b"").map_err(fail)?;
                    }
                    todo.extend(path::components(target).rev().map(<[u8]>::to_vec));
                }
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(at)
    }

    /// Removes `name` from `dir`, with all that is in it. How many inodes that were, and whether it was a directory.
    pub(crate) fn remove(&mut self, dir: &Dir, name: &[u8]) -> Result<Removed> {
        let whole = path::join(&dir.path, name);
        let fail = |error: Errno| Error::filesystem("replacing", &whole, error);
        let stat = rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            self.forget();
            let inodes = self.remove_tree(&whole)?;
            return Ok(Removed {
                kind,
                inodes,
                whiteout: false,
            });
        }
        if kind == FileType::Symlink {
            self.forget();
        }
        rustix::fs::unlinkat(&dir.fd, name, AtFlags::empty()).map_err(fail)?;
        Ok(Removed {
            kind,
            inodes: u64::from(stat.st_nlink == 1),
            whiteout: kind == FileType::CharacterDevice && stat.st_rdev == 0,
        })
    }

    /// Removes the directory at `path` and all that is in it. However deep it is, two directories are open at a time,
    /// and each is opened from the next one.
    fn remove_tree(&self, path: &[u8]) -> Result<u64> {
        let fail = |error: Errno| Error::filesystem("replacing", path, error);
        let (parent, name) = path::split(path);
        let mut at = self.straight(parent).map_err(fail)?.fd;
        let mut names = Vec::new();
        let mut inodes = 0;
        let mut next = Some(name.to_vec());
        loop {
            if let Some(name) = next.take() {
                at = open_in(&at, &name).map_err(fail)?;
                names.push(name);
            }
            next = empty(&at, &mut inodes).map_err(fail)?;
            if next.is_some() {
                continue;
            }
            let Some(name) = names.pop() else {
                return Ok(inodes);
            };
            at = open_in(&at, b"..").map_err(fail)?;
            rustix::fs::unlinkat(&at, &name[..], AtFlags::REMOVEDIR).map_err(fail)?;
            inodes += 1;
            if names.is_empty() {
                return Ok(inodes);
            }
        }
    }
}

/// What was removed.
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) kind: FileType,
    pub(crate) inodes: u64,
    pub(crate) whiteout: bool,
}

fn step(at: &Dir, name: &[u8]) -> Result<Dir, Errno> {
    Ok(Dir {
        fd: open_in(&at.fd, name)?,
        path: path::join(&at.path, name),
    })
}

fn open_in(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Removes what is in `dir`, until there is nothing, or until a directory in it is not empty: that one is returned.
fn empty(dir: &OwnedFd, inodes: &mut u64) -> Result<Option<Vec<u8>>, Errno> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let links = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_nlink;
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            // Another name may keep it.
            Ok(()) => *inodes += u64::from(links == 1),
            // POSIX says EPERM, Linux says EISDIR.
            Err(Errno::ISDIR | Errno::PERM) => {
                match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
                    Ok(()) => *inodes += 1,
                    Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_vec())),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
