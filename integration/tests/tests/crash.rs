//! The plugin and containerd killed and restarted *while* they work. After each, what
//! was acknowledged is there, the work can be done again, and nothing leaks.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::process::Command;
use std::thread;
use std::time::Duration;

use pontoon_integration::{BUILTIN, Bench, full};
use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::command::attempt;
use pontoon_rig::containerd::{Containerd, Version};
use pontoon_rig::plugin::Plugin;
use pontoon_rig::{image, wait};

const LIMIT: Duration = Duration::from_mins(1);

/// How many layers the image has that is pulled while something is killed.
const LAYERS: usize = 16;

/// How many times each scenario is played.
fn rounds() -> usize {
    if full() { 30 } else { 5 }
}

/// What happens to the plugin in the middle of its work.
#[derive(Clone, Copy)]
enum End {
    /// SIGKILL.
    Killed,
    /// SIGTERM: it must end well, and soon.
    Terminated,
}

impl End {
    fn befalls(self, plugin: &mut Plugin) {
        match self {
            Self::Killed => plugin.kill().unwrap(),
            Self::Terminated => assert!(plugin.terminate().unwrap().success(), "{}", plugin.log()),
        }
        plugin.resume().unwrap();
    }
}

/// Runs `command` while `strike` waits for its moment and hits.
fn while_running(mut command: Command, strike: impl FnOnce()) {
    thread::scope(|scope| {
        // Whether it survives the strike is open.
        let running = scope.spawn(move || attempt(&mut command, LIMIT).map(drop));
        strike();
        running.join().unwrap().unwrap();
    });
}

/// Waits until the plugin has at least (or, `falling`, at most) `count` directories.
fn reach(plugin: &Plugin, count: usize, falling: bool) {
    let what = format!("{count} snapshot directories");
    wait::until(&what, LIMIT, || {
        let found = plugin.snapshot_dirs()?.len();
        Ok((if falling {
            found <= count
        } else {
            found >= count
        })
        .then_some(()))
    })
    .unwrap();
}

fn pulls_through(version: Version, unpacks: u32, end: End) {
    let mut bench = Bench::start(version, unpacks).unwrap();
    let (layout, long) = bench
        .publish("long", |dir| image::many_layers(dir, LAYERS))
        .unwrap();
    bench.pull(BUILTIN, &long).unwrap();
    for round in 0..rounds() {
        let pull = bench.pull_command(SNAPSHOTTER, &long);
        let plugin = &mut bench.cluster.plugin;
        // Each round strikes at another layer.
        let moment = 1 + round * 3 % LAYERS;
        while_running(pull, || {
            reach(plugin, moment, false);
            end.befalls(plugin);
        });
        bench.pull_stubbornly(&layout, &long).unwrap();
        bench.check_parity(&long).unwrap();
        bench.check_settles().unwrap();
        bench
            .cluster
            .containerd
            .ctr(["images", "rm", "--sync", &long])
            .unwrap();
        bench.pull(BUILTIN, &long).unwrap();
    }
    bench.check_empties().unwrap();
}

#[test]
fn containerd_1_7_pulls_through_kills() {
    pulls_through(Version::V1_7, 1, End::Killed);
}

#[test]
fn containerd_2_3_pulls_through_kills() {
    pulls_through(Version::V2_3, 1, End::Killed);
}

#[test]
fn containerd_2_3_pulls_in_parallel_through_kills() {
    pulls_through(Version::V2_3, 4, End::Killed);
}

#[test]
fn containerd_2_3_pulls_through_restarts() {
    pulls_through(Version::V2_3, 4, End::Terminated);
}

/// containerd itself is killed while it pulls.
#[test]
fn plugin_outlives_containerd() {
    let mut bench = Bench::start(Version::V2_3, 4).unwrap();
    let (layout, long) = bench
        .publish("long", |dir| image::many_layers(dir, LAYERS))
        .unwrap();
    bench.pull(BUILTIN, &long).unwrap();
    for round in 0..rounds() {
        let pull = bench.pull_command(SNAPSHOTTER, &long);
        let cluster = &mut bench.cluster;
        while_running(pull, || {
            reach(&cluster.plugin, 1 + round * 3 % LAYERS, false);
            cluster.containerd.kill().unwrap();
            cluster.containerd.resume().unwrap();
        });
        bench.pull_stubbornly(&layout, &long).unwrap();
        bench.check_parity(&long).unwrap();
        bench.check_empties().unwrap();
        bench.pull(BUILTIN, &long).unwrap();
    }
    bench.check_empties().unwrap();
}

