//! What keeps a daemon from starting, and what it says then.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pontoon_rig::command::attempt;
use pontoon_rig::plugin::{Kind, Plugin, Setup, find_binary};
use pontoon_rig::sandbox::Sandbox;

use crate::daemon::Daemon;

/// Starts the daemon, which must fail; answers what it said.
#[track_caller]
fn fails(daemon: &mut Daemon) -> String {
    match daemon.plugin.resume() {
        Ok(()) => panic!("the daemon starts"),
        Err(error) => error.to_string(),
    }
}

/// All files directly in `root`, which a failed start must not change.
fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
        // The lock says who holds it.
        if entry.path().is_file() && entry.file_name() != "lock" {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn a_corrupt_database_is_left_as_it_is() {
    let mut daemon = Daemon::start();
    daemon.plugin.terminate().unwrap();
    let database = daemon.plugin.root().join("metadata.redb");
    let good = fs::read(&database).unwrap();
    let half = good[..good.len() / 2].to_vec();
    let noise: Vec<u8> = (0..good.len()).map(|at| (at * 31 % 251) as u8).collect();
    for bad in [noise, half, b"not a database".to_vec()] {
        fs::write(&database, &bad).unwrap();
        let before = files(daemon.plugin.root());
        let told = fails(&mut daemon);
        assert!(
            told.contains("pontoon fsck"),
            "it does not say what to do: {told}"
        );
        assert!(
            told.contains("metadata"),
            "it does not say what is damaged: {told}"
        );
        assert!(!told.contains("panicked"), "{told}");
        assert_eq!(files(daemon.plugin.root()).len(), before.len());
        assert!(
            files(daemon.plugin.root()) == before,
            "a failed start changed the database"
        );
    }
    fs::write(&database, &good).unwrap();
    daemon.plugin.resume().unwrap();
    daemon.assert_nothing_lost();
}

#[test]
fn a_root_has_one_daemon() {
    let mut daemon = Daemon::start();
    let pid = daemon.plugin.process().unwrap().pid().to_string();
    let Kind::Pontoon(name) = Kind::from_env() else {
        panic!("only Pontoon's daemons lock their root");
    };
    let mut command = Command::new(find_binary(&name).unwrap());
    command.arg("--root").arg(daemon.plugin.root());
    command
        .arg("--address")
        .arg(daemon.sandbox.path("other.sock"));
    let ended = attempt(&mut command, Duration::from_secs(20)).unwrap();
    assert!(!ended.status.success());
    let told = ended.stderr;
    assert!(
        told.contains(&pid),
        "it does not say who holds the root: {told}"
    );
    daemon.assert_nothing_lost();
}

/// What the daemon says to a configuration file with this text.
fn refuse(config: &str) -> String {
    let sandbox = Sandbox::new().unwrap();
    let setup = Setup {
        config: config.to_owned(),
        ..Setup::default()
    };
    match Plugin::start(&sandbox, setup) {
        Ok(_) => panic!("the daemon starts with {config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_config_with_a_typo_is_refused_with_the_line_and_the_word() {
    for (config, line, told) in [
        ("\n[overlayfs]\nsync_remov = true\n", ":3", "sync_remove"),
        ("[overlayf]\nsync_remove = true\n", ":1", "overlayfs"),
        ("[overlayfs]\n\nsync_remove = \"yes\"\n", ":3", "true"),
        ("[log]\nlevel = \"loud\"\n", ":2", "debug"),
        ("[log\n", ":1", ""),
        ("root = 5\n", ":1", ""),
    ] {
        let answer = refuse(config);
        assert!(
            answer.contains(&format!("plugin.toml{line}")),
            "{config:?}: {answer}"
        );
        assert!(answer.contains(told), "{config:?}: {answer}");
        assert!(answer.contains("64"), "{config:?}: {answer}");
    }
}

#[test]
fn a_socket_of_nobody_is_taken_over() {
    let mut daemon = Daemon::start();
    daemon.plugin.kill().unwrap();
    assert!(daemon.plugin.socket().exists());
    daemon.plugin.resume().unwrap();
    daemon.assert_nothing_lost();
}
