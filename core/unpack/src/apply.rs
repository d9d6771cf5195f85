//! One entry after another, into the directory.

mod dirs;
mod set;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::archive::{Archive, Entry, Kind, Source};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::path;
use crate::place::{Dir, Places};
use dirs::{Directories, Directory};
use set::{Setter, Wanted};

/// What a whiteout's name begins with (OCI, `layer.md`).
const WHITEOUT: &[u8] = b".wh.";

/// The name that makes its directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What AUFS notes in the root of a layer begins with. containerd leaves it out (`pkg/archive/tar.go`).
const AUFS: &[u8] = b".wh..wh.";

/// Files of AUFS' in the root that hard links may lead to.
const AUFS_LINKS: &[u8] = b".wh..wh.plnk/";

/// Nobody but us needs anything while a layer is unpacked; what it says comes at the end.
const PRIVATE_FILE: Mode = Mode::from_raw_mode(0o600);
const PRIVATE_DIR: Mode = Mode::from_raw_mode(0o700);

/// Puts entries into a directory.
pub(crate) struct Applier<'a> {
    options: &'a Options<'a>,
    places: Places,
    setter: Setter,
    dirs: Directories,
    /// Inodes that were made, and those of them that are gone again.
    made: u64,
    removed: u64,
    bytes: u64,
}

/// What was applied.
pub(crate) struct Applied {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) xattrs_skipped: u64,
}

impl<'a> Applier<'a> {
    pub(crate) fn new(places: Places, options: &'a Options<'a>) -> Result<Self> {
        let setter = Setter::new(&places.root().fd, options.opaque)?;
        Ok(Applier {
            options,
            places,
            setter,
            dirs: Directories::new(options.limits.memory_bytes_max),
            made: 0,
            removed: 0,
            bytes: 0,
        })
    }

