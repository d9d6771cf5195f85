//! `pontoon-holder`: keeps FUSE connections while no daemon serves them. See the library.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use pontoon_holder::{Options, serve};

const USAGE: &str = "\
Usage: pontoon-holder [--stay | --detach] DIRECTORY
       pontoon-holder --open PATH...
       pontoon-holder --version

Keeps what daemons give it over DIRECTORY/socket, and closes it when no daemon comes back.
  --stay    do not end when there is nothing to keep: for a service manager
  --detach  run in the background, in a session of its own
  --open    open and close files, list directories, and end: what a daemon cannot do itself on what it serves";

/// EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let texts: Vec<_> = arguments.iter().map(|argument| argument.to_str()).collect();
    match texts.as_slice() {
        [Some("--version")] => {
            println!("pontoon-holder {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        [Some("--help" | "-h")] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        [Some("--open"), _, ..] => open(arguments.iter().skip(1).map(PathBuf::from)),
        [Some("--detach"), _] => detach(arguments.last().map(PathBuf::from).unwrap_or_default()),
        [Some("--stay"), _] => keep(
            arguments.last().map(PathBuf::from).unwrap_or_default(),
            true,
        ),
        [text] if !text.is_some_and(|text| text.starts_with('-')) => keep(
            arguments.last().map(PathBuf::from).unwrap_or_default(),
            false,
        ),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Starts itself once more and ends.
fn detach(directory: PathBuf) -> ExitCode {
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
    });
    match started {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("cannot start in the background: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn keep(directory: PathBuf, stay: bool) -> ExitCode {
    // It fails where it leads a session already: started by a service manager.
    let _ = rustix::process::setsid();
    // Whatever is short of memory must not end what all containers wait for.
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        say(&format!("it may be killed when memory is short: {error}"));
    }
    let ready = || {
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            say(&format!("the service manager was not notified: {error}"));
        }
    };
    match serve(&Options { directory, stay }, ready, say) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = std::error::Error::source(&error);
            let source = source.map(|source| format!(": {source}"));
            say(&format!("{error}{}", source.unwrap_or_default()));
            ExitCode::FAILURE
        }
    }
}

fn open(paths: impl Iterator<Item = PathBuf>) -> ExitCode {
    for path in paths {
        let opened = match path.is_dir() {
            true => fs::read_dir(&path).map(drop),
            false => fs::File::open(&path).map(drop),
        };
        if let Err(error) = opened {
            say(&format!("cannot open {}: {error}", path.display()));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// A line of the log. Whoever reads it may be gone.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "pontoon-holder: {line}");
}
