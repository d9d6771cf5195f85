//! The connection: opened, mounted, served, taken off.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use fuser::{INodeNo, Notifier, Session, SessionACL};
use pontoon_linux::{
    abort, detach, is_disconnected, is_mount_point, mount_fuse, open_fuse_device, set_read_ahead,
};
use tokio::runtime::Handle;

use crate::filesystem::Layered;
use crate::layers::Layers;
use crate::node::{Node, data_name};
use crate::operations::{Counters, Operations};
use crate::{Error, Result};

/// A file beside the layers that is not listed. It is opened and closed once, when the server starts: from then on
/// the kernel knows that nobody wants to hear of opening and closing.
pub(crate) const OPENER: &str = ".opener";

/// Dead mounts of ours on top of each other; more are not from crashes.
const DEAD_MAX: usize = 64;

/// How layers are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Threads that answer the kernel. They wait for disks at most.
    pub threads: usize,
    /// How far the kernel reads ahead of sequential readers, in bytes, and asks for at once. `None` leaves it at the
    /// kernel's default, 128 KiB.
    pub read_ahead_bytes: Option<u32>,
    /// Whether the kernel opens and closes without asking, if it can (Linux 5.1).
    pub silent_opens: bool,
}

impl Default for Config {
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(2, usize::from);
        Config {
            threads: processors.clamp(4, 16),
            read_ahead_bytes: None,
            silent_opens: true,
        }
    }
}

/// Serves layers, until it is dropped: then the connection ends, and what is mounted of it is of no use to anybody
/// any more. Also on a panic.
#[derive(Debug)]
pub struct Server {
    mount: Mounted,
    notifier: Notifier,
    counters: Arc<Counters>,
    session: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Serves `layers` at `mountpoint`, a directory. Reads that wait are answered from `runtime`.
    ///
    /// A mount that a server which died has left there is taken off first. [`Error::Occupied`] if it is alive.
    pub fn start(
        config: &Config,
        mountpoint: &Path,
        layers: Arc<dyn Layers>,
        runtime: Handle,
    ) -> Result<Self> {
        let kernel = |source| Error::Kernel {
            mountpoint: mountpoint.to_owned(),
            source,
        };
        let session = |source| Error::Session {
            mountpoint: mountpoint.to_owned(),
            source,
        };
        clear(mountpoint)?;
        let device = open_fuse_device().map_err(kernel)?;
        mount_fuse(device.as_fd(), mountpoint).map_err(kernel)?;
        let mount = Mounted {
            path: mountpoint.to_owned(),
            is_ours: true,
        };
        let counters = Arc::new(Counters::default());
        let filesystem = Layered::new(layers, runtime, counters.clone(), config.silent_opens);
        let server = Server::serve(config, filesystem, device, mount, counters).map_err(session)?;
        server.settle(config).map_err(session)?;
        Ok(server)
    }

    fn serve(
        config: &Config,
        filesystem: Layered,
        device: OwnedFd,
        mount: Mounted,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let mut options = fuser::Config::default();
        options.n_threads = Some(config.threads.max(1));
        // Several threads read one device: what a cloned one has read is lost with it, when it is handed on.
        options.clone_fd = false;
        let session = Session::from_fd(filesystem, device, SessionACL::All, options)?;
        let notifier = session.notifier();
        let session = thread::Builder::new()
            .name("fuse".to_owned())
            .spawn(move || session.run())?;
        Ok(Server {
            mount,
            notifier,
            counters,
            session: Some(session),
        })
    }

    /// What can be done only when somebody serves.
    fn settle(&self, config: &Config) -> io::Result<()> {
        // Closed at once: a server that holds a file of its own could not be killed.
        drop(File::open(self.mount.path.join(OPENER))?);
        fs::read_dir(&self.mount.path)?;
        if let Some(bytes) = config.read_ahead_bytes
            && let Err(error) = set_read_ahead(&self.mount.path, bytes)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the kernel reads ahead as far as it always does"
            );
        }
        Ok(())
    }

    /// Where the layers are.
    pub fn mountpoint(&self) -> &Path {
        &self.mount.path
    }

    /// Where the layer with this number is.
    pub fn path(&self, number: u32) -> PathBuf {
        self.mount.path.join(number.to_string())
    }

    /// All data of the layer with this number as one file, for a kernel that has its tree: EROFS.
    pub fn data_path(&self, number: u32) -> PathBuf {
        self.mount.path.join(data_name(number))
    }

    /// The layer with this number is new, or gone: what the kernel remembers of its name, and below it, is forgotten.
    /// What is in use stays until it is not. Asks the kernel, so not to be called while a request is answered.
    pub fn changed(&self, number: u32) {
        let root = INodeNo(Node::Root.number());
        let names = [number.to_string(), data_name(number)];
        let mut names = names.iter().map(OsStr::new);
        let forgotten = names.try_for_each(|name| self.notifier.inval_entry(root, name));
        // The list of layers.
        let forgotten = forgotten.and_then(|()| self.notifier.inval_inode(root, 0, 0));
        if let Err(error) = forgotten {
            tracing::warn!(%error, layer = number, "the kernel does not forget a layer");
        }
    }

    /// Whether anybody still answers. Not any more if somebody has taken the mount off behind our back: then every
    /// layer is gone, and only another server helps.
    pub fn is_serving(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| !session.is_finished())
    }

    /// What the kernel has asked for.
    pub fn operations(&self) -> Operations {
        self.counters.counted()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.is_serving() && !is_disconnected(&self.mount.path) {
            // Ours was taken off already: what is there now is somebody else's.
            self.mount.is_ours = false;
        }
        // Without an end of the connection the threads would wait for ever.
        if self.mount.take_off()
            && let Some(session) = self.session.take()
        {
            match session.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "serving layers ended with an error"),
                Err(_) => tracing::error!("a thread that serves layers panicked"),
            }
        }
    }
}

/// A mount that is taken off on drop.
#[derive(Debug)]
struct Mounted {
    path: PathBuf,
    /// It was not taken off yet.
    is_ours: bool,
}

impl Mounted {
    /// Ends the connection. Whether it was there.
    fn take_off(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_ours, false) {
            return false;
        }
        match abort(&self.path) {
            Ok(ended) => ended,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "layers stay mounted"
                );
                false
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.take_off();
    }
}

/// Takes off what servers that died have left at `mountpoint`.
fn clear(mountpoint: &Path) -> Result<()> {
    let kernel = |source| Error::Kernel {
        mountpoint: mountpoint.to_owned(),
        source,
    };
    for _ in 0..DEAD_MAX {
        if is_disconnected(mountpoint) {
            tracing::info!(mountpoint = %mountpoint.display(), "taking off the mount of a server that is gone");
            detach(mountpoint).map_err(kernel)?;
        } else if is_mount_point(mountpoint).map_err(kernel)? {
            break;
        } else {
            return Ok(());
        }
    }
    Err(Error::Occupied {
        mountpoint: mountpoint.to_owned(),
    })
}
