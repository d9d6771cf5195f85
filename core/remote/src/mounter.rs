//! Mounts layers as EROFS, in a process of its own.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use pontoon_lazyfs::LazyLayer;
use pontoon_linux::{DeviceReads, mount_erofs};

/// The first argument of a process that only mounts a layer, and the last one for direct or for buffered reads.
const MOUNT_LAYER: &str = "mount-layer";
const DIRECT: &str = "direct";
const BUFFERED: &str = "buffered";

/// Why a layer was not mounted.
pub(crate) type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Mounts a layer at `target`; `served` is its data file. By the program `mounter`, or else this process.
pub(crate) fn mount(
    layer: &LazyLayer,
    tree: &Path,
    served: &Path,
    target: &Path,
    mounter: Option<&Path>,
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
    let Some(mounter) = mounter else {
        let device = whole.as_ref().map(|file| descriptor(file.as_raw_fd()));
        let device = device.as_deref().unwrap_or(served);
        return Ok(mount_erofs(tree, &[device], reads, target)?);
    };
    let mut command = Command::new(mounter);
    command.arg(MOUNT_LAYER).arg(tree).arg(target);
    match whole {
        Some(file) => command.arg(descriptor(0)).stdin(file.try_clone()?),
        None => command.arg(served).stdin(Stdio::null()),
    };
    let output = command.arg(word).stdout(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
    }
}

/// A path to what is open.
fn descriptor(number: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{number}"))
}

/// Mounts a layer for the daemon that runs this process, if `arguments`, without the program's name, say so.
///
/// The kernel asks the daemon while it does that, and a process that is killed while it waits for its own answer
/// cannot end: its threads do not answer any more, and what they served from stays open until all of them are gone.
pub fn mount_layer(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [word, tree, target, device, reads] = arguments.as_slice() else {
        return None;
    };
    if word != MOUNT_LAYER {
        return None;
    }
    let [tree, target, device] = [tree, target, device].map(Path::new);
    let reads = match reads == DIRECT {
        true => DeviceReads::Direct,
        false => DeviceReads::Buffered,
    };
    Some(match mount_erofs(tree, &[device], reads, target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For the daemon, which logs it.
            let _ = writeln!(io::stderr(), "{error}: {}", error.source);
            ExitCode::FAILURE
        }
    })
}
