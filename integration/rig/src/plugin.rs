//! The snapshotter under test: our daemon, or what it is compared with.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use crate::checkout;
use crate::error::{At, Error, Result};
use crate::network;
use crate::process::Process;
use crate::sandbox::{Sandbox, mounts_below};
use crate::tools::Tool;

/// Which program serves the snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One of our daemons, by the name or the absolute path of its binary.
    Pontoon(String),
    /// containerd's own overlayfs, alone, behind the same service.
    Oracle,
    /// stargz-snapshotter, behind the same service; its configuration is JSON.
    Stargz,
}

impl Kind {
    /// `pontoon-overlayfs`, or what `PONTOON_PLUGIN` names (`oracle`, or a binary).
    pub fn from_env() -> Self {
        match std::env::var("PONTOON_PLUGIN") {
            Ok(name) if name == "oracle" => Self::Oracle,
            Ok(name) => Self::Pontoon(name),
            Err(_) => Self::Pontoon("pontoon-overlayfs".into()),
        }
    }

    /// `pontoon-stargz`, or what `PONTOON_LAZY_PLUGIN` names (`stargz`, or a binary).
    pub fn lazy_from_env() -> Self {
        match std::env::var("PONTOON_LAZY_PLUGIN") {
            Ok(name) if name == "stargz" => Self::Stargz,
            Ok(name) => Self::Pontoon(name),
            Err(_) => Self::Pontoon("pontoon-stargz".into()),
        }
    }

    fn binary(&self) -> Result<PathBuf> {
        match self {
            Self::Oracle => Ok(Tool::Containerd23.dir()?.join("oracle")),
            Self::Stargz => Ok(Tool::Images.dir()?.join("stargz")),
            Self::Pontoon(name) => find_binary(name),
        }
    }
}

/// How a plugin is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which program.
    pub kind: Kind,
    /// Its configuration file, as TOML.
    pub config: String,
    /// More arguments.
    pub args: Vec<String>,
    /// More environment variables.
    pub env: Vec<(String, String)>,
    /// Its log level: `debug` says most when a test fails, `info` is what users have.
    pub log_level: &'static str,
    /// The network namespace that it runs in, if not this process's.
    pub namespace: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            kind: Kind::from_env(),
            config: String::new(),
            args: Vec::new(),
            env: Vec::new(),
            log_level: "debug",
            namespace: None,
        }
    }
}

/// A plugin in a sandbox; it can be stopped, killed and started again on its root.
#[derive(Debug)]
pub struct Plugin {
    setup: Setup,
    binary: PathBuf,
    root: PathBuf,
    socket: PathBuf,
    config: PathBuf,
    log: PathBuf,
    tmp: PathBuf,
    process: Option<Process>,
}

impl Plugin {
    /// Starts the plugin and waits until its socket answers.
    pub fn start(sandbox: &Sandbox, setup: Setup) -> Result<Self> {
        let config = sandbox.path("plugin.toml");
        fs::write(&config, &setup.config).at("write", &config)?;
        let mut plugin = Self {
            binary: setup.kind.binary()?,
            setup,
            root: sandbox.subdir("plugin")?,
            socket: sandbox.path("plugin.sock"),
            config,
            log: sandbox.path("plugin.log"),
            tmp: sandbox.path("tmp"),
            process: None,
        };
        plugin.resume()?;
        Ok(plugin)
    }

    /// Starts it again after [`terminate`](Self::terminate) or [`kill`](Self::kill).
    pub fn resume(&mut self) -> Result<()> {
        let mut process = self.begin()?;
        let socket = &self.socket;
        process.wait_ready(Duration::from_secs(20), || UnixStream::connect(socket).ok())?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts it again, and kills it after that time, however far it is.
    pub fn resume_for(&mut self, time: Duration) -> Result<()> {
        let mut process = self.begin()?;
        thread::sleep(time);
        process.kill()
    }

    /// Has the next start use another build of it.
    pub fn set_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    fn begin(&self) -> Result<Process> {
        let mut command = network::inside(self.setup.namespace.as_deref(), &self.binary);
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--address")
            .arg(&self.socket);
        command
            .arg("--config")
            .arg(&self.config)
            .args(["--log-level", self.setup.log_level]);
        command.args(&self.setup.args).env("TMPDIR", &self.tmp);
        command.envs(self.setup.env.iter().map(|(name, value)| (name, value)));
        Process::start("the plugin", &mut command, &self.log)
    }

    /// Ends it with SIGTERM; it must do so within ten seconds.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let Some(process) = self.process.as_mut() else {
            return Err(Error::unexpected("ending the plugin", "it is not running"));
        };
        let status = process.terminate(Duration::from_secs(10))?;
        self.process = None;
        Ok(status)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// SIGTERM, then a new start.
    pub fn restart(&mut self) -> Result<()> {
        self.terminate()?;
        self.resume()
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Process> {
        let running = self.process.as_mut();
        running.ok_or_else(|| Error::unexpected("the plugin", "it is not running"))
    }

    /// The name of its program.
    pub fn name(&self) -> String {
        let name = self.binary.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The names in `<root>/snapshots`, sorted.
    pub fn snapshot_dirs(&self) -> Result<Vec<String>> {
        let dir = self.root.join("snapshots");
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            names.push(
                entry
                    .at("list", &dir)?
                    .file_name()
                    .to_string_lossy()
                    .into_owned(),
            );
        }
        names.sort();
        Ok(names)
    }

    /// The mount points below its root.
    pub fn mounts(&self) -> Result<Vec<PathBuf>> {
        mounts_below(&self.root)
    }
}

/// A binary of this workspace: itself if it is an absolute path, from `PONTOON_BIN_DIR`, beside the running program, or
/// from the profile directories of `target`.
pub fn find_binary(name: &str) -> Result<PathBuf> {
    if Path::new(name).is_absolute() {
        return Ok(name.into());
    }
    let mut dirs: Vec<PathBuf> = std::env::var_os("PONTOON_BIN_DIR")
        .into_iter()
        .map(Into::into)
        .collect();
    if dirs.is_empty() {
        let running = std::env::current_exe().unwrap_or_default();
        dirs.extend(running.ancestors().skip(1).take(2).map(Path::to_owned));
        dirs.push(checkout::root().join("target/release"));
        dirs.push(checkout::root().join("target/debug"));
    }
    let found = dirs
        .iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        let why = "it is not built; `cargo build --workspace` does (`cargo xtask test` calls it)";
        Error::unexpected(format!("the program {name}"), why)
    })
}
