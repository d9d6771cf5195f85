//! Running a program to its end, with its output kept and a limit on its time.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{At, Error, Result};
use crate::wait;

/// What a program printed before it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, trailing line feeds removed.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

/// Runs `command`, whatever its exit status. It is killed after `limit`.
pub fn attempt(command: &mut Command, limit: Duration) -> Result<Output> {
    let line = describe(command);
    // Files, not pipes: a program that leaves a daemon behind would hold a pipe open.
    let mut out = tempfile::tempfile().at("create", "a temporary file")?;
    let mut err = tempfile::tempfile().at("create", "a temporary file")?;
    let started = Instant::now();
    let clone = |file: &File| file.try_clone().at("share", "a temporary file");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(clone(&out)?)
        .stderr(clone(&err)?)
        // Ctrl-C reaches only us: the wait below ends, and the program is killed in order.
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Spawn {
            command: line.clone(),
            source,
        })?;
    let ended = wait::until(&line, limit, || {
        child.try_wait().map_err(|source| Error::Spawn {
            command: line.clone(),
            source,
        })
    });
    let elapsed = started.elapsed();
    if ended.is_err() {
        // It may have ended meanwhile; then there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
    }
    let stdout = read(&mut out)?;
    let stderr = read(&mut err)?;
    match ended {
        Ok(status) => Ok(Output {
            status,
            stdout,
            stderr,
            elapsed,
        }),
        Err(Error::Deadline { what, limit, .. }) => Err(Error::Deadline {
            what,
            limit,
            detail: tail(&format!("{stdout}{stderr}"), 20),
        }),
        Err(other) => Err(other),
    }
}

/// Runs `command` and fails unless it ended with success within `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let output = attempt(command, limit)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::Failed {
        command: describe(command),
        status: output.status.to_string(),
        output: tail(&format!("{}\n{}", output.stdout, output.stderr), 40),
    })
}

/// The command line, for messages.
pub(crate) fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or(&program).to_owned();
    let args = command.get_args().map(|a| a.to_string_lossy().into_owned());
    let line = std::iter::once(name)
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ");
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// The last `lines` lines of `text`, long ones cut.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let last = all[all.len().saturating_sub(lines)..].iter();
    let cut = last.map(|line| line.chars().take(400).collect::<String>());
    cut.collect::<Vec<_>>().join("\n")
}

fn read(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind().at("rewind", "a temporary file")?;
    file.read_to_end(&mut bytes)
        .at("read", "a temporary file")?;
    Ok(String::from_utf8_lossy(&bytes)
        .trim_end_matches('\n')
        .to_owned())
}
