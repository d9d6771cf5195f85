//! The lock of a root directory: one daemon per root.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// An exclusive lock on a directory, held while this value lives and freed by the kernel when the process ends.
///
/// The lock is on a file in the directory, which holds the pid of its holder and stays when the lock is freed.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by process {}", .directory.display(), .pid.as_deref().unwrap_or("(unknown pid)"))]
    Held {
        /// The locked directory.
        directory: PathBuf,
        /// The pid that the holder wrote down.
        pid: Option<String>,
    },
    /// The file cannot be opened or locked.
    #[error("lock {} failed", .path.display())]
    Failed {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl DirLock {
    /// Locks `directory` by its file `lock`.
    ///
    /// Waits for half a second: a process that the holder starts has the lock too for the moment between fork and
    /// exec, so that it may outlive its holder by that much.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let failed = |source: io::Error| LockError::Failed {
            path: path.clone(),
            source,
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::from(0o600))
            .map_err(|errno| failed(errno.into()))?;
        let mut file = File::from(file);
        match lock_soon(&file) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    directory: directory.to_owned(),
                    pid: written_pid(&mut file),
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // Only for the message to others: a full disk must not keep the daemon from freeing space.
        let _ = write_pid(&mut file);
        Ok(DirLock { _file: file })
    }
}

/// How often, and how long after each other, the lock is tried.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);

fn lock_soon(file: &File) -> Result<(), Errno> {
    for _ in 1..TRIES {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(PAUSE),
            answer => return answer,
        }
    }
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

fn written_pid(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    let pid = text.trim();
    let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    is_pid.then(|| pid.to_owned())
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_is_told_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err();
        let pid = std::process::id();
        let told = format!("{} is in use by process {pid}", dir.path().display());
        assert_eq!(error.to_string(), told);
        drop(lock);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_outlives_its_holder_by_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        // As in a child between fork and exec.
        let copy = lock._file.try_clone().unwrap();
        drop(lock);
        let child = thread::spawn(move || {
            thread::sleep(PAUSE);
            drop(copy);
        });
        DirLock::acquire(dir.path()).unwrap();
        child.join().unwrap();
    }

    #[test]
    fn a_lock_file_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "data").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("lock")).unwrap();
        assert!(matches!(
            DirLock::acquire(dir.path()),
            Err(LockError::Failed { .. })
        ));
        assert_eq!(std::fs::read(&victim).unwrap(), b"data");
    }
}
