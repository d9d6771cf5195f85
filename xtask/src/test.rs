//! `cargo xtask test [--full] [--rivals DIR]`: everything that proves the product.
//!
//! Installs the real programs while the workspace is built, runs the static checks, every test, and the documents'
//! commands. Nothing stops at the first failure; the last lines say what was skipped, what failed, and how many passed.
//!
//! Tests that need programs which only their makers build are ignored functions; where the folder with the programs is
//! named, by the option or by `PONTOON_RIVALS`, they run too.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use pontoon_rig::image;
use pontoon_rig::tools::{self, RIVALS, Tool};

use crate::{check_docs, tidy};

/// What came of the run so far.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    /// What was skipped, and what it needs.
    skipped: Vec<(String, String)>,
    /// What is different in this run of the tests, for those that fail.
    under: String,
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
                self.fail(&format!("of {target}"));
            }
            return;
        };
        if outcome.starts_with("ok") {
            self.passed += 1;
        } else if outcome.starts_with("FAILED") {
            self.fail(name);
        } else if let Some(reason) = outcome.strip_prefix("ignored, needs ") {
            // Other ignored functions are no tests: children that a test starts, makers of fixtures.
            let skipped = (name.to_owned(), reason.to_owned());
            if !self.skipped.contains(&skipped) {
                self.skipped.push(skipped);
            }
        }
    }

    fn fail(&mut self, name: &str) {
        self.failed.push(format!("{name}{}", self.under));
    }

    /// The names of what was skipped for want of rivals, which is forgotten.
    fn take_rivals(&mut self) -> Vec<String> {
        let is_rival = |(_, reason): &mut (String, String)| reason.contains(RIVALS);
        let taken = self.skipped.extract_if(.., is_rival);
        taken.map(|(name, _)| name).collect()
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
        for (name, reason) in &self.skipped {
            println!("skipped {name}: needs {reason}");
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

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    full: bool,
    rivals: Option<OsString>,
}

fn asked(arguments: &[String], rivals: Option<OsString>) -> Result<Asked, Box<dyn Error>> {
    let mut asked = Asked {
        full: false,
        rivals: rivals.filter(|folder| !folder.is_empty()),
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match (argument.as_str(), rest.as_slice()) {
            ("--full", _) => asked.full = true,
            ("--rivals", [folder, ..]) => {
                asked.rivals = Some(folder.into());
                rest.next();
            }
            _ => return Err("usage: cargo xtask test [--full] [--rivals DIR]".into()),
        }
    }
    Ok(asked)
}

/// Runs all checks and tests; `--full` adds the long forms, `--rivals` what needs programs that are in that folder.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let Asked { full, rivals } = asked(arguments, std::env::var_os(RIVALS))?;
    // Tests are run elsewhere.
    let rivals = rivals.map(|folder| {
        Path::new(&folder).canonicalize().map_err(|error| {
            let folder = folder.display();
            format!("the folder with rivals' programs, {folder}: {error}")
        })
    });
    let rivals = rivals.transpose()?;
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
        let lazy = ["--package", "pontoon-integration", "--test", "lazy"];
        // What the kernel served before, where it can.
        let fuse = ("PONTOON_FRONT_END", OsStr::new("fuse"));
        run_tests(root, full, &lazy, Some(fuse), &mut tally)?;
        // The other daemon does all that this one does. Its long forms are the same code's.
        let nydus = ("PONTOON_LAZY_PLUGIN", OsStr::new("pontoon-nydus"));
        run_tests(root, false, &lazy, Some(nydus), &mut tally)?;
    }
    if let Some(rivals) = &rivals {
        with_rivals(root, full, rivals, &mut tally)?;
    }
    tally.check("documents", || check_docs::run(root));
    tally.report(started)
}

/// Runs what was skipped for want of rivals, in whichever run.
fn with_rivals(
    root: &Path,
    full: bool,
    folder: &Path,
    tally: &mut Tally,
) -> Result<(), Box<dyn Error>> {
    let names = tally.take_rivals();
    if names.is_empty() {
        // Without a name all that is ignored would run.
        tally.fail(&format!("no test needs {RIVALS}"));
        return Ok(());
    }
    let tests = ["--workspace", "--tests", "--", "--ignored", "--exact"];
    let names = names.iter().map(String::as_str);
    let which: Vec<&str> = tests.into_iter().chain(names).collect();
    run_tests(
        root,
        full,
        &which,
        Some((RIVALS, folder.as_os_str())),
        tally,
    )
}

/// Runs the Rust tests of `which`, their output passed on line by line.
fn run_tests(
    root: &Path,
    full: bool,
    which: &[&str],
    variable: Option<(&str, &OsStr)>,
    tally: &mut Tally,
) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--no-fail-fast"])
        .args(which)
        .current_dir(root)
        .env_remove("PONTOON_FULL")
        .env_remove("PONTOON_FRONT_END")
        .env_remove("PONTOON_LAZY_PLUGIN")
        .env_remove(RIVALS)
        .envs(variable);
    tally.under = variable.map_or_else(String::new, |(name, value)| {
        format!(" under {name}={}", value.display())
    });
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
    use super::{Asked, Tally, asked};

    #[test]
    fn counts_what_cargo_prints() {
        let mut tally = Tally::default();
        for line in [
            "     Running tests/main.rs (target/debug/deps/lazy_path-0a1b2c)",
            "running 4 tests",
            "test a::passes ... ok",
            "test b ... FAILED",
            "test c ... ignored, needs another kernel",
            "test e ... ignored, needs nerdctl in the folder PONTOON_RIVALS",
            "test e ... ignored, needs nerdctl in the folder PONTOON_RIVALS",
            "test child ... ignored, the child process of the next test",
            "test d has been running for over 60 seconds",
            "test result: FAILED. 1 passed; 1 failed; 0 measured; 0 filtered out; finished in 12.34s",
            "   Doc-tests pontoon_layer",
            "test result: ok. 0 passed; 0 filtered out; finished in 0.00s",
        ] {
            tally.read(line);
        }
        assert_eq!((tally.passed, &*tally.failed), (1, &["b".to_owned()][..]));
        // Told once, however often it was skipped.
        assert_eq!(tally.skipped.len(), 2);
        assert_eq!(tally.take_rivals(), ["e"]);
        let rest = ("c".to_owned(), "another kernel".to_owned());
        assert_eq!(tally.skipped, [rest]);
        tally.under = " under A=b".into();
        tally.read("test f ... FAILED");
        assert_eq!(tally.failed, ["b", "f under A=b"]);
        let times = [("lazy_path", 12.34), ("documents of pontoon_layer", 0.0)];
        assert_eq!(
            tally.times,
            times.map(|(name, time)| (name.to_owned(), time))
        );
    }
    #[test]
    fn reads_what_was_asked_for() {
        let read = |line: &str, told: Option<&str>| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            asked(&words, told.map(Into::into)).ok()
        };
        let with = |full, rivals: Option<&str>| {
            let rivals = rivals.map(Into::into);
            Some(Asked { full, rivals })
        };
        assert_eq!(read("", None), with(false, None));
        assert_eq!(read("--full", Some("")), with(true, None));
        assert_eq!(read("--rivals a --full", Some("b")), with(true, Some("a")));
        assert_eq!(read("", Some("b")), with(false, Some("b")));
        assert_eq!(read("--rivals", None), None);
        assert_eq!(read("--fast", None), None);
    }
}
