//! A node: a containerd of its own with one snapshotter, fresh.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pontoon_rig::containerd::{self, Containerd, Proxy, Pull, Version};
use pontoon_rig::image::Workload;
use pontoon_rig::plugin::{self, Kind, Plugin, find_binary};
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::tools::Tool;
use pontoon_rig::wait;

use super::profile;
use super::rivals::{Rival, Running};
use super::store::{Form, Store};

/// Who loads the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Column {
    /// containerd's own overlayfs, with the whole image.
    Overlayfs,
    /// The same with an image that holds only what the start opens.
    Floor,
    /// Pontoon, which has learned nothing.
    Cold,
    /// Pontoon, which was given the order of an earlier start.
    Learned,
    /// Pontoon with a nydus image, nothing learned.
    OurNydus,
    /// Pontoon with a nydus image and the order of an earlier start.
    OurNydusLearned,
    /// stargz-snapshotter.
    Stargz,
    /// nydus-snapshotter as it is shipped: all of an image is fetched ahead.
    Nydus,
    /// nydus-snapshotter which fetches nothing ahead.
    NydusDemand,
    /// SOCI snapshotter.
    Soci,
}

impl Column {
    /// A name for tables.
    pub(super) fn title(self) -> &'static str {
        match self {
            Column::Overlayfs => "overlayfs, full pull",
            Column::Floor => "overlayfs, only what is needed",
            Column::Cold => "Pontoon, nothing learned",
            Column::Learned => "Pontoon, order learned",
            Column::OurNydus => "Pontoon on nydus, nothing learned",
            Column::OurNydusLearned => "Pontoon on nydus, order learned",
            Column::Stargz => "stargz-snapshotter",
            Column::Nydus => "nydus",
            Column::NydusDemand => "nydus without prefetch",
            Column::Soci => "SOCI",
        }
    }

    /// In which form it gets images.
    pub(super) fn form(self) -> Form {
        match self {
            Column::Overlayfs => Form::Plain,
            Column::Floor => Form::Floor,
            Column::Cold | Column::Learned | Column::Stargz => Form::Estargz,
            Column::OurNydus | Column::OurNydusLearned => Form::Nydus,
            Column::Nydus | Column::NydusDemand => Form::Nydus,
            Column::Soci => Form::Soci,
        }
    }

    /// Our daemon, if it is ours.
    pub(super) fn daemon(self) -> Option<&'static str> {
        match self {
            Column::Cold | Column::Learned => Some(DAEMON),
            Column::OurNydus | Column::OurNydusLearned => Some(NYDUS_DAEMON),
            _ => None,
        }
    }

    /// Whether it is given the order of an earlier start.
    pub(super) fn is_learned(self) -> bool {
        matches!(self, Column::Learned | Column::OurNydusLearned)
    }

    /// Whose programs it takes to make its images or to run them.
    pub(super) fn foreign(self) -> Option<Rival> {
        match self.form() {
            Form::Nydus => Some(Rival::Nydus { ahead: false }),
            _ => self.rival(),
        }
    }

    /// Whose it is, if it is not ours and not containerd's.
    pub(super) fn rival(self) -> Option<Rival> {
        match self {
            Column::Stargz => Some(Rival::Stargz),
            Column::Nydus => Some(Rival::Nydus { ahead: true }),
            Column::NydusDemand => Some(Rival::Nydus { ahead: false }),
            Column::Soci => Some(Rival::Soci),
            _ => None,
        }
    }
}

/// What the daemons are started with.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Our daemon's configuration.
    pub(super) config: String,
    /// Where the rivals' programs are.
    pub(super) rivals: Option<PathBuf>,
    /// What was learned of each image.
    pub(super) profiles: BTreeMap<(Workload, Form), PathBuf>,
}

/// A running node. Its fields end in this order.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) containerd: Containerd,
    pub(super) daemon: Daemon,
    pub(super) snapshotter: &'static str,
    pub(super) sandbox: Sandbox,
}

/// Who serves the snapshots.
#[derive(Debug)]
pub(super) enum Daemon {
    /// containerd itself.
    None,
    Ours(Box<Plugin>),
    Rival(Running),
}

impl Daemon {
    fn start(
        column: Column,
        sandbox: &Sandbox,
        registry: &str,
        settings: &Settings,
    ) -> Result<Self, Box<dyn Error>> {
        if let Some(rival) = column.rival() {
            let programs = settings.rivals.as_deref().ok_or("no rivals' programs")?;
            let containerd = sandbox.path("containerd/c.sock");
            let running = rival.start(sandbox, programs, registry, &containerd)?;
            return Ok(Daemon::Rival(running));
        }
        let Some(daemon) = column.daemon() else {
            return Ok(Daemon::None);
        };
        let setup = plugin::Setup {
            kind: Kind::Pontoon(daemon.into()),
            config: settings.config.clone(),
            log_level: "info",
            args: Vec::new(),
            env: Vec::new(),
            namespace: None,
        };
        Ok(Daemon::Ours(Box::new(Plugin::start(sandbox, setup)?)))
    }

