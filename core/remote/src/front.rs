//! The one FUSE server, started when the first layer is to be mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_fuse::{Config, Layers, Server};
use pontoon_holder::{Held, Keeper, State};
use pontoon_linux::IdMap;
use pontoon_snapshot::{Error, Result};
use tokio::runtime::Handle;

/// The server, once it is needed.
#[derive(Debug)]
pub(crate) struct Front {
    mountpoint: PathBuf,
    config: Config,
    layers: Arc<dyn Layers>,
    runtime: Handle,
    /// Who keeps connections when this process ends.
    keeper: Option<Arc<Keeper>>,
    servers: Mutex<Servers>,
}

/// What became of what predecessors have left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// Connections that are served again.
    pub(crate) adopted: usize,
    /// Connections that were left and that nobody can serve, or mounts without one.
    pub(crate) lost: usize,
}

#[derive(Debug, Default)]
struct Servers {
    /// For new mounts.
    current: Option<Arc<Server>>,
    /// Whose mounts somebody took off while containers were using them. They serve these until the last one ends.
    hidden: Vec<Arc<Server>>,
}

impl Front {
    pub(crate) fn new(
        mountpoint: PathBuf,
        config: Config,
        layers: Arc<dyn Layers>,
        runtime: Handle,
        keeper: Option<Arc<Keeper>>,
    ) -> Self {
        Front {
            mountpoint,
            config,
            layers,
            runtime,
            keeper,
            servers: Mutex::default(),
        }
    }

    /// The server; started if it is not, and again if the mount of the last one was taken off.
    pub(crate) fn server(&self) -> Result<Arc<Server>> {
        let mut servers = self.lock();
        let is_usable = |server: &&Arc<Server>| self.is_usable(server);
        if let Some(server) = servers.current.as_ref().filter(is_usable) {
            return Ok(Arc::clone(server));
        }
        if let Some(server) = servers.current.take() {
            tracing::error!(
                mountpoint = %self.mountpoint.display(),
                "somebody has unmounted the lazy layers, or nobody answers for them any more; serving them anew"
            );
            servers.hidden.push(server);
        }
        servers.hidden.retain(|server| server.is_serving());
        if let Err(error) = fs::create_dir_all(&self.mountpoint)
            && !pontoon_linux::is_disconnected(&self.mountpoint)
        {
            let operation = format!("create directory {}", self.mountpoint.display());
            return Err(Error::io(operation, error));
        }
        let (config, mountpoint) = (&self.config, &self.mountpoint);
        let (layers, runtime) = (Arc::clone(&self.layers), self.runtime.clone());
        let started = match &self.keeper {
            Some(keeper) => Server::start_kept(config, mountpoint, layers, runtime, keeper),
            None => Server::start(config, mountpoint, layers, runtime),
        };
        let started = started.map_err(|error| Error::Failed {
            operation: "serving lazy layers".to_owned(),
            source: Box::new(error),
        })?;
        if let Some(keeper) = &self.keeper {
            keeper.serve();
        }
        tracing::info!(mountpoint = %self.mountpoint.display(), "serving lazy layers");
        Ok(Arc::clone(servers.current.insert(Arc::new(started))))
    }

