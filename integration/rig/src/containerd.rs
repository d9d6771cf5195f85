//! A private containerd with a plugin loaded through `proxy_plugins`.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{Output, attempt, run};
use crate::error::{At, Result};
use crate::image::architecture;
use crate::network;
use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::tools::Tool;

/// How long one `ctr` command may take.
const LIMIT: Duration = Duration::from_mins(3);

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian's 1.7.
    V1_7,
    /// 2.3, built from source.
    V2_3,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V1_7, Self::V2_3];

    fn tool(self) -> Tool {
        match self {
            Self::V1_7 => Tool::Containerd17,
            Self::V2_3 => Tool::Containerd23,
        }
    }
}

/// One `[proxy_plugins.NAME]` section.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// The snapshotter's name.
    pub name: String,
    /// The plugin's socket.
    pub address: PathBuf,
    /// For example `rebase` and `remap-ids`.
    pub capabilities: Vec<String>,
    /// For example `root`.
    pub exports: Vec<(String, String)>,
}

/// How a containerd is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which containerd.
    pub version: Version,
    /// The plugins it loads.
    pub proxies: Vec<Proxy>,
    /// How many layers of an image the transfer service unpacks at a time (2.x).
    pub concurrent_unpacks: u32,
    /// Kubernetes' image service, as it is set up for lazy loading (1.7 only: the other
    /// is built without it).
    pub cri: Option<Cri>,
    /// The network namespace that it runs in, if not this process's.
    pub namespace: Option<String>,
}

/// How the CRI plugin pulls.
#[derive(Debug, Clone)]
pub struct Cri {
    /// The snapshotter that it unpacks onto, with the labels that say where layers are.
    pub snapshotter: String,
    /// The directory with its `hosts.toml` files.
    pub hosts: PathBuf,
}

/// A pull of one image, lazily where the snapshotter can.
#[derive(Debug, Clone, Copy)]
pub struct Pull<'a> {
    /// The image.
    pub reference: &'a str,
    /// The snapshotter that it is unpacked onto.
    pub snapshotter: &'a str,
    /// The directory with the `hosts.toml` files; without it, plain HTTP is spoken with
    /// registries on loopback.
    pub hosts: Option<&'a Path>,
    /// `name:password`.
    pub user: Option<&'a str>,
}

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    version: Version,
    bin: PathBuf,
    path: std::ffi::OsString,
    namespace: String,
    /// The network namespace.
    network: Option<String>,
    dir: PathBuf,
    tmp: PathBuf,
    process: Option<Process>,
}

impl Containerd {
    /// Writes its configuration, starts it and waits until it answers.
    pub fn start(sandbox: &Sandbox, setup: &Setup) -> Result<Self> {
        let dir = sandbox.subdir("containerd")?;
        let bin = setup.version.tool().dir()?;
        // Our shim and runc go first; the rest of PATH is for mount and the like.
        let system = std::env::var_os("PATH").unwrap_or_default();
        let dirs = [bin.clone(), Tool::Debian12.dir()?].into_iter();
        let path = std::env::join_paths(dirs.chain(std::env::split_paths(&system)))
            .map_err(std::io::Error::other)
            .at("compose PATH from", &bin)?;
        let config = dir.join("config.toml");
        fs::write(&config, configuration(setup)).at("write", &config)?;
        let namespace = sandbox.name().to_owned();
        let tmp = sandbox.path("tmp");
        let version = setup.version;
        let mut containerd = Self {
            version,
            bin,
            path,
            namespace,
            network: setup.namespace.clone(),
            dir,
            tmp,
            process: None,
        };
        containerd.resume()?;
        Ok(containerd)
    }

