//! A long-running program: started, signalled, waited for, and killed when dropped.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command::{describe, tail};
use crate::error::{At, Error, Result};
use crate::wait;

/// A running program whose output goes to a log file. Dropping it kills it; when
/// the dropping thread panics, the end of the log is shown first.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; standard output and error are appended to `log`.
    ///
    /// It gets a process group of its own, so that Ctrl-C reaches only us and we
    /// stop it in order.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .at("open", log)?;
        let line = describe(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().at("share", log)?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn {
                command: line,
                source,
            })?;
        Ok(Self {
            name: name.into(),
            log: log.into(),
            child,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().at("wait for", &self.name)
    }

    /// Waits until `ready` yields something, and fails at once if the program ends.
    pub fn wait_ready<T>(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let what = format!("{} ready", self.name);
        let found = wait::until(&what, limit, || {
            if let Some(found) = ready() {
                return Ok(Some(found));
            }
            match self.ended()? {
                None => Ok(None),
                Some(status) => Err(Error::Failed {
                    command: self.name.clone(),
                    status: status.to_string(),
                    output: self.log_tail(),
                }),
            }
        });
        found.map_err(|e| self.explain(e))
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else {
            return Err(Error::unexpected(
                &self.name,
                "its process id is out of range",
            ));
        };
        kill_process(pid, signal).at("signal", &self.name)
    }

    /// Sends SIGTERM and waits until it has ended.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait(limit)
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.signal(Signal::KILL)?;
            self.child.wait().at("wait for", &self.name)?;
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        wait::until(&what, limit, || self.ended()).map_err(|e| self.explain(e))
    }

    /// The file that receives its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output.
    pub fn log_tail(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default(), 20)
    }

    /// The descriptors it has open, as the targets of their links.
    pub fn open_fds(&self) -> Result<Vec<String>> {
        let dir = format!("/proc/{}/fd", self.pid());
        let mut targets = Vec::new();
        for entry in fs::read_dir(&dir).at("list", &dir)? {
            let path = entry.at("list", &dir)?.path();
            // One that was closed meanwhile is no longer open.
            if let Ok(target) = fs::read_link(path) {
                targets.push(target.to_string_lossy().into_owned());
            }
        }
        targets.sort();
        Ok(targets)
    }

    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Deadline { what, limit, .. } => Error::Deadline {
                what,
                limit,
                detail: self.log_tail(),
            },
            other => other,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- end of the log of {} ---\n{}",
                self.name,
                self.log_tail()
            );
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
