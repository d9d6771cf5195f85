//! The one FUSE server, started when the first layer is to be mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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
    server: Mutex<Option<Arc<Server>>>,
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
            server: Mutex::default(),
        }
    }

    /// The server; started if it is not.
    pub(crate) fn server(&self) -> Result<Arc<Server>> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = &*server {
            return Ok(Arc::clone(server));
        }
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
        Ok(Arc::clone(server.insert(Arc::new(started))))
    }

    /// Tells the kernel that the layer `number` is new or gone, if somebody serves.
    pub(crate) fn changed(&self, number: u32) {
        let serving = {
            let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
            server.clone()
        };
        if let Some(server) = serving {
            server.changed(number);
        }
    }

    /// Ends serving.
    pub(crate) fn stop(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        drop(server.take());
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