    /// Starts it again after [`terminate`](Self::terminate) or [`kill`](Self::kill).
    pub fn resume(&mut self) -> Result<()> {
        let program = self.bin.join("containerd");
        let mut command = network::inside(self.network.as_deref(), &program);
        command.arg("--config").arg(self.dir.join("config.toml"));
        command.arg("--root").arg(self.dir.join("root"));
        command.arg("--state").arg(self.dir.join("state"));
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--log-level", "debug"]);
        command.env("PATH", &self.path).env("TMPDIR", &self.tmp);
        let log = self.dir.join("containerd.log");
        let mut process = Process::start("containerd", &mut command, &log)?;
        process.wait_ready(Duration::from_secs(30), || {
            let answer = attempt(
                self.ctr_command().args(["version"]),
                Duration::from_secs(10),
            );
            answer.is_ok_and(|a| a.status.success()).then_some(())
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it with SIGTERM. Containers go on under their shims.
    pub fn terminate(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate(Duration::from_secs(20))?;
        }
        Ok(())
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// SIGTERM, then a new start.
    pub fn restart(&mut self) -> Result<()> {
        self.terminate()?;
        self.resume()
    }

    /// Which containerd this is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("c.sock")
    }

    /// The containerd namespace that `ctr` uses here, unique on this machine.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("containerd.log")).unwrap_or_default()
    }

    /// PATH with its own programs and runc first.
    pub fn path(&self) -> &OsStr {
        &self.path
    }

    /// The part of its configuration that names the plugins.
    pub fn proxy_configuration(&self) -> Result<String> {
        let path = self.dir.join("config.toml");
        let text = fs::read_to_string(&path).at("read", &path)?;
        let start = text.find("[proxy_plugins").unwrap_or(text.len());
        Ok(text[start..].to_owned())
    }

    /// Runs `ctr` and fails unless it succeeds.
    pub fn ctr<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Result<Output> {
        run(self.ctr_command().args(args), LIMIT)
    }

    /// Runs `ctr`, whatever its exit status.
    pub fn try_ctr<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Result<Output> {
        attempt(self.ctr_command().args(args), LIMIT)
    }

    /// Runs a container to its end (`--rm`); `options` go before the image.
    pub fn run(
        &self,
        snapshotter: &str,
        options: &[&str],
        image: &str,
        id: &str,
        command: &[&str],
    ) -> Result<Output> {
        let mut args = vec!["run", "--rm", "--snapshotter", snapshotter];
        args.extend(options);
        args.extend([image, id]);
        args.extend(command);
        self.ctr(args)
    }

    /// A `ctr` command for this containerd, to be completed.
    pub fn ctr_command(&self) -> Command {
        let mut command = network::inside(self.network.as_deref(), &self.bin.join("ctr"));
        command
            .arg("--address")
            .arg(self.socket())
            .arg("--namespace")
            .arg(&self.namespace);
        command.env("PATH", &self.path).env("TMPDIR", &self.tmp);
        command
    }

    /// The command that pulls as users of this containerd do who want lazy loading: the
    /// transfer service (`ctr`) with 2.3, a client that adds the labels with 1.7.
    pub fn pull_command(&self, pull: &Pull<'_>) -> Result<Command> {
        match self.version {
            Version::V1_7 => self.client_pull_command(pull),
            Version::V2_3 => Ok(self.transfer_pull_command(pull)),
        }
    }

    /// The command that pulls through `ctr images pull`; 1.7's adds no labels.
    pub fn transfer_pull_command(&self, pull: &Pull<'_>) -> Command {
        let mut command = self.ctr_command();
        command.args(["images", "pull", "--snapshotter", pull.snapshotter]);
        match pull.hosts {
            Some(hosts) => command.arg("--hosts-dir").arg(hosts),
            None => command.arg("--plain-http"),
        };
        if let Some(user) = pull.user {
            command.args(["--user", user]);
        }
        command.arg(pull.reference);
        command
    }

    /// The command that pulls through containerd's client library and adds the labels
    /// itself, as Docker and nerdctl do.
    pub fn client_pull_command(&self, pull: &Pull<'_>) -> Result<Command> {
        let mut command = self.pull_tool(&self.socket())?;
        command.arg("-namespace").arg(&self.namespace);
        command.args(["-snapshotter", pull.snapshotter]);
        if let Some(hosts) = pull.hosts {
            command.arg("-hosts-dir").arg(hosts);
        }
        if let Some(user) = pull.user {
            command.args(["-user", user]);
        }
        command.arg(pull.reference);
        Ok(command)
    }

    /// The command that has the image service at `socket`, which is containerd's own
    /// ([`Setup::cri`]) or one in front of it, pull `reference`, as a kubelet does. The
    /// image is in the containerd namespace `k8s.io` then.
    pub fn cri_pull_command(
        &self,
        socket: &Path,
        reference: &str,
        user: Option<&str>,
    ) -> Result<Command> {
        let mut command = self.pull_tool(socket)?;
        command.arg("-cri");
        if let Some(user) = user {
            command.args(["-user", user]);
        }
        command.arg(reference);
        Ok(command)
    }

    /// Pulls, and fails unless it succeeds.
    pub fn pull(&self, pull: &Pull<'_>) -> Result<Output> {
        run(&mut self.pull_command(pull)?, LIMIT)
    }

    /// What containerd knows of a snapshot.
    pub fn snapshot_info(&self, snapshotter: &str, key: &str) -> Result<serde_json::Value> {
        let told = self.ctr(["snapshots", "--snapshotter", snapshotter, "info", key])?;
        let parsed = serde_json::from_str(&told.stdout);
        parsed.map_err(|e| crate::Error::unexpected("the info of a snapshot", e.to_string()))
    }

    fn pull_tool(&self, socket: &Path) -> Result<Command> {
        let program = Tool::Images.dir()?.join("pull");
        let mut command = network::inside(self.network.as_deref(), &program);
        command.arg("-address").arg(socket);
        command.env("PATH", &self.path).env("TMPDIR", &self.tmp);
        Ok(command)
    }

    /// A directory of its own for what a test keeps beside it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The configuration file: `version = 2` for 1.7, `version = 3` for 2.x.
fn configuration(setup: &Setup) -> String {
    let mut text = String::new();
    let number = if setup.version == Version::V1_7 { 2 } else { 3 };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "version = {number}");
    match &setup.cri {
        Some(cri) => text.push_str(&cri_configuration(cri)),
        // It opens sockets and wants a CNI configuration.
        None if setup.version == Version::V1_7 => {
            let _ = writeln!(text, "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]");
        }
        None => {}
    }
    let transfer = "[plugins.\"io.containerd.transfer.v1.local\"]";
    let _ = writeln!(text, "{transfer}");
    if setup.version == Version::V2_3 {
        let _ = writeln!(
            text,
            "max_concurrent_unpacks = {}",
            setup.concurrent_unpacks
        );
    }
    let builtin = ["overlayfs"].into_iter();
    let snapshotters = builtin.chain(setup.proxies.iter().map(|p| p.name.as_str()));
    for name in snapshotters {
        let list = "plugins.\"io.containerd.transfer.v1.local\".unpack_config";
        let _ = writeln!(text, "[[{list}]]\nplatform = \"linux/{}\"", architecture());
        let _ = writeln!(text, "snapshotter = \"{name}\"");
    }
    for proxy in &setup.proxies {
        let _ = writeln!(text, "[proxy_plugins.{}]\ntype = \"snapshot\"", proxy.name);
        let _ = writeln!(text, "address = \"{}\"", proxy.address.display());
        if setup.version == Version::V2_3 {
            let _ = writeln!(text, "capabilities = {:?}", proxy.capabilities);
        }
        let _ = writeln!(text, "[proxy_plugins.{}.exports]", proxy.name);
        for (key, value) in &proxy.exports {
            let _ = writeln!(text, "{key} = \"{value}\"");
        }
    }
    text
}

fn cri_configuration(cri: &Cri) -> String {
    let Cri { snapshotter, hosts } = cri;
    let hosts = hosts.display();
    format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\n\
         disable_tcp_service = true\n\
         stream_server_address = \"127.0.0.1\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
         snapshotter = \"{snapshotter}\"\n\
         disable_snapshot_annotations = false\n\
         [plugins.\"io.containerd.grpc.v1.cri\".registry]\n\
         config_path = \"{hosts}\"\n"
    )
}
