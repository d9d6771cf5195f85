//! A plugin and a containerd that uses it, in one sandbox.

use std::path::PathBuf;
use std::time::Duration;

use crate::containerd::{self, Containerd, Cri, Proxy, Version};
use crate::error::{Error, Result};
use crate::plugin::{self, Plugin};
use crate::sandbox::Sandbox;
use crate::wait;

/// The name under which containerd knows the plugin.
pub const SNAPSHOTTER: &str = "pontoon";

/// How a cluster is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which containerd.
    pub version: Version,
    /// The plugin.
    pub plugin: plugin::Setup,
    /// How many layers are unpacked at a time (containerd 2.x).
    pub concurrent_unpacks: u32,
    /// Whether the plugin loads layers lazily: containerd tells it where layers are, and
    /// does not unpack layers without their parents, which a plugin that has some of them
    /// already cannot take (containerd's issue 13264).
    pub lazy: bool,
    /// Under which other names than [`SNAPSHOTTER`] containerd knows the plugin too.
    pub other_names: Vec<&'static str>,
    /// With a directory of `hosts.toml` files, the image service of Kubernetes on the
    /// plugin (1.7 only).
    pub cri_hosts: Option<PathBuf>,
    /// The network namespace that both run in, if not this process's.
    pub namespace: Option<String>,
}

impl Setup {
    /// The plugin under test and that containerd, layers unpacked one by one.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            plugin: plugin::Setup::default(),
            concurrent_unpacks: 1,
            lazy: false,
            other_names: Vec::new(),
            cri_hosts: None,
            namespace: None,
        }
    }

    /// The lazily loading plugin with the configuration `config`, and that containerd.
    /// With `PONTOON_LAZY_PLUGIN=stargz` it is stargz-snapshotter, without `config`.
    pub fn lazy(version: Version, config: &str) -> Self {
        let kind = plugin::Kind::lazy_from_env();
        let config = match kind {
            plugin::Kind::Stargz => "",
            _ => config,
        };
        let plugin = plugin::Setup {
            kind,
            config: config.into(),
            ..plugin::Setup::default()
        };
        Self {
            plugin,
            lazy: true,
            ..Self::new(version)
        }
    }
}

/// A running pair. The fields end in this order: containerd, plugin, sandbox.
#[derive(Debug)]
pub struct Cluster {
    /// The containerd.
    pub containerd: Containerd,
    /// The plugin.
    pub plugin: Plugin,
    /// Where both live.
    pub sandbox: Sandbox,
}

impl Cluster {
    /// Starts the plugin, then containerd.
    pub fn start(setup: Setup) -> Result<Self> {
        Self::start_in(Sandbox::new()?, setup)
    }

    /// Starts both in a sandbox that has something already, a registry for example.
    pub fn start_in(sandbox: Sandbox, mut setup: Setup) -> Result<Self> {
        setup.plugin.namespace.clone_from(&setup.namespace);
        let plugin = Plugin::start(&sandbox, setup.plugin)?;
        let mut proxy = Proxy {
            name: SNAPSHOTTER.into(),
            address: plugin.socket().into(),
            capabilities: vec!["remap-ids".into()],
            exports: vec![("root".into(), plugin.root().to_string_lossy().into_owned())],
        };
        if setup.lazy {
            let annotations = "enable_remote_snapshot_annotations";
            proxy.exports.push((annotations.into(), "true".into()));
        } else {
            proxy.capabilities.insert(0, "rebase".into());
        }
        let names = [SNAPSHOTTER].into_iter().chain(setup.other_names);
        let proxies = names.map(|name| Proxy {
            name: name.into(),
            ..proxy.clone()
        });
        let containerd = Containerd::start(
            &sandbox,
            &containerd::Setup {
                version: setup.version,
                proxies: proxies.collect(),
                concurrent_unpacks: setup.concurrent_unpacks,
                cri: setup.cri_hosts.map(|hosts| Cri {
                    snapshotter: SNAPSHOTTER.into(),
                    hosts,
                }),
                namespace: setup.namespace,
            },
        )?;
        Ok(Self {
            containerd,
            plugin,
            sandbox,
        })
    }

    /// The keys of the plugin's snapshots in the cluster's containerd namespace, sorted.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        self.snapshots_of(SNAPSHOTTER)
    }

    /// The keys of a snapshotter's snapshots, sorted.
    pub fn snapshots_of(&self, snapshotter: &str) -> Result<Vec<String>> {
        let listed = self
            .containerd
            .ctr(["snapshots", "--snapshotter", snapshotter, "ls"])?;
        let rows = listed.stdout.lines().skip(1);
        let keys = rows
            .filter_map(|row| row.split_whitespace().next())
            .map(str::to_owned);
        let mut keys: Vec<String> = keys.collect();
        keys.sort();
        Ok(keys)
    }

    /// Waits until containerd has reached the plugin again: after a refused connection
    /// its client waits up to three seconds before the next, and fails calls meanwhile.
    /// Of a namespace without snapshots it does not ask the plugin, so all are listed.
    pub fn wait_connected(&self) -> Result<()> {
        let spaces = self.containerd.ctr(["namespaces", "ls", "-q"])?;
        let lists = |space: &str| {
            let list = ["snapshots", "--snapshotter", SNAPSHOTTER, "ls"];
            let arguments = ["--namespace", space].into_iter().chain(list);
            Ok(self.containerd.try_ctr(arguments)?.status.success())
        };
        wait::until(
            "containerd's connection to the plugin",
            Duration::from_secs(20),
            || {
                let mut spaces = spaces.stdout.lines();
                let connected = spaces.try_fold(true, |all, space| Ok(all && lists(space)?));
                Ok(connected?.then_some(()))
            },
        )
    }

    /// Fails unless the plugin keeps exactly one directory for each snapshot that
    /// containerd knows, and mounts nothing but what it serves lazy layers through.
    pub fn check_leaks(&self) -> Result<()> {
        let served = self.plugin.root().join("lazy");
        let mut mounts = self.mounts()?;
        mounts.retain(|point| !point.starts_with(&served));
        if !mounts.is_empty() {
            return Err(Error::unexpected(
                "mounts left behind",
                format!("{mounts:?}"),
            ));
        }
        let keys = self.snapshots()?;
        let dirs = self.plugin.snapshot_dirs()?;
        if keys.len() != dirs.len() {
            let why = format!("snapshots {keys:#?}\ndirectories {dirs:?}");
            return Err(Error::unexpected("as many directories as snapshots", why));
        }
        Ok(())
    }

    /// Every mount in the sandbox.
    pub fn mounts(&self) -> Result<Vec<PathBuf>> {
        crate::sandbox::mounts_below(self.sandbox.dir())
    }
}
