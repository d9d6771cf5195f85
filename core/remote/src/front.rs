//! The one FUSE server, started when the first layer is to be mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_fuse::{Config, LayerTable, Server};
use pontoon_linux::IdMap;
use pontoon_snapshot::{Error, Result};
use tokio::runtime::Handle;

/// The server, once it is needed.
#[derive(Debug)]
pub(crate) struct Front {
    mountpoint: PathBuf,
    config: Config,
    layers: Arc<LayerTable>,
    runtime: Handle,
    servers: Mutex<Servers>,
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
        layers: Arc<LayerTable>,
        runtime: Handle,
    ) -> Self {
        Front {
            mountpoint,
            config,
            layers,
            runtime,
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
        let layers = Arc::clone(&self.layers);
        let started = Server::start(&self.config, &self.mountpoint, layers, self.runtime.clone());
        let started = started.map_err(|error| Error::Failed {
            operation: "serving lazy layers".to_owned(),
            source: Box::new(error),
        })?;
        tracing::info!(mountpoint = %self.mountpoint.display(), "serving lazy layers");
        Ok(Arc::clone(servers.current.insert(Arc::new(started))))
    }

    /// Whether what is mounted now would find it.
    fn is_usable(&self, server: &Server) -> bool {
        // An unmounted filesystem that a container uses is still served, and found by nobody new.
        server.is_serving() && pontoon_linux::is_mount_point(&self.mountpoint).unwrap_or(false)
    }

    /// Tells the kernel that the layer `number` is new or gone, if somebody serves.
    pub(crate) fn changed(&self, number: u32) {
        let serving: Vec<_> = {
            let servers = self.lock();
            let all = servers.current.iter().chain(&servers.hidden);
            all.filter(|server| server.is_serving()).cloned().collect()
        };
        for server in serving {
            server.changed(number);
        }
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