/// The plugin is killed while containerd's collector removes an image's snapshots.
#[test]
fn collection_goes_on_after_kills() {
    let mut bench = Bench::start(Version::V2_3, 1).unwrap();
    let (layout, long) = bench
        .publish("long", |dir| image::many_layers(dir, LAYERS))
        .unwrap();
    for round in 0..rounds() {
        bench.pull_stubbornly(&layout, &long).unwrap();
        let mut remove = bench.cluster.containerd.ctr_command();
        remove.args(["images", "rm", "--sync", &long]);
        let plugin = &mut bench.cluster.plugin;
        while_running(remove, || {
            reach(plugin, LAYERS - 1 - round % LAYERS, true);
            End::Killed.befalls(plugin);
        });
        bench.cluster.wait_connected().unwrap();
        bench.check_empties().unwrap();
    }
}

/// One after another, containers that write and read; whether each works is open.
fn run_containers(containerd: &Containerd, image: &str, count: usize) -> usize {
    let mut worked = 0;
    for number in 0..count {
        let mut command = containerd.ctr_command();
        command.args(["run", "--rm", "--snapshotter", SNAPSHOTTER, image]);
        command.arg(format!("run-{number}"));
        command.args([
            "/bin/sh",
            "-c",
            "echo mine > /data/mine; cat /data/mine /data/kept",
        ]);
        let output = attempt(&mut command, LIMIT).unwrap();
        if output.status.success() {
            assert_eq!(output.stdout, "mine\nkept", "run {number}");
            worked += 1;
        }
    }
    worked
}

#[test]
fn containers_start_between_kills() {
    let mut bench = Bench::start(Version::V2_3, 1).unwrap();
    let (layout, odd) = bench.publish("odd", image::odd).unwrap();
    bench.pull(SNAPSHOTTER, &odd).unwrap();
    bench.start_container("witness", &odd).unwrap();
    bench
        .exec("witness", "echo before > /data/witness")
        .unwrap();

    let cluster = &mut bench.cluster;
    let (containerd, plugin) = (&cluster.containerd, &mut cluster.plugin);
    thread::scope(|scope| {
        let image = odd.as_str();
        let count = 4 * rounds();
        let runs = scope.spawn(move || run_containers(containerd, image, count));
        while !runs.is_finished() {
            // The three layers, the witness, and a container that is being made.
            let busy = wait::until("a container", Duration::from_secs(2), || {
                Ok((plugin.snapshot_dirs()?.len() > 4 || runs.is_finished()).then_some(()))
            });
            // Between two containers there may be none for long: kill it then, too.
            drop(busy);
            End::Killed.befalls(plugin);
        }
        runs.join().unwrap();
    });
    bench.pull_stubbornly(&layout, &odd).unwrap();
    assert_eq!(
        bench.exec("witness", "cat /data/witness").unwrap(),
        "before"
    );
    assert_eq!(
        bench
            .run("last", &odd, &["/bin/cat", "/data/kept"])
            .unwrap(),
        "kept"
    );
    bench.remove_containers().unwrap();
    bench.check_empties().unwrap();
}

/// What is done a hundred times leaves no descriptor open.
#[test]
fn descriptors_do_not_pile_up() {
    let mut bench = Bench::start(Version::V2_3, 4).unwrap();
    let (_, odd) = bench.publish("odd", image::odd).unwrap();
    let cycle = |bench: &Bench, name: &str| {
        bench.pull(SNAPSHOTTER, &odd).unwrap();
        bench.run(name, &odd, &["/bin/cat", "/data/kept"]).unwrap();
        bench.check_empties().unwrap();
    };
    cycle(&bench, "first");
    let before = bench.cluster.plugin.process().unwrap().open_fds().unwrap();
    for number in 0..2 * rounds() {
        cycle(&bench, &format!("again-{number}"));
    }
    let mut after = Vec::new();
    let settled = wait::until(
        "as few descriptors as before",
        Duration::from_secs(10),
        || {
            after = bench.cluster.plugin.process()?.open_fds()?;
            Ok((after.len() <= before.len()).then_some(()))
        },
    );
    assert!(settled.is_ok(), "before {before:#?}\nafter {after:#?}");
}
