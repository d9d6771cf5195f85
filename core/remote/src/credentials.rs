//! The sources of credentials, in the order in which they are asked.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use pontoon_source::{
    Chain, Credentials, DockerConfig, Fixed, ImageServiceProxy, Kubernetes, Remembered,
};
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::config::{CredentialsConfig, ImageServiceConfig};
use crate::{Error, error};

/// All sources as one, and what is remembered of them, which comes last.
pub(crate) fn chain(config: &CredentialsConfig, remembered: &Remembered) -> Arc<dyn Credentials> {
    let mut sources: Vec<Arc<dyn Credentials>> = Vec::new();
    if !config.fixed.is_empty() {
        sources.push(Arc::new(Fixed::new(config.fixed.clone())));
    }
    let docker = match &config.docker_config {
        Some(path) => Some(DockerConfig::new(path)),
        None => DockerConfig::of_environment(),
    };
    if let Some(docker) = docker {
        sources.push(Arc::new(docker));
    }
    if let Some(kubernetes) = &config.kubernetes {
        sources.push(Arc::new(Kubernetes::new(kubernetes.clone())));
    }
    sources.push(Arc::new(remembered.clone()));
    Arc::new(Chain::new(sources))
}

/// Serves the kubelet's image requests until `stop` says true.
pub(crate) fn serve_image_service(
    runtime: &Handle,
    config: &ImageServiceConfig,
    remembered: &Remembered,
    stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    let _inside = runtime.enter();
    let listener = listen(&config.listen).map_err(|source| error::Error::Io {
        operation: "listen for image requests at",
        path: config.listen.clone(),
        source,
    })?;
    let proxy = ImageServiceProxy::new(&config.runtime, remembered.clone());
    runtime.spawn(proxy.serve(listener, stop));
    Ok(())
}

/// A socket at `path` that only its owner may connect to, from its first moment.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let private = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(directory)?;
    let made = private.path().join("socket");
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
    // In place of what a daemon before has left.
    fs::rename(&made, path)?;
    Ok(listener)
}
