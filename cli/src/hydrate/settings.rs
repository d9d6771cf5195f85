//! The daemon's own file: how it asks registries, and with which credentials.

use std::path::Path;
use std::sync::Arc;

use pontoon_daemon::Config;
use pontoon_remote::CredentialsConfig;
use pontoon_source::{
    BoxFuture, Chain, Credential, Credentials, DockerConfig, Fixed, Kubernetes, Reference,
    Registry, Remembered,
};

use crate::EXIT_USAGE;
use crate::failure::{Failure, chain};

/// The sections as the daemon declares them.
#[path = "../../../snapshotters/stargz/src/config.rs"]
mod stargz;

/// The plugin's name in paths.
const PLUGIN: &str = "stargz";

/// Where the daemon looks for its file.
const DEFAULT: &str = "/etc/pontoon/stargz.toml";

/// A registry client as the daemon with the configuration `file` has one; without a file, as one with the default file.
///
/// To be called inside of a tokio runtime.
pub(super) fn registry(file: Option<&Path>) -> Result<Registry, Failure> {
    let default = Path::new(DEFAULT);
    let file = file.or_else(|| Some(default).filter(|default| default.exists()));
    let config = match file {
        Some(file) => Config::<stargz::StargzSections>::load(PLUGIN, file)
            .map_err(|error| Failure::new(EXIT_USAGE, chain(&error)))?,
        None => Config::new(PLUGIN),
    };
    let provider = config.plugin.provider(false);
    let remembered = config.top.root.join("lazy/credentials.json");
    let credentials = credentials(&provider.credentials, &remembered)?;
    Ok(Registry::new(provider.registry, credentials))
}

/// The daemon's sources in the daemon's order, and what the daemon remembers.
fn credentials(
    config: &CredentialsConfig,
    remembered: &Path,
) -> Result<Arc<dyn Credentials>, Failure> {
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
    if remembered.exists() {
        let remembered = Remembered::open(remembered);
        let remembered = remembered.map_err(|error| Failure::new(1, chain(&error)))?;
        sources.push(Arc::new(ReadOnly(remembered)));
    }
    Ok(Arc::new(Chain::new(sources)))
}

/// What the daemon remembers. The file is the daemon's to write.
#[derive(Debug)]
struct ReadOnly(Remembered);

impl Credentials for ReadOnly {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, pontoon_source::Result<Vec<Credential>>> {
        self.0.lookup(host, reference)
    }
}