    /// Puts one entry in place, whose data are next in `archive`.
    pub(crate) fn apply<S: Source>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<S>,
    ) -> Result<()> {
        let path = path::clean(&entry.path);
        if path.is_empty() {
            // The root is the caller's.
            return Ok(());
        }
        if path.starts_with(AUFS) && path != OPAQUE {
            return match entry.kind {
                Kind::File if path.starts_with(AUFS_LINKS) => Err(Error::Unsupported {
                    path: String::from_utf8_lossy(&path).into_owned().into(),
                    what: "a file of AUFS' own".to_owned(),
                }),
                _ => Ok(()),
            };
        }
        let (parent, name) = path::split(&path);
        let dir = self.parent(parent)?;
        if name == OPAQUE {
            return self.make_opaque(&dir);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(&dir, hidden, entry);
        }
        match entry.kind {
            Kind::Directory => self.directory(&dir, name, entry),
            Kind::File => self.file(&dir, name, entry, archive),
            Kind::HardLink => self.hard_link(&dir, name, entry),
            Kind::Symlink => {
                self.create("making the symbolic link", &dir, name, || {
                    rustix::fs::symlinkat(&entry.target[..], &dir.fd, name)
                })?;
                self.setter.named(&dir, name, Wanted::of_entry(entry))
            }
            Kind::CharDevice { major, minor } => {
                self.device(&dir, name, entry, FileType::CharacterDevice, (major, minor))
            }
            Kind::BlockDevice { major, minor } => {
                self.device(&dir, name, entry, FileType::BlockDevice, (major, minor))
            }
            Kind::Fifo => self.device(&dir, name, entry, FileType::Fifo, (0, 0)),
        }
    }

    /// Gives directories their attributes, and everything to the disk if that is wanted.
    pub(crate) fn finish(mut self) -> Result<Applied> {
        // From the inside to the outside: what is inside may be out of reach afterwards.
        for (path, directory) in self.dirs.inside_first() {
            self.options.check_cancelled()?;
            let dir = (self.places.straight(path))
                .map_err(|error| Error::filesystem("opening the directory", path, error))?;
            let wanted = Wanted::of_directory(&directory.attributes, directory.times);
            self.setter.open(&dir.fd, &|| path.clone(), wanted)?;
        }
        if self.options.sync {
            rustix::fs::syncfs(&self.places.root().fd)
                .map_err(|error| Error::filesystem("writing to the disk", b".", error))?;
        }
        Ok(Applied {
            bytes: self.bytes,
            inodes: self.made.saturating_sub(self.removed),
            xattrs_skipped: self.setter.skipped,
        })
    }

    /// The directory at `path`; where it is missing, as it is in the layers below.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        let Applier {
            places,
            options,
            dirs,
            made,
            ..
        } = self;
        let mut make = |dir: &Dir, name: &[u8]| {
            count(made, options)?;
            let path = path::join(&dir.path, name);
            rustix::fs::mkdirat(&dir.fd, name, PRIVATE_DIR)
                .map_err(|error| Error::filesystem("making the directory", &path, error))?;
            let as_path = Path::new(std::ffi::OsStr::from_bytes(&path));
            let found = (options.below)(as_path).map_err(|error| {
                Error::filesystem("looking in the layers below for", &path, error)
            })?;
            dirs.insert(path, Directory::implied(found))
        };
        places.dir(path, Some(&mut make))
    }

    fn directory(&mut self, dir: &Rc<Dir>, name: &[u8], entry: &Entry) -> Result<()> {
        let path = path::join(&dir.path, name);
        let fail = |error: Errno| Error::filesystem("making the directory", &path, error);
        let mut replaced_whiteout = false;
        loop {
            match rustix::fs::mkdirat(&dir.fd, name, PRIVATE_DIR) {
                Ok(()) => {
                    count(&mut self.made, self.options)?;
                    break;
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(fail(error)),
            }
            let stat =
                rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                break;
            }
            replaced_whiteout = self.remove(dir, name)?;
        }
        self.dirs.insert(path.clone(), Directory::listed(entry))?;
        if replaced_whiteout {
            // It hides what is below, and is a directory itself.
            let made = self.places.straight(&path).map_err(fail)?;
            self.make_opaque(&made)?;
        }
        Ok(())
    }

    fn file<S: Source>(
        &mut self,
        dir: &Rc<Dir>,
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<S>,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.create("making the file", dir, name, || {
            rustix::fs::openat(&dir.fd, name, flags, PRIVATE_FILE)
        })?;
        let path = || path::join(&dir.path, name);
        let options = self.options;
        self.bytes += archive.data_bytes();
        archive.data(|mut piece| {
            options.check_cancelled()?;
            while !piece.is_empty() {
                match rustix::io::write(&fd, piece) {
                    Ok(written) => piece = &piece[written..],
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(Error::filesystem("writing", &path(), error)),
                }
            }
            Ok(())
        })?;
        self.setter.open(&fd, &path, Wanted::of_entry(entry))
    }

    fn hard_link(&mut self, dir: &Rc<Dir>, name: &[u8], entry: &Entry) -> Result<()> {
        let target = path::clean(&entry.target);
        let (parent, target_name) = path::split(&target);
        let whole = path::join(&dir.path, name);
        if target.is_empty() {
            return Err(Error::archive(&whole, "a hard link to the root"));
        }
        let absent = |error: Error| match error {
            Error::Filesystem { source, .. } => {
                let target = String::from_utf8_lossy(&target);
                Error::archive(
                    &whole,
                    format!("a hard link to {target:?}, which is not in this layer: {source}"),
                )
            }
            other => other,
        };
        let from = self.places.dir(parent, None).map_err(absent)?;
        let link = || rustix::fs::linkat(&from.fd, target_name, &dir.fd, name, AtFlags::empty());
        loop {
            match link() {
                Ok(()) => break,
                Err(Errno::EXIST) => _ = self.remove(dir, name)?,
                Err(error @ (Errno::NOENT | Errno::PERM)) => {
                    return Err(absent(Error::filesystem("linking", &whole, error)));
                }
                Err(error) => return Err(Error::filesystem("linking", &whole, error)),
            }
        }
        self.setter.named(dir, name, Wanted::of_entry(entry))
    }

    fn device(
        &mut self,
        dir: &Rc<Dir>,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> Result<()> {
        let device = rustix::fs::makedev(major, minor);
        self.create("making the device", dir, name, || {
            rustix::fs::mknodat(&dir.fd, name, kind, PRIVATE_FILE, device)
        })?;
        self.setter.named(dir, name, Wanted::of_entry(entry))
    }

    /// Hides `name` of the layers below. What this layer has of that name stays.
    fn whiteout(&mut self, dir: &Rc<Dir>, name: &[u8], entry: &Entry) -> Result<()> {
        if matches!(name, b"" | b"." | b"..") {
            let path = path::join(&dir.path, &entry.path);
            return Err(Error::archive(&path, "a whiteout of nothing"));
        }
        let path = || path::join(&dir.path, name);
        let made = rustix::fs::mknodat(
            &dir.fd,
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        );
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| Error::filesystem("looking at", &path(), error))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Ok(());
                }
                let hidden = (self.places.straight(&path()))
                    .map_err(|error| Error::filesystem("opening the directory", &path(), error))?;
                return self.make_opaque(&hidden);
            }
            Err(error) => return Err(Error::filesystem("making the whiteout", &path(), error)),
        }
        count(&mut self.made, self.options)?;
        self.setter.own(dir, name, Wanted::of_entry(entry).owner)
    }

    fn make_opaque(&self, dir: &Dir) -> Result<()> {
        let name = self.options.opaque.name();
        rustix::fs::fsetxattr(&dir.fd, name, b"y", XattrFlags::empty())
            .map_err(|error| Error::filesystem("making opaque", &dir.path, error))
    }

    /// Makes something new of `name`, in place of what is there.
    fn create<T>(
        &mut self,
        operation: &'static str,
        dir: &Rc<Dir>,
        name: &[u8],
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T> {
        count(&mut self.made, self.options)?;
        loop {
            match make() {
                Ok(made) => return Ok(made),
                Err(Errno::EXIST) => _ = self.remove(dir, name)?,
                Err(error) => {
                    let path = path::join(&dir.path, name);
                    return Err(Error::filesystem(operation, &path, error));
                }
            }
        }
    }

    /// Removes what this layer has of `name`. Whether it was a whiteout.
    fn remove(&mut self, dir: &Rc<Dir>, name: &[u8]) -> Result<bool> {
        let removed = self.places.remove(dir, name)?;
        self.removed += removed.inodes;
        if removed.kind == FileType::Directory {
            self.dirs.remove(&path::join(&dir.path, name));
        }
        Ok(removed.whiteout)
    }
}

fn count(made: &mut u64, options: &Options<'_>) -> Result<()> {
    *made += 1;
    if *made > options.limits.inodes_max {
        return Err(Error::TooLarge {
            what: "the files and directories",
            limit: options.limits.inodes_max,
        });
    }
    Ok(())
}
