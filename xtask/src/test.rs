//! `cargo xtask test [--full]`: everything that proves the product.
//!
//! Installs the real programs while the workspace is built, runs the static checks, every test, and the documents'
//! commands. Nothing stops at the first failure; the last lines say what was skipped, what failed, and how many passed.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use pontoon_rig::image;
use pontoon_rig::tools::{self, Tool};

use crate::{check_docs, tidy};

/// What came of the run so far.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    /// The program of tests that runs.
    program: String,
    /// How long each took, in seconds.
    times: Vec<(String, f32)>,
}

/// How many of the longest are told.
const TOLD: usize = 20;

impl Tally {
    /// Runs one check that is not a Rust test.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<(), Box<dyn Error>>) {
        println!("test: {name}");
        let started = Instant::now();
        match check() {
            Ok(()) => {
                self.passed += 1;
                println!(
                    "test: {name}: passed in {:.0} s",
                    started.elapsed().as_secs_f32()
                );
            }
            Err(error) => {
                println!("test: {name}: FAILED: {error}");
                self.failed.push(name.into());
            }
        }
    }

    /// Reads one line of what `cargo test` prints.
    fn read(&mut self, line: &str) {
        let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            self.read_program(line);
            // A program of tests that could not be built or that crashed names no test.
            if let Some(target) = line.strip_prefix("error: test failed, to rerun pass ") {
                self.failed.push(format!("of {target}"));
            }
            return;
        };
        if outcome.starts_with("ok") {
            self.passed += 1;
        } else if outcome.starts_with("FAILED") {
            self.failed.push(name.into());
        } else if let Some(reason) = outcome.strip_prefix("ignored, needs ") {
            // Other ignored functions are no tests: children that a test starts, makers of fixtures.
            self.skipped.push(format!("{name}: needs {reason}"));
        }
    }

    /// Reads which program runs, and how long one took.
    fn read_program(&mut self, line: &str) {
        let trimmed = line.trim_start();
        if let Some((_, path)) = trimmed
            .strip_prefix("Running ")
            .and_then(|rest| rest.split_once('('))
        {
            // `target/debug/deps/name-hash)`
            let file = path.trim_end_matches(')').rsplit('/').next();
            let name = file.and_then(|file| file.rsplit_once('-'));
            self.program = name.map_or(path, |(name, _)| name).to_owned();
        } else if let Some(name) = trimmed.strip_prefix("Doc-tests ") {
            self.program = format!("documents of {name}");
        } else if let Some((_, time)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once("finished in "))
            && let Ok(seconds) = time.trim_end_matches('s').parse()
        {
            self.times
                .push((std::mem::take(&mut self.program), seconds));
        }
    }

    fn report(&self, started: Instant) -> Result<(), Box<dyn Error>> {
        println!();
        let mut times: Vec<_> = self.times.iter().collect();
        times.sort_by(|one, other| other.1.total_cmp(&one.1));
        for (program, seconds) in times.into_iter().take(TOLD) {
            println!("{seconds:.0} s of it: {program}");
        }
        for skipped in &self.skipped {
            println!("skipped {skipped}");
        }
        for failed in &self.failed {
            println!("failed {failed}");
        }
        let minutes = started.elapsed().as_secs_f32() / 60.0;
        let (passed, failed, skipped) = (self.passed, self.failed.len(), self.skipped.len());
        println!("{passed} passed, {failed} failed, {skipped} skipped in {minutes:.1} minutes");
        if failed == 0 {
            Ok(())
        } else {
            Err("some tests failed; see above".into())
        }
    }
}

/// Runs all checks and tests; `--full` adds the long forms.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let full = match arguments {
        [] => false,
        [flag] if flag == "--full" => true,
        _ => return Err("usage: cargo xtask test [--full]".into()),
    };
    let started = Instant::now();
    let mut tally = Tally::default();
    // The installation mostly waits for the network or for the Go linker.
    thread::scope(|scope| {
        let installing = scope.spawn(|| {
            let install = tools::install(&Tool::ALL, || image::debian().map(drop));
            install.map_err(|error| format!("{error:?}"))
        });
        tally.check("format", || cargo(root, &["fmt", "--all", "--check"]));
        tally.check("tidy", || tidy::run(root));
        tally.check("clippy", || {
            let lints = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ];
            cargo(root, &lints)
        });
        tally.check("build", || cargo(root, &["build", "--workspace"]));
        tally.check("installation of the real programs", || {
            installing
                .join()
                .unwrap_or_else(|_| Err("the installer panicked".into()))?;
            Ok(())
        });
    });
    run_tests(root, full, &["--workspace"], None, &mut tally)?;
    if full {
        // What the kernel served before, where it can.
        let lazy = ["--package", "pontoon-integration", "--test", "lazy"];
        let fuse = ("PONTOON_FRONT_END", "fuse");
        run_tests(root, full, &lazy, Some(fuse), &mut tally)?;
    }
    tally.check("documents", || check_docs::run(root));
    tally.report(started)
}

/// Runs the Rust tests of `which`, their output passed on line by line.
fn run_tests(
    root: &Path,
    full: bool,
    which: &[&str],
    variable: Option<(&str, &str)>,
    tally: &mut Tally,
) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--no-fail-fast"])
        .args(which)
        .current_dir(root)
        .env_remove("PONTOON_FULL")
        .env_remove("PONTOON_FRONT_END")
        .envs(variable);
    if full {
        command.env("PONTOON_FULL", "1");
    }
    // In one, so that it is known which program of tests says what.
    let (output, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // Its ends of the pipe; there is no end of the output before they are closed.
    drop(command);
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        tally.read(&line);
    }
    let status = child.wait()?;
    if !status.success() && tally.failed.is_empty() {
        tally.failed.push(format!("cargo test ({status})"));
    }
    Ok(())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root)
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("cargo {} ended with {status}", arguments.join(" ")).into())
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn counts_what_cargo_prints() {
        let mut tally = Tally::default();
        for line in [
            "     Running tests/main.rs (target/debug/deps/lazy_path-0a1b2c)",
            "running 4 tests",
            "test a::passes ... ok",
            "test b ... FAILED",
            "test c ... ignored, needs another kernel",
            "test child ... ignored, the child process of the next test",
            "test d has been running for over 60 seconds",
            "test result: FAILED. 1 passed; 1 failed; 0 measured; 0 filtered out; finished in 12.34s",
            "   Doc-tests pontoon_layer",
            "test result: ok. 0 passed; 0 filtered out; finished in 0.00s",
        ] {
            tally.read(line);
        }
        assert_eq!((tally.passed, tally.failed), (1, vec!["b".to_owned()]));
        assert_eq!(tally.skipped, ["c: needs another kernel"]);
        let times = [("lazy_path", 12.34), ("documents of pontoon_layer", 0.0)];
        assert_eq!(
            tally.times,
            times.map(|(name, time)| (name.to_owned(), time))
        );
    }
}
