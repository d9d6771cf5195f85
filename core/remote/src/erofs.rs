//! Layers as mounts of the kernel's EROFS: names, attributes and warm pages without a question to this daemon.
//!
//! Such a mount covers the layer's directory in the FUSE mount. So its path is the same for either front end; who sees the
//! FUSE mount and not this one, in another mount namespace or in a copy of the one mount, finds the same layer; and
//! what lies below a FUSE mount reads from no other connection than that one, also after a restart, and ends with it.
//!
//! Its bytes come from the layer's data file below the same FUSE mount, or, when all of them are here, from the cache's
//! own file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_fuse::Server;
use pontoon_lazyfs::LazyLayer;
use pontoon_linux::{detach, is_mount_point, mount_erofs, mounts_below};
use pontoon_snapshot::{Error, Result};

use crate::LazyConfig;
use crate::front_end::{Chosen, FrontEnd};

/// Mounts layers, if the kernel is to.
#[derive(Debug)]
pub(crate) struct Erofs {
    /// Of the FUSE server.
    mountpoint: PathBuf,
    chosen: Chosen,
    /// There is no way but this.
    must: bool,
    /// The program that mounts, see [`mount_layer`]. Without one it is this process.
    mounter: Option<PathBuf>,
    /// The layers that were mounted. Held while one is: two mounts on top of each other would be one too many.
    covered: Mutex<BTreeSet<u32>>,
}

impl Erofs {
    pub(crate) fn new(mountpoint: PathBuf, config: &LazyConfig, chosen: Chosen) -> Self {
        Erofs {
            mountpoint,
            must: config.front_end == FrontEnd::Erofs,
            mounter: config.mounter.clone(),
            chosen,
            covered: Mutex::default(),
        }
    }

    /// Who serves trees, and why.
    pub(crate) fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// Mounts a layer with the tree in the file `tree` over its directory, unless it is. The kernel asks `server` meanwhile,
    /// so nothing may be held that answering takes.
    ///
    /// It is no error if the kernel refuses and the operator leaves the choice to us: FUSE has the directory.
    pub(crate) fn cover(
        &self,
        server: &Server,
        number: u32,
        layer: &LazyLayer,
        tree: &Path,
    ) -> Result<()> {
        if !self.chosen.is_erofs() {
            return Ok(());
        }
        let target = server.path(number);
        let mut covered = self.covered();
        // Somebody may have taken it off. Is it there, the kernel knows that without asking us.
        if covered.contains(&number) && is_mount_point(&target).unwrap_or(false) {
            return Ok(());
        }
        let mounter = self.mounter.as_deref();
        let mounted = mount(layer, tree, &server.data_path(number), &target, mounter);
        match mounted {
            Err(error) if self.must => Err(Error::Failed {
                operation: format!("mounting the tree of layer {}", layer.digest()),
                source: error,
            }),
            Err(error) => {
                tracing::warn!(
                    layer = %layer.digest(),
                    error = &*error as &dyn std::error::Error,
                    "the kernel does not mount the tree of a layer; FUSE serves it"
                );
                Ok(())
            }
            Ok(()) => {
                covered.insert(number);
                Ok(())
            }
        }
    }

    /// Takes the mount of a layer off that nobody is to find any more. Who uses it keeps it. As [`Erofs::cover`], the
    /// kernel may ask the server.
    pub(crate) fn uncover(&self, number: u32) {
        if self.covered().remove(&number) {
            take_off(&self.mountpoint.join(number.to_string()));
        }
    }

    /// Takes off what a predecessor has mounted, but for the layers in `trees`, by number with the name of the tree;
    /// answers how many stay.
    pub(crate) fn adopt(&self, trees: &BTreeMap<u32, String>) -> usize {
        let mounts = mounts_below(&self.mountpoint).unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what an earlier daemon has mounted is not known"
            );
            Vec::new()
        });
        let mut kept = self.covered();
        for mount in mounts {
            let name = mount.target.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.parse().ok());
            let tree = mount.source.file_name().and_then(|name| name.to_str());
            match number {
                Some(number)
                    if self.chosen.is_erofs()
                        && mount.fs_type == "erofs"
                        && trees.get(&number).map(String::as_str) == tree
                        && !kept.contains(&number) =>
                {
                    kept.insert(number);
                }
                _ => take_off(&mount.target),
            }
        }
        kept.len()
    }

    fn covered(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.covered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_off(target: &Path) {
    if let Err(error) = detach(target) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the mount of a layer that is gone stays"
        );
    }
}

