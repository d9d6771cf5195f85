//! What is shipped beside the programs: the installer for nodes, the manifests of the cluster, dashboard and alerts.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

mod host;
mod installer;
mod manifests;
mod monitoring;

use std::fs;
use std::path::PathBuf;

use pontoon_rig::checkout;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    checkout::root().join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}
