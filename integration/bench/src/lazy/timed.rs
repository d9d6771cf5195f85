//! Programs that are run to their end, with the moment of one line of their output.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pontoon_rig::wait;

/// How long one program may take.
const LIMIT: Duration = Duration::from_mins(3);

/// How often it is seen whether the user has had enough.
const PERIOD: Duration = Duration::from_millis(100);

/// A child that does not outlive this value.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // It has ended, mostly.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// When something happened to a program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    /// It was started.
    pub(super) began: Instant,
    /// It printed the line that was waited for; its end if there was none.
    pub(super) line: Instant,
}

/// Runs `command` to its end and tells when it printed `line`. Without a line, when it ended.
pub(super) fn run(command: &mut Command, line: Option<&str>) -> Result<Moments, Box<dyn Error>> {
    let mut errors: File = tempfile::tempfile()?;
    let began = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors.try_clone()?)
        // Ctrl-C reaches only us, and we end it in order.
        .process_group(0)
        .spawn()?;
    let mut child = Kept(child);
    let output = child.0.stdout.take().ok_or("a program without output")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for text in BufReader::new(output).lines().map_while(Result::ok) {
            // Nobody waits any more.
            let _ = sender.send((Instant::now(), text));
        }
    });
    let mut found = None;
    let mut printed = String::new();
    let ended = loop {
        match lines.recv_timeout(PERIOD) {
            Ok((at, text)) => {
                if line.is_some_and(|line| text == line) {
                    found.get_or_insert(at);
                }
                printed.push_str(&text);
                printed.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break Instant::now(),
            Err(RecvTimeoutError::Timeout) => {
                wait::check_interrupt()?;
                if began.elapsed() > LIMIT {
                    return Err(format!("not done after {LIMIT:?}: {command:?}").into());
                }
            }
        }
    };
    let status = child.0.wait()?;
    if !status.success() || (line.is_some() && found.is_none()) {
        let mut text = String::new();
        errors.rewind()?;
        errors.read_to_string(&mut text)?;
        return Err(format!("{status}: {command:?}\n{printed}{text}").into());
    }
    Ok(Moments {
        began,
        line: found.unwrap_or(ended),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_what_counts_and_a_failure_tells_what_was_printed() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        // Long after the line, so that a busy machine, which sees the line late, is no failure.
        let script = "sleep 0.1; echo ready; sleep 2";
        let moments = run(&mut shell(script), Some("ready")).expect("it prints the line");
        assert!(moments.line >= moments.began + PERIOD);
        assert!(moments.line.elapsed() >= PERIOD);
        let error = run(&mut shell("echo other; echo why >&2"), Some("ready"));
        let text = error.expect_err("it does not").to_string();
        assert!(text.contains("other\nwhy"), "{text}");
        assert!(run(&mut shell("exit 3"), None).is_err());
    }
}