/// Mounts a layer at `target`; `served` is its data file.
fn mount(
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
    let Some(mounter) = mounter else {
        let device = whole.as_ref().map(|file| descriptor(file.as_raw_fd()));
        let device = device.as_deref().unwrap_or(served);
        return mount_erofs(tree, &[device], target).map_err(|error| Box::new(error) as Reason);
    };
    let mut command = Command::new(mounter);
    command.arg(MOUNT_LAYER).arg(tree).arg(target);
    match whole {
        Some(file) => {
            let file = file.try_clone()?;
            command.arg(descriptor(0)).stdin(file)
        }
        None => command.arg(served).stdin(Stdio::null()),
    };
    let output = command.stdout(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().into()),
    }
}

/// Why not.
type Reason = Box<dyn std::error::Error + Send + Sync>;

/// A path to what is open.
fn descriptor(number: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{number}"))
}

/// The first argument of a process that only mounts a layer.
const MOUNT_LAYER: &str = "mount-layer";

/// Mounts a layer for the daemon that runs this process, if `arguments`, without the program's name, say so.
///
/// The kernel asks the daemon while it does that, and a process that is killed while it waits for its own answer
/// cannot end: its threads do not answer any more, and what they served from stays open until all of them are gone.
pub fn mount_layer(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let [word, tree, target, device] = arguments.as_slice() else {
        return None;
    };
    if word != MOUNT_LAYER {
        return None;
    }
    let [tree, target, device] = [tree, target, device].map(Path::new);
    Some(match mount_erofs(tree, &[device], target) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For the daemon, which logs it.
            let _ = writeln!(io::stderr(), "{error}: {}", error.source);
            ExitCode::FAILURE
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn erofs(mountpoint: &Path, name: &'static str) -> Erofs {
        let why = String::new();
        let config = crate::Config::default().lazy;
        Erofs::new(mountpoint.to_owned(), &config, Chosen { name, why })
    }

    #[test]
    fn what_an_earlier_daemon_mounted_stays_if_it_is_what_the_records_say() {
        let directory = tempfile::tempdir().unwrap();
        let directory = &fs::canonicalize(directory.path()).unwrap();
        let layer = crate::fixture::layer(&["etc/", "etc/name"]);
        let image = pontoon_erofs::write(&layer.tree, 0).unwrap();
        let mountpoint = directory.join("mnt");
        fs::write(directory.join("data"), "").unwrap();
        let at = |name: &str| mountpoint.join(name);
        for (name, tree) in [("1", "0a"), ("2", "0b"), ("3", "0c"), ("x", "0d")] {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(directory.join(tree), &image).unwrap();
            let devices = directory.join("data");
            if let Err(error) = mount_erofs(&directory.join(tree), &[&devices], &at(name)) {
                println!("not tested: {error}");
                return;
            }
        }
        let trees = [(1, "0a"), (2, "ff"), (4, "0d")];
        let trees = trees.map(|(number, tree)| (number, tree.to_owned()));
        let trees = BTreeMap::from(trees);
        let mounted = || {
            let mounts = mounts_below(&mountpoint).unwrap().into_iter();
            mounts.map(|mount| mount.target).collect::<Vec<_>>()
        };
        let adopting = erofs(&mountpoint, "erofs");
        assert_eq!(adopting.adopt(&trees), 1);
        assert_eq!(mounted(), [at("1")]);
        assert_eq!(erofs(&mountpoint, "erofs").adopt(&trees), 1);
        // Not its own.
        adopting.uncover(4);
        adopting.uncover(1);
        assert!(mounted().is_empty());
        mount_erofs(&directory.join("0a"), &[&directory.join("data")], &at("1")).unwrap();
        assert_eq!(erofs(&mountpoint, "fuse").adopt(&trees), 0);
        assert!(mounted().is_empty());
    }
}
