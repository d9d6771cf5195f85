//! containerd's own snapshotter suite on the plugin.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pontoon_rig::command::attempt;
use pontoon_rig::plugin::{Kind, Plugin, Setup};
use pontoon_rig::sandbox::{Sandbox, mounts_below};
use pontoon_rig::tools::Tool;

use crate::stage::{NYDUS, front_end};

/// How many cases the suite of 2.3 has.
const CASES: usize = 21;

#[test]
fn containerd_2_3_suite_passes() {
    suite_passes(Kind::lazy_from_env(), &front_end());
}

#[test]
fn containerd_2_3_suite_passes_on_fuse() {
    suite_passes(Kind::lazy_from_env(), "fuse");
}

#[test]
fn containerd_2_3_suite_passes_on_the_plugin_for_nydus() {
    suite_passes(Kind::Pontoon(NYDUS.into()), &front_end());
}

fn suite_passes(kind: Kind, front_end: &str) {
    let sandbox = Sandbox::new().unwrap();
    let config = match kind {
        Kind::Stargz => String::new(),
        _ => format!("[lazy]\nfront_end = {front_end:?}\n"),
    };
    let setup = Setup {
        kind,
        config,
        ..Setup::default()
    };
    let mut plugin = Plugin::start(&sandbox, setup).unwrap();
    let mut command = Command::new(Tool::Suites.dir().unwrap().join("suite.test"));
    command.arg("-address").arg(plugin.socket());
    command.args(["-test.root", "-test.v"]);
    command.env("TMPDIR", sandbox.path("tmp"));
    let output = attempt(&mut command, Duration::from_mins(3)).unwrap();
    let results = output.stdout.lines().map(str::trim);
    let results: Vec<&str> = results.filter(|line| line.starts_with("--- ")).collect();
    let passed = results
        .iter()
        .filter(|line| line.starts_with("--- PASS: TestSnapshotter/"));
    assert_eq!(passed.count(), CASES, "{results:#?}");
    assert!(output.status.success(), "{results:#?}");
    assert!(plugin.terminate().unwrap().success());
    let left = mounts_below(sandbox.dir()).unwrap();
    assert_eq!(left, Vec::<PathBuf>::new(), "mounts left behind");
}
