//! containerd's own snapshotter suites over the socket of the plugin.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pontoon_rig::command::attempt;
use pontoon_rig::plugin::{Kind, Plugin, Setup};
use pontoon_rig::sandbox::{Sandbox, mounts_below};
use pontoon_rig::tools::Tool;

/// The suites of 1.7 and 2.3 both have this many cases.
const CASES: usize = 21;

fn run_suite(suite: &str, setup: Setup) {
    let sandbox = Sandbox::new().unwrap();
    let mut plugin = Plugin::start(&sandbox, setup).unwrap();
    let program = Tool::Suites.dir().unwrap().join(suite);
    let mut command = Command::new(program);
    command
        .arg("-address")
        .arg(plugin.socket())
        .args(["-test.root", "-test.v"]);
    command.env("TMPDIR", sandbox.path("tmp"));
    let output = attempt(&mut command, Duration::from_mins(3)).unwrap();
    let results = output
        .stdout
        .lines()
        .filter(|line| line.trim_start().starts_with("--- "));
    let results: Vec<&str> = results.map(str::trim).collect();
    let passed = results
        .iter()
        .filter(|line| line.starts_with("--- PASS: TestSnapshotter/"));
    assert_eq!(
        passed.count(),
        CASES,
        "{results:#?}\n{}",
        failure_lines(&output.stdout)
    );
    assert!(output.status.success(), "{results:#?}");
    assert_eq!(
        mounts_below(sandbox.dir()).unwrap(),
        Vec::<&Path>::new(),
        "mounts left behind"
    );
    assert!(
        plugin.terminate().unwrap().success(),
        "the plugin did not end well"
    );
}

/// What the failed cases said; their debug logs are left out.
fn failure_lines(text: &str) -> String {
    let wanted = text.lines().filter(|line| !line.contains("log_hook.go"));
    wanted
        .map(|line| line.chars().take(300).collect::<String>() + "\n")
        .collect()
}

#[test]
fn containerd_2_3_suite_passes() {
    run_suite("suite.test", Setup::default());
}

#[test]
fn containerd_1_7_suite_passes() {
    run_suite("suite-1.7.test", Setup::default());
}

/// The suites are valid: containerd's own snapshotter passes them.
#[test]
fn containerd_2_3_suite_passes_on_the_oracle() {
    run_suite(
        "suite.test",
        Setup {
            kind: Kind::Oracle,
            ..Setup::default()
        },
    );
}
