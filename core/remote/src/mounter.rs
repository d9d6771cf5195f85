//! What has to be done on the daemon's own mounts, in a process of its own.
//!
//! Whoever walks a path into a mount may have to wait for who serves it. A daemon that is killed while it waits for its own
//! answer cannot end: its threads do not answer any more, and what they served from stays open, and the root locked, until
//! all of them are gone. Another process just waits for the next daemon.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use pontoon_lazyfs::LazyLayer;
use pontoon_linux::{DeviceReads, detach, mount_erofs};
use rustix::fs::{Advice, fadvise};

/// The first argument of a process that only does what is asked here.
const WORD: &str = "at-mounts";

/// The second one.
const MOUNT: &str = "mount";
const UNMOUNT: &str = "unmount";
const FORGET: &str = "forget";

/// The last one of [`MOUNT`].
const DIRECT: &str = "direct";
const BUFFERED: &str = "buffered";

/// Why something was not done.
pub(crate) type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Does it, by another process.
#[derive(Debug, Clone)]
pub(crate) struct Mounter {
    /// The program, which calls [`at_mounts`]. Without one it is done in this process.
    program: Option<PathBuf>,
}

impl Mounter {
    pub(crate) fn new(program: Option<PathBuf>) -> Self {
        Mounter { program }
    }

    /// Mounts a layer at `target`; `served` is its data file.
    pub(crate) fn mount(
        &self,
        layer: &LazyLayer,
        tree: &Path,
        served: &Path,
        target: &Path,
    ) -> Result<(), Reason> {
        let cached = layer.cached();
        // The kernel keeps the file: an eviction, which takes it away as a whole, takes nothing from the mount.
        let whole = match cached.is_complete() {
            true => cached.pin().and_then(|pin| pin.file()).ok(),
            false => None,
        };
        // Two copies in memory would be one too many. FUSE's files cannot be read directly: nobody could kill who waits.
        let (reads, word) = match whole {
            Some(_) => (DeviceReads::Direct, DIRECT),
            None => (DeviceReads::Buffered, BUFFERED),
        };
        if self.program.is_none() {
            let device = whole.as_ref().map(|file| descriptor(file.as_raw_fd()));
            let device = device.as_deref().unwrap_or(served);
            return Ok(mount_erofs(tree, &[device], reads, target)?);
        }
        let own = descriptor(0);
        let device = match whole {
            Some(_) => &own,
            None => served,
        };
        let input = match whole {
            Some(file) => file.try_clone()?.into(),
            None => Stdio::null(),
        };
        let arguments = [tree, target, device, Path::new(word)];
        self.ask(MOUNT, arguments.iter(), input)
    }

    /// Takes off what is mounted at `targets`. Who uses it keeps it.
    pub(crate) fn unmount(&self, targets: &[PathBuf]) -> Result<(), Reason> {
        if self.program.is_some() {
            return self.ask(UNMOUNT, targets.iter(), Stdio::null());
        }
        Ok(targets
            .iter()
            .try_for_each(|target| detach(target).map(drop))?)
    }

    /// Has the kernel drop the pages of the files at `paths`. Pages that are being filled stay.
    pub(crate) fn forget(&self, paths: &[PathBuf]) -> Result<(), Reason> {
        if self.program.is_some() {
            return self.ask(FORGET, paths.iter(), Stdio::null());
        }
        Ok(paths.iter().try_for_each(|path| forget(path))?)
    }

    fn ask<'a>(
        &self,
        what: &str,
        arguments: impl Iterator<Item = &'a (impl AsRef<OsStr> + 'a)>,
        input: Stdio,
    ) -> Result<(), Reason> {
        let program = self.program.as_deref().unwrap_or(Path::new(""));
        let mut command = Command::new(program);
        command.arg(WORD).arg(what).args(arguments);
        let output = command.stdin(input).stdout(Stdio::null()).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
        }
    }
}

fn forget(path: &Path) -> io::Result<()> {
    Ok(fadvise(File::open(path)?, 0, None, Advice::DontNeed)?)
}

/// A path to what is open.
fn descriptor(number: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{number}"))
}

/// Does for the daemon that runs this process what has to be done on its mounts, if `arguments`, without the program's
/// name, say so.
pub fn at_mounts(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [word, what, paths @ ..] = arguments.as_slice() else {
        return None;
    };
    if word != WORD {
        return None;
    }
    Some(match obey(what, paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For the daemon, which logs it.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    })
}

fn obey(what: &OsStr, paths: &[OsString]) -> Result<(), Reason> {
    let here = Mounter::new(None);
    let all: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    match (what.to_str(), all.as_slice()) {
        (Some(MOUNT), [tree, target, device, reads]) => {
            let reads = match reads == Path::new(DIRECT) {
                true => DeviceReads::Direct,
                false => DeviceReads::Buffered,
            };
            let mounted = mount_erofs(tree, &[device], reads, target);
            mounted.map_err(|error| format!("{error}: {}", error.source).into())
        }
        (Some(UNMOUNT), targets) => here.unmount(targets),
        (Some(FORGET), paths) => here.forget(paths),
        _ => Err("this is not something to do at mounts".into()),
    }
}