    /// Goes on with what predecessors have left, mounted or not; the layers must be known already. If `is_needed`, new
    /// mounts are served afterwards in any case.
    pub(crate) fn inherit(&self, is_needed: bool) -> Inherited {
        let mut inherited = Inherited::default();
        let mut unused = 0;
        for held in self.held() {
            let name = held.name.clone();
            // Its server died before anybody could use it.
            unused += usize::from(held.state.is_empty());
            match self.adopt(held) {
                Ok(()) => inherited.adopted += 1,
                Err(error) => {
                    tracing::warn!(%name, error = &error as &dyn std::error::Error, "a connection of lazy layers ends");
                    // Before anybody looks at its mount, and waits.
                    if let Some(keeper) = &self.keeper {
                        keeper.forget(&name);
                    }
                }
            }
        }
        if let Some(keeper) = self.keeper.as_ref().filter(|_| inherited.adopted > 0) {
            keeper.serve();
            tracing::info!(
                connections = inherited.adopted,
                "went on serving lazy layers"
            );
        }
        if is_needed
            || self.lock().current.is_none() && pontoon_linux::is_disconnected(&self.mountpoint)
        {
            match self.server() {
                Ok(server) => inherited.lost = server.replaced().saturating_sub(unused),
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "lazy layers are not served; mounting one tries again"
                ),
            }
        }
        inherited
    }

    fn held(&self) -> Vec<Held> {
        let held = self.keeper.as_ref().map(|keeper| keeper.held());
        held.unwrap_or(Ok(Vec::new())).unwrap_or_else(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "it is not known what predecessors have left; it is served anew"
            );
            Vec::new()
        })
    }

    fn adopt(&self, held: Held) -> Result<(), pontoon_fuse::Error> {
        let Some(keeper) = &self.keeper else {
            return Ok(());
        };
        let (layers, runtime) = (Arc::clone(&self.layers), self.runtime.clone());
        let (config, mountpoint) = (&self.config, &self.mountpoint);
        let server = Server::adopt(config, mountpoint, layers, runtime, keeper, held)?;
        let mut servers = self.lock();
        match server.is_mounted() {
            true => servers.current = Some(Arc::new(server)),
            false => servers.hidden.push(Arc::new(server)),
        }
        Ok(())
    }

    /// The holder, if there is to be one.
    pub(crate) fn holder(&self) -> Option<State> {
        self.keeper.as_ref().map(|keeper| keeper.state())
    }

    /// Whether what is mounted now would find it.
    fn is_usable(&self, server: &Server) -> bool {
        // An unmounted filesystem that a container uses is still served, and found by nobody new.
        server.is_serving() && server.is_mounted()
    }

    /// Tells the kernel that the layer `number` is gone, if somebody serves.
    pub(crate) fn changed(&self, number: u32) {
        for server in self.serving() {
            server.changed(number);
        }
    }

    /// Tells the kernel that the layer `number` is new, if somebody serves.
    pub(crate) fn appeared(&self, number: u32) {
        for server in self.serving() {
            server.appeared(number);
        }
    }

    fn serving(&self) -> Vec<Arc<Server>> {
        let servers = self.lock();
        let all = servers.current.iter().chain(&servers.hidden);
        all.filter(|server| server.is_serving()).cloned().collect()
    }

    /// Answers nothing any more, and leaves what is served to a successor. False if there can be none.
    pub(crate) fn leave(&self) -> bool {
        let serving = self.serving();
        let left = serving.iter().filter(|server| server.leave()).count();
        if let Some(keeper) = self.keeper.as_ref().filter(|_| left > 0) {
            tracing::info!(
                connections = left,
                seconds = keeper.patience().as_secs(),
                "containers go on using lazy layers: they wait for the next daemon"
            );
        }
        left > 0
    }

    /// Ends serving.
    pub(crate) fn stop(&self) {
        let Servers { current, hidden } = std::mem::take(&mut *self.lock());
        // First the one whose mount is there.
        drop(current);
        drop(hidden);
    }

    fn lock(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses an id mapping that the kernel cannot have for what is served.
    pub(crate) fn check_id_map(&self, map: &IdMap) -> Result<()> {
        let path: &Path = &self.mountpoint;
        pontoon_linux::try_id_map(path, map).map_err(|error| Error::Refused {
            what: "a snapshot with id mappings on lazy layers".to_owned(),
            reason: format!(
                "what FUSE serves cannot be idmapped here ({}); use Linux 6.12 or later, or pull the image onto a snapshotter that unpacks it",
                error.source
            ),
        })
    }
}
