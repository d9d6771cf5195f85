//! Starts daemons and ends them, also when a test fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pontoon_proto::client::Client;
use pontoon_snapshot::{Key, Keyspaces, Snapshotter, SnapshotterName};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::Arc;

/// How long anything may take that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pontoon-overlayfs");

/// A directory for one test, with a daemon's root and sockets in it.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("root")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("s.sock")
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.path("s-admin.sock")
    }

    /// Writes a configuration and answers its path.
    pub(crate) fn config(&self, text: &str) -> PathBuf {
        let path = self.path("config.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// The arguments that put a daemon here.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            "--root".to_owned(),
            text(self.root()),
            "--address".to_owned(),
            text(self.socket()),
        ]
    }

    /// The command that starts a daemon here.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.args(self.arguments());
        command
    }

    /// Starts `command` and waits until it serves.
    pub(crate) fn start(&self, command: &mut Command) -> Daemon {
        let daemon = self.spawn(command);
        daemon.wait_for("\"serving\" in the log", || {
            daemon.log().contains("serving")
        });
        daemon
    }

    /// Starts `command` and does not wait.
    pub(crate) fn spawn(&self, command: &mut Command) -> Daemon {
        let log = self.path("stderr");
        let stderr = File::create(&log).unwrap();
        let child = command
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Daemon { child, log }
    }

    /// A keyspace of the daemon that serves here.
    pub(crate) fn keyspace(&self, name: &str) -> Arc<dyn Snapshotter> {
        let client = Client::with_deadline(&self.socket(), PATIENCE).unwrap();
        client.open(&SnapshotterName::new(name).unwrap()).unwrap()
    }
}

/// A running daemon; killed when this is dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as systemd does and answers what it exited with.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().code()
    }

    /// Waits until `condition` holds; `what` is said if it never does.
    pub(crate) fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        assert!(holds(condition), "no {what}:\n{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `condition` holds within the patience.
pub(crate) fn holds(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// What a daemon that does not start says and exits with.
pub(crate) fn refusal(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A file of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}
