//! The lazy snapshotters of others: their programs, their configuration, their images.
//!
//! The programs are looked for in the folder that `--rivals` names. Each is configured as its own documentation does,
//! but for what a private containerd, a plain registry and a machine without systemd make necessary.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pontoon_rig::command;
use pontoon_rig::image::Workload;
use pontoon_rig::process::Process;
use pontoon_rig::sandbox::Sandbox;
use serde_json::json;

use super::node::{Column, Node, Settings};
use super::store::{Form, Store};
use super::timed;

/// How long a rival's daemon may take to start.
const START: Duration = Duration::from_secs(20);

/// How long a conversion may take.
const CONVERSION: Duration = Duration::from_mins(10);

/// nydusd as version 2.2.0 is called by its snapshotter's 0.15: one option got another name, and it may not raise the
/// limit of open files here.
const NYDUSD: &str = r#"#!/bin/bash
arguments=()
for argument; do
    [ "$argument" = --thread-num ] && argument=--fuse-threads
    arguments+=("$argument")
done
exec "$NYDUSD" "${arguments[@]}" --rlimit-nofile 0
"#;

/// A lazy snapshotter of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rival {
    Stargz,
    /// With or without fetching all of an image ahead.
    Nydus {
        ahead: bool,
    },
    Soci,
}

/// A rival's daemon at work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) socket: PathBuf,
    pub(super) root: PathBuf,
    process: Process,
}

impl Running {
    /// Its log.
    pub(super) fn log(&self) -> String {
        self.process.log_tail()
    }
}

impl Rival {
    /// The programs that it needs: to run, and to make its images.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Rival::Stargz => &["containerd-stargz-grpc"],
            Rival::Nydus { .. } => &["containerd-nydus-grpc", "nydusd", "nydus-image", "nerdctl"],
            Rival::Soci => &["soci-snapshotter-grpc", "soci"],
        }
    }

    /// The first program that is not in `dir`.
    pub(super) fn missing(self, dir: &Path) -> Option<&'static str> {
        let mut programs = self.programs().iter();
        programs.find(|name| !dir.join(name).is_file()).copied()
    }

    /// Starts it; `registry` speaks plain HTTP, and containerd will listen at `containerd`.
    pub(super) fn start(
        self,
        sandbox: &Sandbox,
        programs: &Path,
        registry: &str,
        containerd: &Path,
    ) -> Result<Running, Box<dyn Error>> {
        let (socket, root) = (sandbox.path("rival.sock"), sandbox.subdir("rival")?);
        let config = sandbox.path("rival.toml");
        let text = match self {
            Rival::Stargz => stargz(registry),
            Rival::Soci => soci(registry, containerd),
            Rival::Nydus { ahead } => nydus(sandbox, programs, &root, &socket, ahead)?,
        };
        fs::write(&config, text)?;
        let mut command = Command::new(programs.join(self.programs()[0]));
        command
            .arg("--root")
            .arg(&root)
            .arg("--config")
            .arg(&config);
        command.arg("--address").arg(&socket);
        command.env("NYDUSD", programs.join("nydusd"));
        let log = sandbox.path("rival.log");
        let mut process = Process::start(self.programs()[0], &mut command, &log)?;
        process.wait_ready(START, || UnixStream::connect(&socket).ok())?;
        Ok(Running {
            socket,
            root,
            process,
        })
    }
}

fn stargz(registry: &str) -> String {
    format!("[[resolver.host.\"{registry}\".mirrors]]\nhost = \"{registry}\"\ninsecure = true\n")
}

fn soci(registry: &str, containerd: &Path) -> String {
    format!(
        "metadata_store = \"db\"\n\
         [content_store]\ntype = \"soci\"\ncontainerd_address = {containerd:?}\n\
         [pull_modes.soci_v2]\nenable = true\n\
         [[resolver.host.\"{registry}\".mirrors]]\n\
         host = \"http://{registry}\"\ninsecure = true\n"
    )
}

fn nydus(
    sandbox: &Sandbox,
    programs: &Path,
    root: &Path,
    socket: &Path,
    ahead: bool,
) -> Result<String, Box<dyn Error>> {
    // As nydus-snapshotter ships it, but for the scheme.
    let daemon = json!({
        "device": {
            "backend": {
                "type": "registry",
                "config": {
                    "scheme": "http",
                    "timeout": 5,
                    "connect_timeout": 5,
                    "retry_limit": 2,
                },
            },
            "cache": {"type": "blobcache"},
        },
        "mode": "direct",
        "digest_validate": false,
        "iostats_files": false,
        "enable_xattr": true,
        "amplify_io": 1 << 20,
        "fs_prefetch": {
            "enable": ahead,
            "threads_count": 8,
            "merging_size": 1 << 20,
            "prefetch_all": ahead,
        },
    });
    let path = sandbox.path("nydusd.json");
    fs::write(&path, daemon.to_string())?;
    let program = sandbox.path("nydusd");
    fs::write(&program, NYDUSD)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let image = programs.join("nydus-image");
    Ok(format!(
        "version = 1\nroot = {root:?}\naddress = {socket:?}\ndaemon_mode = \"dedicated\"\n\
         [system]\nenable = false\n\
         [daemon]\nnydusd_config = {path:?}\nnydusd_path = {program:?}\n\
         nydusimage_path = {image:?}\nfs_driver = \"fusedev\"\nrecover_policy = \"none\"\n\
         threads_number = 4\n\
         [cgroup]\nenable = false\n\
         [log]\nlog_to_stdout = true\nlevel = \"info\"\n\
         [metrics]\naddress = \"\"\n"
    ))
}

/// Has the owners' tools make their images of `workload` from the plain one, and stores them.
pub(super) fn convert(
    store: &mut Store,
    workload: Workload,
    forms: &[Form],
    settings: &Settings,
) -> Result<(), Box<dyn Error>> {
    let Some(programs) = &settings.rivals else {
        return Ok(());
    };
    let node = Node::start(Column::Overlayfs, store, workload, settings)?;
    let plain = store.image(workload, Form::Plain)?.reference.clone();
    timed::run(&mut node.pull(&plain), None)?;
    let containerd = &node.containerd;
    for &form in forms {
        let to = store.reference(workload, form);
        let mut tool = match form {
            Form::Nydus => {
                let mut tool = Command::new(programs.join("nerdctl"));
                tool.args(["image", "convert", "--nydus", "--oci"]);
                tool.arg("--nydus-builder-path");
                tool.arg(programs.join("nydus-image"));
                tool
            }
            Form::Soci => {
                let mut tool = Command::new(programs.join("soci"));
                tool.arg("convert");
                tool
            }
            _ => continue,
        };
        let namespace = containerd.namespace();
        tool.env("CONTAINERD_ADDRESS", containerd.socket());
        tool.env("CONTAINERD_NAMESPACE", namespace);
        tool.env("TMPDIR", node.sandbox.path("tmp"));
        tool.env("HOME", node.sandbox.path("tmp"));
        tool.args([&plain, &to]);
        command::run(&mut tool, CONVERSION)?;
        containerd.ctr(["images", "push", "--plain-http", &to])?;
        let bytes = store.adopt(workload, form)?;
        eprintln!(
            "{} as {}: {} MB",
            workload.name(),
            form.name(),
            bytes / 1_000_000
        );
    }
    Ok(())
}
