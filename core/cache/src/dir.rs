//! The directory of a cache, and what is found in it.
//!
//! ```text
//! version                   the layout, a number
//! sha256/<blob>-<toc>/      a layer; the table of contents' digest is shortened to 32 digits of its own hash
//! sha512/<blob>-<toc>/
//! discard/<number>/         being made or being deleted
//! trust                     which layers are in doubt: see `trust.rs`
//! ```

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pontoon_layer::{Algorithm, Digest};
use pontoon_linux::DirLock;

use crate::disk::Disk;
use crate::meta::{META_BYTES_MAX, StoredMeta};
use crate::slot::{CHUNKS, DATA, DIGESTS, META, READY, Slot, allocated};
use crate::{Error, Key, Result};

/// The layout of the directory that this Pontoon writes.
const VERSION: u32 = 1;

const VERSION_FILE: &str = "version";

/// Where layers are made and deleted.
pub(crate) const DISCARD: &str = "discard";

/// What is in a cache's directory.
pub(crate) struct Found {
    pub(crate) slots: Vec<Slot>,
    /// Above every number in `discard`.
    pub(crate) next_discard: u64,
    /// To be deleted.
    pub(crate) discarded: Vec<PathBuf>,
    /// Layers among them that were damaged.
    pub(crate) damaged: u64,
}

/// Makes the directory of a cache, locks it, and refuses a newer one.
pub(crate) fn lock_dir(disk: &dyn Disk, dir: &Path) -> Result<DirLock> {
    make_dir(disk, dir)?;
    let lock = DirLock::acquire(dir).map_err(|source| Error::Locked {
        path: dir.to_owned(),
        source,
    })?;
    let path = dir.join(VERSION_FILE);
    let io = |operation| {
        let path = path.clone();
        move |error: io::Error| Error::io(operation, &path, error)
    };
    match read(&path, 64) {
        Ok(text) => check_version(dir, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Renamed into its place when it is whole: a version that cannot be read is somebody's mistake.
            let new = dir.join("version.new");
            match disk.remove_file(&new) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(io("writing"))?,
            }
            let file = disk.create(&new).map_err(io("writing"))?;
            let text = format!("{VERSION}\n");
            let written = disk.write_at(&file, text.as_bytes(), 0);
            written.map_err(io("writing"))?;
            disk.sync_data(&file).map_err(io("syncing"))?;
            disk.rename(&new, &path).map_err(io("writing"))?;
        }
        Err(error) => return Err(Error::io("reading", &path, error)),
    }
    for name in [Algorithm::Sha256.name(), Algorithm::Sha512.name(), DISCARD] {
        make_dir(disk, &dir.join(name))?;
    }
    disk.sync_dir(dir)
        .map_err(|error| Error::io("syncing", dir, error))?;
    Ok(lock)
}

fn check_version(dir: &Path, text: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(text).unwrap_or_default().trim();
    match text.parse::<u32>() {
        Ok(VERSION) => Ok(()),
        Ok(found) if found > VERSION => Err(Error::Newer {
            path: dir.to_owned(),
            found,
            known: VERSION,
        }),
        _ => Err(Error::Damaged {
            path: dir.to_owned(),
            reason: format!("its version is {text:?}"),
        }),
    }
}

/// Makes a directory, or closes one that is there to everybody else.
fn make_dir(disk: &dyn Disk, path: &Path) -> Result<()> {
    let made = match disk.make_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        }
        made => made,
    };
    made.map_err(|error| Error::io("making", path, error))
}

/// Finds the layers. Damaged ones are thrown away.
pub(crate) fn scan(disk: &dyn Disk, dir: &Path) -> Result<Found> {
    let mut discarded = Vec::new();
    let mut next_discard = 0;
    let discard = dir.join(DISCARD);
    for name in names(&discard)? {
        if let Ok(number) = name.parse::<u64>() {
            next_discard = next_discard.max(number.saturating_add(1));
            discarded.push(discard.join(name));
        }
    }
    let mut found = Found {
        slots: Vec::new(),
        next_discard,
        discarded,
        damaged: 0,
    };
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let parent = dir.join(algorithm.name());
        for name in names(&parent)? {
            // What is not named like a layer is none of ours.
            if is_place(algorithm, &name) {
                found.look(disk, dir, parent.join(name))?;
            }
        }
    }
    Ok(found)
}

