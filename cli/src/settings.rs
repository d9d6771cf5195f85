//! The daemon's own file: how it asks registries, and with which credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_daemon::Config;
use pontoon_lazy::{Flavor, LazySections, Nydus, Stargz};
use pontoon_remote::CredentialsConfig;
use pontoon_source::{
    BoxFuture, Chain, Credential, Credentials, DockerConfig, Fixed, Kubernetes, Reference,
    Registry, Remembered,
};

use crate::EXIT_USAGE;
use crate::failure::{Failure, chain};

/// A registry client as the daemon with the configuration `file` has one; without a file, as that lazy daemon that has its
/// default file, or is installed without any.
///
/// To be called inside of a tokio runtime.
pub(crate) fn registry(file: Option<&Path>) -> Result<Registry, Failure> {
    let is_nydus = match file {
        Some(file) => is_of::<Nydus>(file),
        None => !is_there::<Stargz>() && is_there::<Nydus>(),
    };
    match is_nydus {
        true => registry_of::<Nydus>(file),
        false => registry_of::<Stargz>(file),
    }
}

/// Where a daemon looks for its file.
fn default_file<F: Flavor>() -> PathBuf {
    format!("/etc/pontoon/{}.toml", F::NAME).into()
}

fn is_there<F: Flavor>() -> bool {
    let root = Config::<LazySections<F>>::new(F::NAME).top.root;
    default_file::<F>().exists() || root.exists()
}

/// Whether the file can only be that daemon's. What is wrong with another one is told when it is read.
fn is_of<F: Flavor>(file: &Path) -> bool {
    let own = format!("[{}]", F::NAME);
    let by_name = file
        .file_stem()
        .is_some_and(|name| name.to_string_lossy() == F::NAME);
    let text = std::fs::read_to_string(file).unwrap_or_default();
    by_name || text.lines().any(|line| line.trim_start().starts_with(&own))
}

fn registry_of<F: Flavor>(file: Option<&Path>) -> Result<Registry, Failure> {
    let default = default_file::<F>();
    let file = file.or_else(|| Some(&*default).filter(|default| default.exists()));
    let config = match file {
        Some(file) => Config::<LazySections<F>>::load(F::NAME, file)
            .map_err(|error| Failure::new(EXIT_USAGE, chain(&error)))?,
        None => Config::new(F::NAME),
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
