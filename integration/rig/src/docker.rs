//! A private Docker Engine on the private containerd, with the plugin as its storage
//! driver.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::cluster::SNAPSHOTTER;
use crate::command::{Output, attempt, run};
use crate::containerd::Containerd;
use crate::error::{At, Result};
use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::tools::Tool;

const LIMIT: Duration = Duration::from_mins(3);

/// A running dockerd.
#[derive(Debug)]
pub struct Docker {
    bin: PathBuf,
    path: std::ffi::OsString,
    dir: PathBuf,
    tmp: PathBuf,
    process: Option<Process>,
}

impl Docker {
    /// Starts dockerd on `containerd`; `registry` may be used without TLS.
    ///
    /// It makes no bridge and no firewall rules: containers run with
    /// `--network none`.
    pub fn start(sandbox: &Sandbox, containerd: &Containerd, registry: &str) -> Result<Self> {
        let dir = sandbox.subdir("docker")?;
        let bin = Tool::Docker.dir()?;
        let plugins = dir.join("client/cli-plugins");
        fs::create_dir_all(&plugins).at("create", &plugins)?;
        let plugin = plugins.join("docker-buildx");
        std::os::unix::fs::symlink(bin.join("docker-buildx"), &plugin).at("link", &plugin)?;
        let config = json!({
            "features": {"containerd-snapshotter": true},
            "storage-driver": SNAPSHOTTER,
            "containerd": containerd.socket(),
            "data-root": dir.join("root"),
            "exec-root": dir.join("exec"),
            "pidfile": dir.join("docker.pid"),
            "hosts": [format!("unix://{}", dir.join("d.sock").display())],
            "iptables": false,
            "ip6tables": false,
            "bridge": "none",
            "userland-proxy": false,
            "cgroup-parent": format!("/{}", sandbox.name()),
            "insecure-registries": [registry],
        });
        let file = dir.join("daemon.json");
        fs::write(&file, config.to_string()).at("write", &file)?;
        let dirs = [bin.clone()]
            .into_iter()
            .chain(std::env::split_paths(containerd.path()));
        let path = std::env::join_paths(dirs)
            .map_err(std::io::Error::other)
            .at("compose PATH from", &bin)?;
        let mut docker = Self {
            bin,
            path,
            dir,
            tmp: sandbox.path("tmp"),
            process: None,
        };
        docker.resume()?;
        Ok(docker)
    }

    /// Starts it again after [`terminate`](Self::terminate).
    pub fn resume(&mut self) -> Result<()> {
        let mut command = Command::new(self.bin.join("dockerd"));
        command
            .arg("--config-file")
            .arg(self.dir.join("daemon.json"));
        command.env("PATH", &self.path).env("TMPDIR", &self.tmp);
        let log = self.dir.join("dockerd.log");
        let mut process = Process::start("dockerd", &mut command, &log)?;
        process.wait_ready(Duration::from_secs(60), || {
            let answer = attempt(self.command().arg("version"), Duration::from_secs(10));
            answer.is_ok_and(|a| a.status.success()).then_some(())
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it with SIGTERM.
    pub fn terminate(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate(Duration::from_secs(60))?;
        }
        Ok(())
    }

    /// Runs `docker` and fails unless it succeeds.
    pub fn docker<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Result<Output> {
        run(self.command().args(args), LIMIT)
    }

    /// A `docker` command for this engine, to be completed.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.bin.join("docker"));
        command
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()));
        command.env("PATH", &self.path).env("TMPDIR", &self.tmp);
        command.env("DOCKER_CONFIG", self.dir.join("client"));
        // Plugins and buildx keep their state below HOME.
        command.env("HOME", self.dir.join("client"));
        command
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("d.sock")
    }

    /// The log of dockerd.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default()
    }
}
