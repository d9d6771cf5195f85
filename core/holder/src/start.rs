//! Starting a holder where no service manager does.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Client, Error, Result};

/// The name of the holder's program.
pub const PROGRAM: &str = "pontoon-holder";

/// How long a holder may take to listen, which takes it milliseconds; on a busy machine more.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How long the holder of a daemon that is a unit may take: its own unit starts it.
const UNIT_PATIENCE: Duration = Duration::from_secs(2);

const PAUSE: Duration = Duration::from_millis(5);

/// The program beside this process's own.
pub fn program_beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    // That of a daemon that was replaced has "(deleted)" in its name, its directory has not.
    own.with_file_name(PROGRAM)
}

/// Whether this process is the main one of a systemd unit (systemd.exec(5), `SYSTEMD_EXEC_PID`): then there is another
/// unit for the holder, since what a unit has started ends with it.
pub fn is_unit() -> bool {
    std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == std::process::id().to_string())
}

/// Connects to the holder of `directory`, and starts `program` if there is none; as a unit it waits for the other unit
/// first.
pub(crate) fn connect_or_start(program: &Path, directory: &Path, unit: bool) -> Result<Client> {
    let failed = |source| Error::Start {
        directory: directory.to_owned(),
        program: program.to_owned(),
        source,
    };
    let patience = if unit { UNIT_PATIENCE } else { Duration::ZERO };
    if let Some(client) = connect_within(directory, patience)? {
        return Ok(client);
    }
    if unit {
        tracing::warn!(
            "no unit has started pontoon-holder; starting one in this daemon's own unit, with which it ends: install its unit"
        );
    }
    // The first process ends at once, so that the second one is nobody's child.
    let status = Command::new(program)
        .arg("--detach")
        .arg(directory)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(failed)?;
    if !status.success() {
        return Err(failed(io::Error::other(status.to_string())));
    }
    let client = connect_within(directory, START_PATIENCE)?;
    client.ok_or_else(|| failed(io::ErrorKind::TimedOut.into()))
}

fn connect_within(directory: &Path, patience: Duration) -> Result<Option<Client>> {
    let begun = Instant::now();
    loop {
        if let Some(client) = Client::connect(directory)? {
            return Ok(Some(client));
        }
        if begun.elapsed() >= patience {
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}
