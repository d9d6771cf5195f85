//! The numbers of layers below the mount, each given once for ever.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pontoon_fuse::LAYER_NUMBERS;

use crate::durable;

/// So many numbers are taken with one write; a crash loses the rest of them.
const AT_ONCE: u32 = 256;

/// Gives numbers. What was given, by this process or an earlier one, is never given again.
#[derive(Debug)]
pub(crate) struct Numbers {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u32,
    /// The first one that the file does not cover.
    end: u32,
}

impl Numbers {
    /// Those that the file `path` has left.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let next = match fs::read_to_string(path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                let reason = format!("{} holds no number; delete it", path.display());
                io::Error::new(io::ErrorKind::InvalidData, reason)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => *LAYER_NUMBERS.start(),
            Err(error) => return Err(error),
        };
        Ok(Numbers {
            path: path.to_owned(),
            state: Mutex::new(State { next, end: next }),
        })
    }

    /// `used` is in use, whatever the file says.
    pub(crate) fn skip(&self, used: u32) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.next <= used {
            state.next = used + 1;
            state.end = state.end.max(state.next);
        }
    }

    /// A number that nobody has had.
    pub(crate) fn take(&self) -> io::Result<u32> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !LAYER_NUMBERS.contains(&state.next) {
            return Err(io::Error::other(
                "all numbers of layers were used; reboot and delete `lazy/number` when no snapshot is left",
            ));
        }
        if state.next == state.end {
            let end = state.end.saturating_add(AT_ONCE);
            durable::write(&self.path, end.to_string().as_bytes())?;
            state.end = end;
        }
        let number = state.next;
        state.next += 1;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("number");
        let mut last = 0;
        for _ in 0..3 {
            let numbers = Numbers::open(&path).unwrap();
            for _ in 0..AT_ONCE + 1 {
                let number = numbers.take().unwrap();
                assert!(number > last);
                last = number;
            }
        }
        fs::remove_file(&path).unwrap();
        let numbers = Numbers::open(&path).unwrap();
        numbers.skip(last);
        assert_eq!(numbers.take().unwrap(), last + 1);
        let again = Numbers::open(&path).unwrap();
        assert!(again.take().unwrap() > last + 1);
        fs::write(&path, "x").unwrap();
        Numbers::open(&path).unwrap_err();
    }
}
