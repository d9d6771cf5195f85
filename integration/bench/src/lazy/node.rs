//! A node: a containerd of its own with one snapshotter, fresh.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pontoon_rig::containerd::{self, Containerd, Proxy, Pull, Version};
use pontoon_rig::plugin::{self, Kind, Plugin, find_binary};
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::tools::Tool;
use pontoon_rig::wait;

use super::store::Form;

/// Who loads the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Column {
    /// containerd's own overlayfs, with the whole image.
    Overlayfs,
    /// Pontoon, which has learned nothing.
    Cold,
}

impl Column {
    /// A name for tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Column::Overlayfs => "overlayfs, full pull",
            Column::Cold => "Pontoon, nothing learned",
        }
    }

    /// In which form it gets images.
    pub(super) fn form(self) -> Form {
        match self {
            Column::Overlayfs => Form::Plain,
            Column::Cold => Form::Estargz,
        }
    }
}

/// A running node. Its fields end in this order.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) containerd: Containerd,
    pub(super) plugin: Option<Plugin>,
    pub(super) snapshotter: &'static str,
    pub(super) sandbox: Sandbox,
}

/// The name of every plugin in containerd's configuration.
const PROXY: &str = "bench";

/// How long containerd may need to reach a daemon again.
const LIMIT: Duration = Duration::from_secs(20);

/// Our daemon.
const DAEMON: &str = "pontoon-stargz";

impl Node {
    /// Starts a node for `column`; `config` is our daemon's configuration.
    pub(super) fn start(column: Column, config: &str) -> Result<Self, Box<dyn Error>> {
        let sandbox = Sandbox::new()?;
        let plugin = match column {
            Column::Overlayfs => None,
            Column::Cold => Some(Plugin::start(
                &sandbox,
                plugin::Setup {
                    kind: Kind::Pontoon(DAEMON.into()),
                    config: config.into(),
                    log_level: "info",
                    args: Vec::new(),
                },
            )?),
        };
        let proxies = plugin.iter().map(|plugin| Proxy {
            name: PROXY.into(),
            address: plugin.socket().into(),
            capabilities: vec!["remap-ids".into()],
            exports: vec![
                ("root".into(), plugin.root().to_string_lossy().into_owned()),
                ("enable_remote_snapshot_annotations".into(), "true".into()),
            ],
        });
        let setup = containerd::Setup {
            version: Version::V2_3,
            proxies: proxies.collect(),
            // As containerd has it without a configuration.
            concurrent_unpacks: 1,
            cri: None,
        };
        let snapshotter = match &plugin {
            Some(_) => PROXY,
            None => "overlayfs",
        };
        Ok(Node {
            containerd: Containerd::start(&sandbox, &setup)?,
            plugin,
            snapshotter,
            sandbox,
        })
    }

    /// Waits until containerd has reached the daemon again, which was started anew.
    pub(super) fn wait_connected(&self) -> Result<(), Box<dyn Error>> {
        let list = ["snapshots", "--snapshotter", self.snapshotter, "ls"];
        let reached = || {
            Ok(self
                .containerd
                .try_ctr(list)?
                .status
                .success()
                .then_some(()))
        };
        wait::until("containerd's connection to the daemon", LIMIT, reached)?;
        Ok(())
    }

    /// The command that pulls `reference`.
    pub(super) fn pull(&self, reference: &str) -> Command {
        self.containerd.transfer_pull_command(&Pull {
            reference,
            snapshotter: self.snapshotter,
            hosts: None,
            user: None,
        })
    }

    /// The command that runs a container of `reference`, called `id`, to its end.
    pub(super) fn run(&self, reference: &str, id: &str) -> Command {
        let mut command = self.containerd.ctr_command();
        command.args(["run", "--rm", "--snapshotter", self.snapshotter]);
        command.args([reference, id]);
        command
    }
}

/// Makes the kernel forget what it has of files, but for the programs that a node has warm.
pub(super) fn drop_caches() -> Result<(), Box<dyn Error>> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let mut programs: Vec<PathBuf> = vec![find_binary(DAEMON)?];
    for dir in [Tool::Containerd23.dir()?, Tool::Debian12.dir()?] {
        for entry in fs::read_dir(dir)? {
            programs.push(entry?.path());
        }
    }
    for program in programs.iter().filter(|path| path.is_file()) {
        std::io::copy(&mut fs::File::open(program)?, &mut std::io::sink())?;
    }
    Ok(())
}
