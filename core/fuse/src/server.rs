//! The connection: opened, mounted, served, taken off.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{INodeNo, Notifier, Session, SessionACL};
use pontoon_holder::{Held, Keeper};
use pontoon_linux::{
    PacketSocket, Slot, is_connected, is_disconnected, mount_fuse, open_fuse_device, resend,
    set_read_ahead,
};
use tokio::runtime::Handle;

use crate::filesystem::Layered;
use crate::greeting::Greeting;
use crate::layers::Layers;
use crate::mounted::{Kept, Mounted, clear};
use crate::node::{Node, data_name};
use crate::operations::{Counters, Operations};
use crate::{Error, Result};

/// A file beside the layers that is not listed. It is opened and closed once, when the server starts: from then on
/// the kernel knows that nobody wants to hear of opening and closing.
pub(crate) const OPENER: &str = ".opener";

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
    /// The session's device, which lives as long as `notifier`.
    slot: Mutex<Slot>,
    /// `None` if the connection ends with this process.
    kept: Mutex<Option<Kept>>,
    /// Mounts of dead servers that were taken off.
    replaced: usize,
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
        Server::begin(config, mountpoint, layers, runtime, None)
    }

    /// The same, with a connection that `keeper` has kept for another process from before anybody can use it. If it
    /// cannot be kept, that is logged, and it is served all the same.
    pub fn start_kept(
        config: &Config,
        mountpoint: &Path,
        layers: Arc<dyn Layers>,
        runtime: Handle,
        keeper: &Arc<Keeper>,
    ) -> Result<Self> {
        Server::begin(config, mountpoint, layers, runtime, Some(keeper))
    }

    fn begin(
        config: &Config,
        mountpoint: &Path,
        layers: Arc<dyn Layers>,
        runtime: Handle,
        keeper: Option<&Arc<Keeper>>,
    ) -> Result<Self> {
        let kernel = |source| Error::Kernel {
            mountpoint: mountpoint.to_owned(),
            source,
        };
        let session = |source| Error::Session {
            mountpoint: mountpoint.to_owned(),
            source,
        };
        let replaced = clear(mountpoint)?;
        let device = open_fuse_device().map_err(kernel)?;
        let kept = keeper.map(|keeper| keep(keeper, device.as_fd()));
        mount_fuse(device.as_fd(), mountpoint).map_err(kernel)?;
        let mount = Mounted::at(mountpoint);
        let parts = Parts {
            mount,
            kept,
            replaced,
        };
        let counters = Arc::new(Counters::default());
        let filesystem = Layered::new(layers, runtime, counters.clone(), config.silent_opens);
        let agreed = filesystem.agreed();
        let greeted = greet(config, filesystem, device).map_err(session)?;
        let server = Server::serve(greeted, parts, counters).map_err(session)?;
        server.note(agreed.get());
        server.settle(config).map_err(session)?;
        Ok(server)
    }

    /// Goes on with a connection that a predecessor has left at `keeper`'s holder: with the same `layers` by the same
    /// numbers, what it has not answered is answered now.
    ///
    /// [`Error::Left`] if that cannot be done; the holder then still has it.
    pub fn adopt(
        config: &Config,
        mountpoint: &Path,
        layers: Arc<dyn Layers>,
        runtime: Handle,
        keeper: &Arc<Keeper>,
        held: Held,
    ) -> Result<Self> {
        let left = |reason: String| Error::Left {
            name: held.name.clone(),
            reason,
        };
        if !is_connected(held.device.as_fd()) {
            return Err(left("nothing of it is mounted any more".to_owned()));
        }
        let (greeting, connection) = Greeting::read(&held.state).map_err(left)?;
        let failed = |error: &dyn std::error::Error| left(error.to_string());
        let counters = Arc::new(Counters::default());
        let filesystem = Layered::new(layers, runtime, counters.clone(), config.silent_opens);
        // The greeting is over: it is held once more with ourselves, and then the device takes the place of that.
        let (ours, theirs) = PacketSocket::pair().map_err(|error| failed(&error))?;
        ours.send(&greeting.packet(), None)
            .map_err(|error| failed(&error))?;
        let mut greeted =
            greet(config, filesystem, theirs.into()).map_err(|error| failed(&error))?;
        let device = held.device.as_fd();
        greeted.1.fill(device).map_err(|error| failed(&error))?;
        resend(device).map_err(|error| failed(&error.source))?;
        let mut mount = Mounted {
            path: mountpoint.to_owned(),
            connection: Some(connection),
            is_ours: false,
        };
        mount.is_ours = mount.is_there();
        let kept = Kept {
            keeper: Arc::clone(keeper),
            name: held.name.clone(),
            is_left: false,
        };
        let parts = Parts {
            mount,
            kept: Some(kept),
            replaced: 0,
        };
        let name = held.name.clone();
        keeper.adopt(held, connection);
        Server::serve(greeted, parts, counters).map_err(|error| Error::Left {
            name,
            reason: error.to_string(),
        })
    }

    fn serve(
        (session, slot): (Session<Layered>, Slot),
        parts: Parts,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        let notifier = session.notifier();
        let session = thread::Builder::new()
            .name("fuse".to_owned())
            .spawn(move || session.run())?;
        Ok(Server {
            mount: parts.mount,
            notifier,
            counters,
            session: Some(session),
            slot: Mutex::new(slot),
            kept: Mutex::new(parts.kept),
            replaced: parts.replaced,
        })
    }

    /// Has noted what a successor needs to know, or has the connection end with this process.
    fn note(&self, agreed: Option<&Greeting>) {
        let mut kept = lock(&self.kept);
        let (Some(own), Some(agreed)) = (kept.as_ref(), agreed) else {
            return;
        };
        let connection = self.mount.connection.unwrap_or_default();
        if !agreed.can_resend() {
            tracing::warn!(
                "this kernel does not send requests again (FUSE_NOTIFY_RESEND): containers on lazy layers end with this daemon"
            );
            kept.take();
        } else if let Err(error) = own
            .keeper
            .note(&own.name, &agreed.note(connection), connection)
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "nobody could go on serving lazy layers if this daemon died now"
            );
        }
    }

    /// What can be done only when somebody serves.
    fn settle(&self, config: &Config) -> io::Result<()> {
        let opener = self.mount.path.join(OPENER);
        let helper = lock(&self.kept)
            .as_ref()
            .map(|kept| kept.keeper.program().to_owned());
        // By another process: one that is killed while it waits for itself to answer never ends, and the holder would
        // have it wait for the successor that cannot start before.
        let opened = helper.map(|program| {
            let mut command = Command::new(program);
            command.arg("--open").arg(&opener).arg(&self.mount.path);
            command.stdin(Stdio::null()).status()
        });
        if !opened.is_some_and(|status| status.is_ok_and(|status| status.success())) {
            // Closed at once: a server that holds a file of its own could not be killed.
            drop(File::open(opener)?);
            fs::read_dir(&self.mount.path)?;
        }
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

    /// Answers nothing any more and leaves the connection to a successor. Whether there can be one; if not, nothing has
    /// changed.
    ///
    /// What the kernel has asked and was not answered, it asks the successor. Until this process has ended its threads
    /// may take requests that nobody answers, so no successor may begin before that.
    pub fn leave(&self) -> bool {
        let mut kept = lock(&self.kept);
        let Some(kept) = kept.as_mut().filter(|_| self.is_serving()) else {
            return false;
        };
        let nowhere = File::options().read(true).write(true).open("/dev/null");
        let left = nowhere
            .map_err(|error| error.to_string())
            .and_then(|nowhere| {
                // Whatever is answered from now on, also by giving up, goes nowhere.
                let filled = lock(&self.slot).fill(nowhere.as_fd());
                filled.map_err(|error| error.to_string())
            });
        match left {
            Ok(()) => kept.is_left = true,
            Err(error) => {
                tracing::warn!(error, "the connection of lazy layers ends with this daemon")
            }
        }
        kept.is_left
    }

    /// The number of its connection, as `/sys/fs/fuse/connections` has it.
    pub fn connection(&self) -> Option<u32> {
        self.mount.connection
    }

    /// Whether this is what is found at the mountpoint, and not hidden or taken off.
    pub fn is_mounted(&self) -> bool {
        self.mount.is_there()
    }

    /// How many mounts of servers that died were taken off at the start. Whoever used them reads errors.
    pub fn replaced(&self) -> usize {
        self.replaced
    }

    /// The layer with this number is new: the list of layers that the kernel remembers is forgotten. That a name was
    /// missing it does not remember.
    pub fn appeared(&self, number: u32) {
        let root = INodeNo(Node::Root.number());
        if let Err(error) = self.notifier.inval_inode(root, 0, 0) {
            tracing::warn!(%error, layer = number, "the kernel does not forget the list of layers");
        }
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
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_some_and(|kept| kept.is_left) {
            self.mount.is_ours = false;
            return;
        }
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

/// What a server has besides its session. Dropped, the mount goes first.
struct Parts {
    mount: Mounted,
    kept: Option<Kept>,
    replaced: usize,
}

/// Has `device` kept under a name that nobody has had.
fn keep(keeper: &Arc<Keeper>, device: BorrowedFd<'_>) -> Kept {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let name = format!("lazy-{}", now.unwrap_or_default().as_nanos());
    if let Err(error) = keeper.keep(&name, device) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "nobody keeps the connection of lazy layers: if this daemon dies, containers on them read errors"
        );
    }
    Kept {
        keeper: Arc::clone(keeper),
        name,
        is_left: false,
    }
}

/// A session on `device` that has been greeted, and the place of its device.
fn greet(
    config: &Config,
    filesystem: Layered,
    device: OwnedFd,
) -> io::Result<(Session<Layered>, Slot)> {
    let mut options = fuser::Config::default();
    options.n_threads = Some(config.threads.max(1));
    // Several threads read one device: what a cloned one has read is lost with it, when it is handed on.
    options.clone_fd = false;
    let session = Session::from_fd(filesystem, device, SessionACL::All, options)?;
    let slot = Slot::of(session.as_fd()).map_err(io::Error::other)?;
    Ok((session, slot))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
