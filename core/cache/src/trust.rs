//! The file `trust` of a cache: whose published chunks can be believed.
//!
//! A disk may lose or change what it had synced when the power goes. So what was published before the machine went down is
//! in doubt until it was checked once. That is told from a stop of the daemon alone by the kernel's boot id, and from a
//! shutdown by the word `closed`, which is on the disk before the cache is let go.
//!
//! ```text
//! pontoon-cache-trust 1
//! state open <boot id>      or: state closed
//! doubt <blob> <toc>        a layer that is not checked yet; any number of them
//! check <digest>            of the lines before
//! ```
//! A file that is missing or says anything else puts every layer in doubt.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use pontoon_layer::Digest;

use crate::dir::{open_file, read_file};
use crate::disk::Disk;
use crate::meta::checked;
use crate::{Error, Key, Result};

const FIRST_LINE: &str = "pontoon-cache-trust 1";

pub(crate) const TRUST: &str = "trust";
const NEW: &str = "trust.new";

/// Some 400 bytes for each of 40,000 layers.
const BYTES_MAX: usize = 16 << 20;

/// Whether a cache is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Since this boot of the machine. None if the kernel does not tell.
    Open(Option<String>),
    Closed,
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
struct Trust {
    state: State,
    doubted: BTreeSet<Key>,
}

/// Which of `known`, all layers that are there, are in doubt, by what the last cache has left.
pub(crate) fn doubted(disk: &dyn Disk, dir: &Path, known: BTreeSet<Key>) -> BTreeSet<Key> {
    let read = open_file(&dir.join(TRUST)).and_then(|file| read_file(file, BYTES_MAX));
    let trust = read.ok().and_then(|bytes| Trust::decode(&bytes));
    match trust {
        Some(trust) if trust.is_of(disk.boot()) => {
            known.intersection(&trust.doubted).cloned().collect()
        }
        _ => known,
    }
}

/// Notes that the cache is in use now. Nothing may be published before.
///
/// On a full disk there is no file then: whoever comes next believes nothing.
pub(crate) fn begin(disk: &dyn Disk, dir: &Path, doubted: &BTreeSet<Key>) -> Result<()> {
    let Err(error) = note_open(disk, dir, doubted) else {
        return Ok(());
    };
    tracing::warn!(dir = %dir.display(), %error, "cannot note that the cache is in use; the next start checks all of it");
    let path = dir.join(TRUST);
    let removed = match disk.remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    let removed = removed.and_then(|()| disk.sync_dir(dir));
    removed.map_err(|error| Error::io("removing", &path, error))
}

/// Notes which layers are in doubt while the cache is in use.
pub(crate) fn note_open(disk: &dyn Disk, dir: &Path, doubted: &BTreeSet<Key>) -> io::Result<()> {
    write(disk, dir, State::Open(disk.boot()), doubted)
}

/// Notes that all that was published is on the disk and that nothing more will be.
pub(crate) fn note_closed(disk: &dyn Disk, dir: &Path, doubted: &BTreeSet<Key>) -> io::Result<()> {
    write(disk, dir, State::Closed, doubted)
}

fn write(disk: &dyn Disk, dir: &Path, state: State, doubted: &BTreeSet<Key>) -> io::Result<()> {
    let doubted = doubted.clone();
    let new = dir.join(NEW);
    match disk.remove_file(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let file = disk.create(&new)?;
    disk.write_at(&file, &Trust { state, doubted }.encode(), 0)?;
    disk.sync_data(&file)?;
    disk.rename(&new, &dir.join(TRUST))?;
    disk.sync_dir(dir)
}

impl Trust {
    /// Whether nothing has happened to the machine since, which is in the boot `boot`.
    fn is_of(&self, boot: Option<String>) -> bool {
        match &self.state {
            State::Closed => true,
            State::Open(noted) => noted.is_some() && *noted == boot,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let state = match &self.state {
            State::Open(boot) => format!("open {}", boot.as_deref().unwrap_or_default()),
            State::Closed => "closed".to_owned(),
        };
        let mut text = format!("{FIRST_LINE}\nstate {state}\n");
        for Key { blob, toc } in &self.doubted {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "doubt {blob} {toc}");
        }
        let _ = writeln!(text, "check {}", Digest::of(text.as_bytes()));
        text.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = checked(std::str::from_utf8(bytes).ok()?)?.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let state = match lines.next()?.strip_prefix("state ")? {
            "closed" => State::Closed,
            state => {
                let boot = state.strip_prefix("open ")?;
                State::Open(Some(boot.to_owned()).filter(|boot| !boot.is_empty()))
            }
        };
        let key = |line: &str| {
            let (blob, toc) = line.strip_prefix("doubt ")?.split_once(' ')?;
            Some(Key::new(blob.parse().ok()?, toc.parse().ok()?))
        };
        let doubted = lines.map(key).collect::<Option<_>>()?;
        Some(Trust { state, doubted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(state: State) -> Trust {
        let keys =
            ["one", "two"].map(|name| Key::new(Digest::of(name.as_bytes()), Digest::of(b"")));
        Trust {
            state,
            doubted: BTreeSet::from(keys),
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for state in [
            State::Closed,
            State::Open(None),
            State::Open(Some("a-boot".to_owned())),
        ] {
            let trust = example(state);
            let bytes = trust.encode();
            for cut in 0..bytes.len() {
                assert_eq!(Trust::decode(&bytes[..cut]), None, "cut at {cut}");
                let mut changed = bytes.clone();
                changed[cut] ^= 1;
                assert_eq!(Trust::decode(&changed), None, "changed at {cut}");
            }
            assert_eq!(Trust::decode(&bytes), Some(trust));
        }
    }

    #[test]
    fn only_a_closed_cache_outlives_a_boot() {
        let boot = |name: &str| Some(name.to_owned());
        assert!(example(State::Closed).is_of(boot("b")));
        assert!(example(State::Closed).is_of(None));
        assert!(example(State::Open(boot("a"))).is_of(boot("a")));
        assert!(!example(State::Open(boot("a"))).is_of(boot("b")));
        assert!(!example(State::Open(boot("a"))).is_of(None));
        assert!(!example(State::Open(None)).is_of(None));
    }
}
