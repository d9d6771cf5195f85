//! A directory that is the root of a host: a real containerd and what our programs are linked with, and no more.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pontoon_rig::command::{Output, attempt, run};
use pontoon_rig::plugin::find_binary;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::tools::Tool;

use super::file;

const LIMIT: Duration = Duration::from_secs(120);

/// In systemd's place, which is nobody's to run but the first process's: notes what it is told, and knows what runs.
const SYSTEMCTL: &str = "#!/bin/sh
echo \"$*\" >>/systemctl.log
case $1 in
    is-active) [ -e \"/run/active-$3\" ] ;;
    start | restart) : >\"/run/active-$2\" ;;
    show) exec stat -c @%Y \"/run/active-$6\" ;;
    stop) rm -f \"/run/active-$2\" ;;
esac
";

/// The host and what is to be installed on it.
pub(crate) struct Host {
    sandbox: Sandbox,
}

impl Host {
    /// Has a containerd of `tool`, that nobody has configured.
    pub(crate) fn new(tool: Tool) -> Host {
        let sandbox = Sandbox::new().unwrap();
        let host = Host { sandbox };
        for directory in [
            "host/etc/containerd",
            "host/usr/local/bin",
            "host/usr/local/lib",
            "host/usr/bin",
            "host/bin",
            "host/run",
            "host/tmp",
            "files/bin",
            "config",
        ] {
            host.sandbox.subdir(directory).unwrap();
        }
        let containerd = tool.dir().unwrap().join("containerd");
        fs::copy(&containerd, host.path("usr/bin/containerd")).unwrap();
        let mut linked = vec![containerd];
        for name in ["pontoon", "pontoon-nydus", "pontoon-holder"] {
            let shipped = host.shipped(&format!("bin/{name}"));
            let built = find_binary(name).unwrap();
            // Without what is only for debuggers it is copied a few times sooner.
            run(
                Command::new("strip").arg("-o").arg(&shipped).arg(built),
                LIMIT,
            )
            .unwrap();
            linked.push(shipped);
        }
        for program in linked {
            host.copy_libraries(&program);
        }
        let from = file("dist/systemd");
        let to = host.shipped("systemd");
        run(Command::new("cp").arg("-r").arg(from).arg(to), LIMIT).unwrap();
        host
    }

    /// A path on the host.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.sandbox.path("host").join(path.trim_start_matches('/'))
    }

    /// A path among what is to be installed.
    pub(crate) fn shipped(&self, path: &str) -> PathBuf {
        self.sandbox.path("files").join(path)
    }

    /// Writes a file of the host.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The daemon's configuration that the cluster has for all nodes.
    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.sandbox.path("config/nydus.toml"), text).unwrap();
    }

    fn copy_libraries(&self, program: &Path) {
        // A static one has none, which is an error to `ldd`.
        let listed = attempt(Command::new("ldd").arg(program), LIMIT)
            .unwrap()
            .stdout;
        for library in listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let to = self.path(library);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
    }

    /// Has a shell and what stands for systemd.
    pub(crate) fn with_systemd(self) -> Host {
        let busybox = Tool::Debian12.dir().unwrap().join("busybox");
        for name in ["sh", "rm", "stat"] {
            fs::copy(&busybox, self.path("bin").join(name)).unwrap();
        }
        self.write("run/systemd/system/.keep", "");
        self.write("usr/bin/systemctl", SYSTEMCTL);
        let executable = Permissions::from_mode(0o755);
        fs::set_permissions(self.path("usr/bin/systemctl"), executable).unwrap();
        self
    }

    /// What systemd was told since it was last asked.
    pub(crate) fn systemd_was_told(&self) -> Vec<String> {
        let log = self.path("systemctl.log");
        let told = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(log);
        let lines = told
            .lines()
            .filter(|line| !line.starts_with("is-active") && !line.starts_with("show"));
        lines.map(str::to_owned).collect()
    }

    /// The installer, with `variables` for it.
    pub(crate) fn command(&self, verb: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new("sh");
        command
            .arg(file("dist/kubernetes/install.sh"))
            .arg(verb)
            .env("PONTOON_HOST", self.path(""))
            .env("PONTOON_FILES", self.shipped(""))
            .env("PONTOON_CONFIG", self.sandbox.path("config"))
            .env("PONTOON_READY", self.sandbox.path("ready"))
            .envs(variables.iter().copied());
        command
    }

    /// Whether the installer has said that all is done.
    pub(crate) fn is_ready(&self) -> bool {
        self.sandbox.path("ready").exists()
    }

    /// Runs the installer.
    pub(crate) fn attempt(&self, verb: &str, variables: &[(&str, &str)]) -> Output {
        attempt(&mut self.command(verb, variables), LIMIT).unwrap()
    }

    /// Runs the installer, which has to succeed, and answers what it said.
    pub(crate) fn run(&self, verb: &str, variables: &[(&str, &str)]) -> String {
        run(&mut self.command(verb, variables), LIMIT)
            .unwrap()
            .stdout
    }

    /// A command of the host.
    pub(crate) fn on_host(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("chroot");
        command.arg(self.path("")).arg(program).args(arguments);
        run(&mut command, LIMIT).unwrap().stdout
    }

    /// All files and links of the host and what is in them, but for what our stand-in keeps.
    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut tree = BTreeMap::new();
        let mut folders = vec![self.path("etc"), self.path("usr"), self.path("var")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_symlink() {
                    let target = fs::read_link(&path).unwrap();
                    tree.insert(path, target.into_os_string().into_encoded_bytes());
                } else if path.is_dir() {
                    folders.push(path);
                } else {
                    let data = fs::read(&path).unwrap();
                    tree.insert(path, data);
                }
            }
        }
        tree
    }
}
