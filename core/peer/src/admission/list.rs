//! The allow-list: a file that is read again when it changes.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Error, PeerId, Result};

/// How old what is known of a file may be before the file is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest list: of 52 characters a peer, for ten thousand of them and their comments.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// A file whose contents are kept, parsed, and looked at again when it is another one or has changed.
#[derive(Debug)]
pub(super) struct Watched<T> {
    path: PathBuf,
    parse: fn(&Path, &str) -> Result<T>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    looked: Instant,
    version: Option<Version>,
    value: T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    inode: u64,
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Version {
    fn of(metadata: &Metadata) -> Version {
        Version {
            inode: metadata.ino(),
            bytes: metadata.len(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        }
    }
}

impl<T: Clone + Default> Watched<T> {
    /// Reads the file. Here every mistake is an error; later it is a warning.
    pub(super) fn open(path: &Path, parse: fn(&Path, &str) -> Result<T>) -> Result<Watched<T>> {
        let (version, text) = read(path)?;
        let state = State {
            looked: Instant::now(),
            version: Some(version),
            value: parse(path, &text)?,
        };
        Ok(Watched {
            path: path.to_owned(),
            parse,
            state: Mutex::new(state),
        })
    }

    /// What is in the file, not older than [`LOOK_EVERY`], as `look` sees it.
    pub(super) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        // Nothing is left half done in it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            self.refresh(&mut state);
        }
        look(&state.value)
    }

    #[cfg(test)]
    pub(super) fn look_now(&self) {
        let mut state = self.state.lock().unwrap();
        self.refresh(&mut state);
    }

    /// A file that is gone holds nothing. One that makes no sense may be half written: what was in it before holds until it does.
    fn refresh(&self, state: &mut State<T>) {
        let version = match fs::metadata(&self.path) {
            Ok(metadata) => Version::of(&metadata),
            Err(error) => {
                if state.version.take().is_some() {
                    tracing::warn!(path = %self.path.display(), %error, "a file of the admission is gone: it admits nobody");
                    state.value = T::default();
                }
                return;
            }
        };
        if state.version == Some(version) {
            return;
        }
        let parsed = read(&self.path)
            .and_then(|(version, text)| Ok((version, (self.parse)(&self.path, &text)?)));
        match parsed {
            Ok((version, value)) => {
                tracing::info!(path = %self.path.display(), "a file of the admission was read again");
                state.version = Some(version);
                state.value = value;
            }
            Err(error) => {
                tracing::warn!(%error, "a file of the admission cannot be read: what was in it before still holds");
                state.version = Some(version);
            }
        }
    }
}

fn read(path: &Path) -> Result<(Version, String)> {
    let read = || -> io::Result<(Version, String)> {
        let file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok((Version::of(&metadata), text))
    };
    let (version, text) = read().map_err(|source| Error::File {
        operation: "reading",
        path: path.to_owned(),
        source,
    })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::Malformed {
            path: path.to_owned(),
            what: "file of the admission",
            reason: "it is longer than 2 MiB".to_owned(),
        });
    }
    Ok((version, text))
}

/// One peer a line; what follows it, empty lines and lines that begin with `#` are comments.
pub(super) fn parse(path: &Path, text: &str) -> Result<HashSet<PeerId>> {
    let mut peers = HashSet::new();
    for (number, line) in text.lines().enumerate() {
        let Some(first) = line.split_whitespace().next() else {
            continue;
        };
        if first.starts_with('#') {
            continue;
        }
        let peer = PeerId::from_str(first).map_err(|_| Error::Malformed {
            path: path.to_owned(),
            what: "list of peers",
            reason: format!("line {} begins with no peer id", number + 1),
        })?;
        peers.insert(peer);
    }
    Ok(peers)
}
