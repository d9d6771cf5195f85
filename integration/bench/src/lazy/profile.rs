//! The order of an earlier start, handed from one node to another as an operator does it: with the `pontoon` command.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pontoon_rig::gate::Link;
use pontoon_rig::image::Workload;
use pontoon_rig::plugin::find_binary;
use pontoon_rig::{command, wait};

use super::node::{Column, Daemon, Node, Settings};
use super::store::Store;
use super::timed;

/// How long one call of the command may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How long after a start it is known what it read: a start is over when it was quiet for a while.
const LEARNING: Duration = Duration::from_mins(2);

/// Whether the command knows of profiles.
pub(super) fn is_there() -> bool {
    let Ok(program) = find_binary("pontoon") else {
        return false;
    };
    let mut help = Command::new(program);
    let told = command::attempt(help.args(["profile", "--help"]), LIMIT);
    told.is_ok_and(|told| told.status.success())
}

/// Starts `workload` once on a node of its own, as `column` has it, and writes what was learned to a file in `dir`.
pub(super) fn learn(
    store: &Store,
    workload: Workload,
    column: Column,
    settings: &Settings,
    dir: &Path,
) -> Result<PathBuf, Box<dyn Error>> {
    store.wire.set_link(Link::default());
    let form = column.form();
    let node = Node::start(column, store, workload, settings)?;
    let reference = store.image(workload, form)?.reference.clone();
    timed::run(&mut node.pull(&reference), None)?;
    timed::run(&mut node.run(&reference, "learn"), Some(workload.line()))?;
    let path = dir.join(format!("{}-{}.profile.json", workload.name(), form.name()));
    let export = || {
        let mut export = profile(&node.daemon, "export")?;
        let told = command::attempt(export.arg(&reference), LIMIT)?;
        if !told.status.success() {
            return Ok(None);
        }
        Ok(Some(told.stdout))
    };
    let text = wait::until("a profile of the start", LEARNING, export)?;
    std::fs::write(&path, text)?;
    Ok(path)
}

/// Gives a daemon what was learned elsewhere.
pub(super) fn import(daemon: &Daemon, path: &Path) -> Result<(), Box<dyn Error>> {
    command::run(profile(daemon, "import")?.arg(path), LIMIT)?;
    Ok(())
}

fn profile(daemon: &Daemon, verb: &str) -> pontoon_rig::Result<Command> {
    let mut command = Command::new(find_binary("pontoon")?);
    command.args(["profile", verb]);
    if let Daemon::Ours(plugin) = daemon {
        // Where the daemon serves it unless it is configured otherwise.
        let socket = plugin.socket().with_file_name("plugin-admin.sock");
        command.arg("--admin").arg(socket);
    }
    Ok(command)
}
