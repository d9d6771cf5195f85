//! A registry with users, a containerd and the lazy daemon.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pontoon_rig::cluster::{Cluster, SNAPSHOTTER, Setup};
use pontoon_rig::command::attempt;
use pontoon_rig::containerd::{Pull, Version};
use pontoon_rig::image::Converted;
use pontoon_rig::plugin::Kind;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::site::{self, Site, Users};
use pontoon_rig::token::{PASSWORD, USER};
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Stage {
    pub(crate) site: Site,
    pub(crate) cluster: Cluster,
}

impl Stage {
    pub(crate) fn start(version: Version) -> Self {
        Stage::open(version, None)
    }

    /// The same with this daemon.
    pub(crate) fn with(daemon: &str, version: Version) -> Self {
        Stage::open(version, Some(daemon))
    }

    fn open(version: Version, daemon: Option<&str>) -> Self {
        let sandbox = Sandbox::new().unwrap();
        let setup = site::Setup {
            users: Users::Bearer,
            tls: false,
        };
        let site = Site::start(&sandbox, setup).unwrap();
        // Never that of who runs the tests.
        let docker = sandbox.path("docker.json");
        fs::write(&docker, "{}").unwrap();
        let config = format!(
            "[registry]\nconfig_path = {:?}\npatience_seconds = 3\n\
             [credentials]\ndocker_config = {docker:?}\nfixed = [\"{} {USER} {PASSWORD}\"]\n\
             [lazy]\ndeadline_ms = 20000\n[background]\nenabled = false\n[cache]\nfree_bytes_min = 0\n",
            site.hosts_dir(),
            site.host(),
        );
        let mut setup = Setup::lazy(version, &config);
        if let Some(daemon) = daemon {
            setup.plugin.kind = Kind::Pontoon(daemon.to_owned());
        }
        let cluster = Cluster::start_in(sandbox, setup).unwrap();
        Stage { site, cluster }
    }

    /// Uploads an image and pulls it, and fails unless that was lazy.
    pub(crate) fn pull(&self, name: &str, image: &Converted) -> String {
        let reference = self.site.push_converted(image, name, "1").unwrap();
        let mark = self.site.gate.mark();
        self.pull_reference(&reference);
        let (pulled, size) = (mark.bytes(), image.image.size().unwrap());
        let log = self.cluster.plugin.log();
        assert!(pulled < size / 2, "{pulled} of {size} bytes\n{log}");
        reference
    }

    pub(crate) fn pull_reference(&self, reference: &str) {
        self.pull_reference_onto(SNAPSHOTTER, reference);
    }

    pub(crate) fn pull_reference_onto(&self, snapshotter: &str, reference: &str) {
        let user = format!("{USER}:{PASSWORD}");
        let pull = Pull {
            reference,
            snapshotter,
            hosts: Some(self.site.hosts_dir()),
            user: Some(&user),
        };
        self.cluster.containerd.pull(&pull).unwrap();
    }

    pub(crate) fn run(&self, reference: &str, program: &[&str]) {
        let containerd = &self.cluster.containerd;
        containerd
            .run(SNAPSHOTTER, &[], reference, "one", program)
            .unwrap();
    }

    /// The arguments that lead to containerd.
    pub(crate) fn containerd(&self) -> [String; 4] {
        let containerd = &self.cluster.containerd;
        let socket = containerd.socket().to_str().unwrap().to_owned();
        let namespace = containerd.namespace().to_owned();
        [
            "--containerd".into(),
            socket,
            "--namespace".into(),
            namespace,
        ]
    }

    /// What is in containerd's content store.
    pub(crate) fn content(&self) -> String {
        self.cluster
            .containerd
            .ctr(["content", "ls", "-q"])
            .unwrap()
            .stdout
    }

    /// Asks the daemon.
    pub(crate) fn pontoon(&self, arguments: &[&str], more: &[String]) -> (i32, String) {
        let mut command = command(arguments);
        command.args(more).arg("--admin");
        ended(command.arg(self.cluster.sandbox.path("plugin-admin.sock")))
    }

    pub(crate) fn pontoon_alone(&self, arguments: &[&str]) -> (i32, String) {
        ended(&mut command(arguments))
    }

    /// With the ways to this registry and this containerd.
    pub(crate) fn pontoon_there(&self, arguments: &[&str]) -> (i32, String) {
        ended(&mut self.command_there(arguments))
    }

    pub(crate) fn command_there(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.args(self.containerd()).arg("--config");
        command.arg(self.cluster.sandbox.path("plugin.toml"));
        command
    }

    /// With this configuration, and what `docker login` has left in the directory `docker`.
    pub(crate) fn pontoon_with(
        &self,
        config: &Path,
        docker: &Path,
        arguments: &[&str],
    ) -> (i32, String) {
        let mut command = command(arguments);
        command.arg("--config").arg(config);
        ended(command.env("DOCKER_CONFIG", docker))
    }

    pub(crate) fn hydrate(&self, reference: &str) -> (i32, String) {
        ended(&mut self.hydrate_command(reference))
    }

    pub(crate) fn hydrate_from(&self, image: &str, from: &str) -> (i32, String) {
        ended(self.hydrate_command(image).args(["--from", from]))
    }

    /// The same for an image in another namespace.
    pub(crate) fn hydrate_in(&self, namespace: &str, reference: &str) -> (i32, String) {
        let mut hydrate = command(&["hydrate", reference, "--namespace", namespace]);
        hydrate
            .arg("--config")
            .arg(self.cluster.sandbox.path("plugin.toml"));
        let socket = self.cluster.containerd.socket();
        ended(hydrate.arg("--containerd").arg(socket))
    }

    pub(crate) fn hydrate_command(&self, reference: &str) -> Command {
        let mut command = command(&["hydrate", reference]);
        command.args(self.containerd()).arg("--config");
        command.arg(self.cluster.sandbox.path("plugin.toml"));
        command
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.args(arguments);
    command
}

fn ended(command: &mut Command) -> (i32, String) {
    let output = attempt(command, LIMIT).unwrap();
    (
        output.status.code().unwrap(),
        output.stdout + &output.stderr,
    )
}

pub(crate) fn json(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(text).unwrap()
}