    /// Its socket and its root.
    fn paths(&self) -> Option<(&Path, &Path)> {
        match self {
            Daemon::None => None,
            Daemon::Ours(plugin) => Some((plugin.socket(), plugin.root())),
            Daemon::Rival(running) => Some((&running.socket, &running.root)),
        }
    }
}

/// The name of every plugin in containerd's configuration.
const PROXY: &str = "bench";

/// How long containerd may need to reach a daemon again.
const LIMIT: Duration = Duration::from_secs(20);

/// How much of a daemon's log is shown when something fails.
const LOG_LINES: usize = 20;

/// Our daemons.
pub(super) const DAEMON: &str = "pontoon-stargz";
pub(super) const NYDUS_DAEMON: &str = "pontoon-nydus";

impl Node {
    /// Starts a node for `column`.
    pub(super) fn start(
        column: Column,
        store: &Store,
        workload: Workload,
        settings: &Settings,
    ) -> Result<Self, Box<dyn Error>> {
        let sandbox = Sandbox::new()?;
        let daemon = Daemon::start(column, &sandbox, store.wire.host(), settings)?;
        let proxies = daemon.paths().into_iter().map(|(socket, root)| Proxy {
            name: PROXY.into(),
            address: socket.into(),
            capabilities: vec!["remap-ids".into()],
            exports: vec![
                ("root".into(), root.to_string_lossy().into_owned()),
                ("enable_remote_snapshot_annotations".into(), "true".into()),
            ],
        });
        let setup = containerd::Setup {
            version: Version::V2_3,
            proxies: proxies.collect(),
            // As containerd has it without a configuration.
            concurrent_unpacks: 1,
            cri: None,
            namespace: None,
        };
        let snapshotter = match &daemon {
            Daemon::None => "overlayfs",
            _ => PROXY,
        };
        if column.is_learned() {
            let profile = settings.profiles.get(&(workload, column.form()));
            profile::import(&daemon, profile.ok_or("nothing was learned")?)?;
        }
        Ok(Node {
            containerd: Containerd::start(&sandbox, &setup)?,
            daemon,
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

    /// Mounts an image that was pulled, for reading, and returns where.
    pub(super) fn mount(&self, reference: &str) -> Result<PathBuf, Box<dyn Error>> {
        let name: String = reference
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let root = self.sandbox.subdir(&format!("mount-{name}"))?;
        let target = root.to_string_lossy();
        let mount = ["images", "mount", "--snapshotter", self.snapshotter];
        self.containerd
            .ctr(mount.into_iter().chain([reference, &target]))?;
        Ok(root)
    }

    /// Undoes [`mount`](Self::mount).
    pub(super) fn unmount(&self, root: &Path) -> Result<(), Box<dyn Error>> {
        let target = root.to_string_lossy();
        let unmount = [
            "images",
            "unmount",
            "--rm",
            "--snapshotter",
            self.snapshotter,
        ];
        self.containerd.ctr(unmount.into_iter().chain([&*target]))?;
        Ok(())
    }

    /// Whether something of it is mounted with the kernel's own EROFS.
    pub(super) fn has_erofs(&self) -> Result<bool, Box<dyn Error>> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let dir = self.sandbox.dir().to_string_lossy();
        let erofs = |line: &str| line.contains(&*dir) && line.split(' ').nth(2) == Some("erofs");
        Ok(mounts.lines().any(erofs))
    }

    /// Adds the last lines of the daemon's log to what went wrong.
    pub(super) fn explain(&self, error: Box<dyn Error>) -> Box<dyn Error> {
        let log = match &self.daemon {
            Daemon::None => String::new(),
            Daemon::Ours(plugin) => plugin.log(),
            Daemon::Rival(running) => running.log(),
        };
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        format!("{error}\nThe end of the snapshotter's log:\n{last}").into()
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
pub(super) fn drop_caches(settings: &Settings) -> Result<(), Box<dyn Error>> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let mut programs: Vec<PathBuf> = [DAEMON, NYDUS_DAEMON]
        .into_iter()
        .filter_map(|daemon| find_binary(daemon).ok())
        .collect();
    let dirs = [Tool::Containerd23.dir()?, Tool::Debian12.dir()?];
    for dir in dirs.iter().chain(&settings.rivals) {
        for entry in fs::read_dir(dir)? {
            programs.push(entry?.path());
        }
    }
    for program in programs.iter().filter(|path| path.is_file()) {
        std::io::copy(&mut fs::File::open(program)?, &mut std::io::sink())?;
    }
    Ok(())
}