impl Found {
    fn look(&mut self, disk: &dyn Disk, dir: &Path, path: PathBuf) -> Result<()> {
        match find(disk, dir, &path)? {
            Ok(slot) => self.slots.push(slot),
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "a cached layer is damaged; removing it, so that it is fetched again");
                let gone = dir.join(DISCARD).join(self.next_discard.to_string());
                disk.rename(&path, &gone)
                    .map_err(|error| Error::io("removing", &path, error))?;
                self.next_discard += 1;
                self.damaged += 1;
                self.discarded.push(gone);
            }
        }
        Ok(())
    }
}

/// The layer at `path`, or what is wrong with it.
fn find(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<Result<Slot, String>> {
    let meta = path.join(META);
    let bytes = match read(&meta, META_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if is_damage(&error) => return Ok(Err(format!("its meta: {error}"))),
        Err(error) => return Err(Error::io("reading", &meta, error)),
    };
    Ok(match StoredMeta::decode(&bytes) {
        Ok(stored) if place(dir, &stored.key) != path => Err("it is another layer's".to_owned()),
        Ok(stored) => Ok(slot(disk, path.to_owned(), stored)),
        Err(reason) => Err(format!("its meta: {reason}")),
    })
}

/// Whether a file is not what was written, rather than out of reach for now.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let kinds = [
        io::ErrorKind::NotFound,
        io::ErrorKind::NotADirectory,
        io::ErrorKind::IsADirectory,
        io::ErrorKind::InvalidData,
        io::ErrorKind::UnexpectedEof,
    ];
    // A bad sector stays bad; a link is where a file was; no device is behind a fifo.
    let numbers = [
        Errno::IO,
        Errno::LOOP,
        Errno::NXIO,
        Errno::UCLEAN,
        Errno::BADMSG,
    ];
    kinds.contains(&error.kind())
        || Errno::from_io_error(error).is_some_and(|errno| numbers.contains(&errno))
}

/// What is known of the layer in `dir` without opening it.
pub(crate) fn slot(disk: &dyn Disk, dir: PathBuf, stored: StoredMeta) -> Slot {
    let fixed = [CHUNKS, META, READY].map(|file| allocated(&dir.join(file)));
    let fixed_bytes = allocated(&dir) + fixed.iter().sum::<u64>();
    let noted = dir.join(META).symlink_metadata();
    let noted = noted.map_or(0, |meta| {
        let milliseconds = meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000;
        milliseconds.try_into().unwrap_or(0)
    });
    let [data_bytes, index_bytes] = [DATA, DIGESTS].map(|file| allocated(&dir.join(file)));
    // A clock that was set back must not keep a layer for ever.
    let slot = Slot::new(dir, stored, fixed_bytes, noted.min(disk.now()));
    slot.swap_data_bytes(data_bytes);
    slot.swap_index_bytes(index_bytes);
    slot
}

/// Where the layer `key` is.
pub(crate) fn place(dir: &Path, key: &Key) -> PathBuf {
    let toc = Digest::of(key.toc.to_string().as_bytes()).hex();
    let name = format!("{}-{}", key.blob.hex(), &toc[..TOC_DIGITS]);
    dir.join(key.blob.algorithm().name()).join(name)
}

const TOC_DIGITS: usize = 32;

fn is_place(algorithm: Algorithm, name: &str) -> bool {
    let hex = |text: &str, digits| {
        text.len() == digits
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    name.split_once('-')
        .is_some_and(|(blob, toc)| hex(blob, 2 * algorithm.bytes()) && hex(toc, TOC_DIGITS))
}

/// Deletes the file or directory at `path`, if it is there.
pub(crate) fn remove_all(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.is_dir() {
        return disk.remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        remove_all(disk, &entry?.path())?;
    }
    disk.remove_dir(path)
}

/// The names in a directory that are text.
fn names(dir: &Path) -> Result<Vec<String>> {
    let list = || {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        io::Result::Ok(names)
    };
    list().map_err(|error| Error::io("listing", dir, error))
}

/// Opens a regular file for reading.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    read_file(open_file(path)?, limit)
}

/// The first `limit` bytes of a file.
pub(crate) fn read_file(file: File, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
