//! The real programs: what they are, why they are needed, and how they get into
//! `target/rig` once.

mod debian;
mod go;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};

use crate::checkout;
use crate::error::{At, Error, Result};

pub(crate) use debian::mmdebstrap;
pub use debian::require_package;

/// A set of programs that are installed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// containerd 2.3.4, `ctr`, its runc shim, and the `oracle` (containerd's
    /// overlayfs alone behind the snapshots service).
    Containerd23,
    /// `suite.test` and `suite-1.7.test`: containerd's own snapshotter suites.
    Suites,
    /// containerd 1.7, `ctr` and its runc shim.
    Containerd17,
    /// `runc`, `docker-registry` and a static `busybox`.
    Debian12,
    /// `dockerd`, `docker` and its buildx plugin.
    Docker,
    /// `images`, which converts images, `verify` and `podman`, which have others' libraries read them, `pull`, which pulls
    /// them as clients of containerd 1.7 do, and `stargz`, stargz-snapshotter behind the same service.
    Images,
    /// `skopeo`, and `fsck.erofs`, `dump.erofs` and `mkfs.erofs`, newer than Debian 12's.
    Forky,
}

impl Tool {
    /// Every set.
    pub const ALL: [Self; 7] = [
        Self::Debian12,
        Self::Containerd17,
        Self::Docker,
        Self::Forky,
        Self::Containerd23,
        Self::Images,
        Self::Suites,
    ];

    /// The directory that holds its programs, installed when they are missing.
    pub fn dir(self) -> Result<PathBuf> {
        let base = checkout::rig_dir();
        fs::create_dir_all(&base).at("create", &base)?;
        let dir = base.join(self.name());
        once(&dir, &self.recipe()?, || {
            eprintln!("installing {}: {}", self.contents(), self.reason());
            let started = Instant::now();
            let version = self.install(&dir)?;
            let seconds = started.elapsed().as_secs_f32();
            eprintln!("installed {version} in {seconds:.0} s");
            Ok(())
        })?;
        Ok(dir)
    }

    /// A string that is another one when what its programs make of images is.
    pub(crate) fn version(self) -> Result<String> {
        match self {
            Self::Images => go::converter_recipe(),
            _ => self.recipe(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Containerd23 => "containerd-2.3",
            Self::Suites => "suites",
            Self::Containerd17 => "containerd-1.7",
            Self::Debian12 => "debian-12",
            Self::Docker => "docker",
            Self::Images => "images-tools",
            Self::Forky => "debian-forky",
        }
    }

    fn contents(self) -> &'static str {
        match self {
            Self::Containerd23 => "containerd 2.3, ctr, shim and oracle (go build)",
            Self::Suites => "containerd's snapshotter suites (go test -c)",
            Self::Containerd17 => "containerd 1.7, ctr and shim (Debian packages)",
            Self::Debian12 => "runc, docker-registry and busybox (Debian packages)",
            Self::Docker => "dockerd, docker and buildx (Debian packages)",
            Self::Images => "converter, judges, puller and stargz-snapshotter (go build)",
            Self::Forky => "skopeo and erofs-utils (Debian packages)",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Containerd23 => {
                "the containerd that loads the plugin, and what it is compared with"
            }
            Self::Suites => "containerd's own test of a snapshotter",
            Self::Containerd17 => "the older containerd that the plugin must serve",
            Self::Debian12 => "what runs containers, serves images and fills the small ones",
            Self::Docker => "the Docker Engine that uses the plugin as its storage driver",
            Self::Images => "lazily loadable images, and what lazy loading is compared with",
            Self::Forky => "zstd:chunked images as Podman makes them; the check of EROFS images",
        }
    }

    /// What its content depends on; another recipe means another installation.
    fn recipe(self) -> Result<String> {
        match self {
            Self::Containerd23 | Self::Suites | Self::Images => go::recipe(self),
            Self::Containerd17 | Self::Debian12 | Self::Docker | Self::Forky => {
                Ok(debian::recipe(self))
            }
        }
    }

    fn install(self, dir: &Path) -> Result<String> {
        match self {
            Self::Containerd23 => go::build_programs(dir),
            Self::Suites => go::build_suites(dir),
            Self::Images => go::build_images(dir),
            Self::Containerd17 | Self::Debian12 | Self::Docker | Self::Forky => {
                debian::install(self, dir)
            }
        }
    }
}

/// Names the folder with the programs that are compared with ours, and that nobody but their makers can build from packages.
pub const RIVALS: &str = "PONTOON_RIVALS";

/// The program `name` in the folder that [`RIVALS`] names.
pub fn rival(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os(RIVALS).map(PathBuf::from);
    let found = folder.map(|folder| folder.join(name));
    found.filter(|path| path.is_file()).ok_or_else(|| {
        let why = format!("{RIVALS} names no folder with it; CONTRIBUTING.md says how to make one");
        Error::unexpected(format!("the program {name}"), why)
    })
}

/// Installs what is missing of `wanted`: Debian's packages, and then `after`,
/// beside the Go builds.
pub fn install(wanted: &[Tool], after: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    // Both sides need nothing else of the machine.
    debian::prepare()?;
    let go = |tool: &&Tool| matches!(tool, Tool::Containerd23 | Tool::Suites | Tool::Images);
    let (built, extracted): (Vec<Tool>, Vec<Tool>) = wanted.iter().partition(go);
    thread::scope(|scope| {
        let packages = scope.spawn(|| {
            extracted.iter().try_for_each(|tool| tool.dir().map(drop))?;
            after()
        });
        let built = built.iter().try_for_each(|tool| tool.dir().map(drop));
        let extracted = packages.join().unwrap_or_else(|_| {
            Err(Error::unexpected(
                "installing packages",
                "a thread panicked",
            ))
        });
        built.and(extracted)
    })
}

/// Fills `dir` by `make` unless an earlier call with the same recipe did. Callers in
/// other processes wait for each other.
pub(crate) fn once(dir: &Path, recipe: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = dir.join(".installed");
    let done = || fs::read_to_string(&stamp).is_ok_and(|found| found == recipe);
    if done() {
        return Ok(());
    }
    let mut lock_path = dir.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&lock_path);
    let lock = lock.at("open", &lock_path)?;
    flock(&lock, FlockOperation::LockExclusive).at("lock", &lock_path)?;
    if done() {
        return Ok(());
    }
    if dir.exists() {
        fs::remove_dir_all(dir).at("delete", dir)?;
    }
    fs::create_dir_all(dir).at("create", dir)?;
    make()?;
    fs::write(&stamp, recipe).at("write", &stamp)
}
