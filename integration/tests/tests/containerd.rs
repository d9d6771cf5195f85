//! What containerd 1.7 and 2.3 do with a snapshotter, on the plugin under test.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use pontoon_integration::{BUILTIN, Bench};
use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::containerd::Version;
use pontoon_rig::image;

/// Makes one test of a scenario for each containerd.
macro_rules! with_each_containerd {
    ($($scenario:ident),+ $(,)?) => {
        mod containerd_1_7 {
            $(#[test]
            fn $scenario() {
                super::$scenario(super::Version::V1_7);
            })+
        }
        mod containerd_2_3 {
            $(#[test]
            fn $scenario() {
                super::$scenario(super::Version::V2_3);
            })+
        }
    };
}

with_each_containerd!(
    pulls_runs_execs_and_removes,
    serves_every_snapshots_verb,
    commits_a_container,
    unpacks_what_the_builtin_unpacks,
    runs_in_a_user_namespace,
    stacks_130_layers,
    survives_restarts,
    runs_a_debian_image,
);

fn pulls_runs_execs_and_removes(version: Version) {
    let bench = Bench::start(version, 1).unwrap();
    let (_, odd) = bench.publish("odd", image::odd).unwrap();
    bench.pull(SNAPSHOTTER, &odd).unwrap();
    assert_eq!(bench.cluster.snapshots().unwrap().len(), 3);

    let mut found: Vec<String> = bench
        .run("find", &odd, &["/bin/find", "/data"])
        .unwrap()
        .lines()
        .map(Into::into)
        .collect();
    found.sort();
    assert_eq!(found, image::odd_entries());

    bench.start_container("sleeper", &odd).unwrap();
    assert_eq!(
        bench
            .exec("sleeper", "echo mine > /data/kept; cat /data/kept")
            .unwrap(),
        "mine"
    );
    // Another container on the same image does not see it.
    assert_eq!(
        bench
            .run("other", &odd, &["/bin/cat", "/data/kept"])
            .unwrap(),
        "kept"
    );
    assert_eq!(bench.cluster.snapshots().unwrap().len(), 4);

    bench.remove_container("sleeper").unwrap();
    bench.check_settles().unwrap();
    bench.check_empties().unwrap();
}

fn serves_every_snapshots_verb(version: Version) {
    let bench = Bench::start(version, 1).unwrap();
    let (layout, odd) = bench.publish("odd", image::odd).unwrap();
    bench.pull(SNAPSHOTTER, &odd).unwrap();
    let chain = layout.chain_ids().unwrap();
    let top = chain.last().unwrap().as_str();
    let snapshots = |args: &[&str]| {
        let all = ["snapshots", "--snapshotter", SNAPSHOTTER]
            .iter()
            .chain(args);
        bench.cluster.containerd.ctr(all).unwrap().stdout
    };

    let info = snapshots(&["info", top]);
    assert!(
        info.contains("\"Kind\": \"Committed\"") && info.contains(&chain[1]),
        "{info}"
    );
    let mounts = snapshots(&["prepare", "--mounts", "active", top]);
    assert!(
        mounts.contains("-t overlay") || mounts.contains("\"overlay\""),
        "{mounts}"
    );
    assert!(snapshots(&["mounts", "/nowhere", "active"]).contains("upperdir="));
    assert!(!snapshots(&["view", "--mounts", "viewed", top]).contains("upperdir="));
    snapshots(&["label", "active", "color=red"]);
    assert!(snapshots(&["info", "active"]).contains("\"color\": \"red\""));
    assert!(snapshots(&["usage", top]).contains(top));
    let tree = snapshots(&["tree"]);
    assert!(
        tree.contains("active") && tree.contains(&chain[0]),
        "{tree}"
    );
    let diff = [
        "snapshots",
        "--snapshotter",
        SNAPSHOTTER,
        "diff",
        "--media-type",
    ];
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let diff = bench
        .cluster
        .containerd
        .try_ctr(diff.iter().chain(&[layer, top]))
        .unwrap();
    assert!(
        diff.status.success() && diff.stdout.contains("became-dir"),
        "{}",
        diff.stderr
    );

    snapshots(&["commit", "committed", "active"]);
    assert!(snapshots(&["info", "committed"]).contains("\"Kind\": \"Committed\""));
    let refused = ["snapshots", "--snapshotter", SNAPSHOTTER, "rm", &chain[0]];
    let refused = bench.cluster.containerd.try_ctr(refused).unwrap();
    assert!(
        !refused.status.success(),
        "a snapshot with children was removed"
    );
    snapshots(&["rm", "committed"]);
    bench.check_empties().unwrap();
}

fn commits_a_container(version: Version) {
    let bench = Bench::start(version, 1).unwrap();
    let (_, odd) = bench.publish("odd", image::odd).unwrap();
    bench.pull(SNAPSHOTTER, &odd).unwrap();
    bench.start_container("author", &odd).unwrap();
    bench
        .exec(
            "author",
            "echo written > /data/written; rm -r /data/user; rm /data/kept",
        )
        .unwrap();
    let containerd = &bench.cluster.containerd;
    containerd
        .ctr(["tasks", "kill", "--signal", "KILL", "author"])
        .unwrap();
    containerd
        .ctr(["tasks", "rm", "--force", "author"])
        .unwrap();
    let snapshots = ["snapshots", "--snapshotter", SNAPSHOTTER];
    containerd
        .ctr(snapshots.iter().chain(&["commit", "saved", "author"]))
        .unwrap();
    let target = bench.cluster.sandbox.subdir("saved").unwrap();
    let target = target.to_string_lossy();
    let prepared = snapshots.iter().chain(&["prepare", "again", "saved"]);
    containerd.ctr(prepared).unwrap();
    let mount = containerd
        .ctr(snapshots.iter().chain(&["mounts", &target, "again"]))
        .unwrap();
    // What ctr prints is a command for a shell.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &mount.stdout]);
    pontoon_rig::command::run(&mut shell, std::time::Duration::from_secs(10)).unwrap();
    let inside = |path: &str| std::fs::read_to_string(format!("{target}/data/{path}"));
    assert_eq!(inside("written").unwrap(), "written\n");
    assert!(inside("kept").is_err() && inside("user/own").is_err());
    assert_eq!(inside("opaque/new").unwrap(), "new\n");
    let mut umount = std::process::Command::new("umount");
    umount.arg(target.as_ref());
    pontoon_rig::command::run(&mut umount, std::time::Duration::from_secs(10)).unwrap();
    containerd
        .ctr(snapshots.iter().chain(&["rm", "again", "saved"]))
        .unwrap();
    containerd.ctr(["containers", "rm", "author"]).unwrap();
    bench.check_empties().unwrap();
}

fn unpacks_what_the_builtin_unpacks(version: Version) {
    let bench = Bench::start(version, 1).unwrap();
    let (_, odd) = bench.publish("odd", image::odd).unwrap();
    bench.pull(SNAPSHOTTER, &odd).unwrap();
    bench.pull(BUILTIN, &odd).unwrap();
    bench.check_parity(&odd).unwrap();
    bench.check_empties().unwrap();
}

fn runs_in_a_user_namespace(version: Version) {
    let bench = Bench::start(version, 1).unwrap();
    let (_, odd) = bench.publish("odd", image::odd).unwrap();
    bench.pull(SNAPSHOTTER, &odd).unwrap();
    let script = "cat /proc/self/uid_map; stat -c '%u:%g %a' /data/user /data/link-a / /data/setuid; \
                  echo new > /data/created; stat -c %u:%g /data/created; cat /data/user/own";
    let run = |snapshotter: &str, id: &str, labels: &[&str]| {
        let mapping = ["--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"];
        let options: Vec<&str> = mapping.iter().chain(labels).copied().collect();
        let program = ["/bin/sh", "-c", script];
        bench
            .cluster
            .containerd
            .run(snapshotter, &options, &odd, id, &program)
    };
    // Without the labels containerd copies and chowns the tree itself.
    let copied = run(SNAPSHOTTER, "copied", &[]).unwrap().stdout;
    let lines: Vec<&str> = copied.lines().collect();
    // The chown of 1.7 forgets the setuid bit.
    let setuid = match version {
        Version::V1_7 => "0:0 755",
        Version::V2_3 => "0:0 4755",
    };
    let expected = ["1000:1000 700", "3:4 644", "0:0 755", setuid, "0:0", "own"];
    assert_eq!(lines[1..], expected, "{copied}");
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    // 1.7 has labels for remapping but does not know the mount options that answer
    // them, uidmap and gidmap.
    if version == Version::V2_3 {
        let before = bench.cluster.snapshots().unwrap();
        let mapped = run(SNAPSHOTTER, "mapped", &["--remap-labels"])
            .unwrap()
            .stdout;
        assert_eq!(mapped, copied);
        // The collector may have taken the copy of before meanwhile.
        let after = bench.cluster.snapshots().unwrap();
        let copies: Vec<_> = after.iter().filter(|key| !before.contains(key)).collect();
        assert!(copies.is_empty(), "the tree was copied: {copies:?}");
    }
    bench.check_settles().unwrap();
    bench.check_empties().unwrap();
}

fn stacks_130_layers(version: Version) {
    let bench = Bench::start(version, 1).unwrap();
    let (_, long) = bench
        .publish("long", |dir| image::many_layers(dir, 130))
        .unwrap();
    bench.pull(SNAPSHOTTER, &long).unwrap();
    assert_eq!(bench.cluster.snapshots().unwrap().len(), 130);
    let printed = bench
        .run("long", &long, &["/bin/sh", "-c", "ls /n; cat /n/*"])
        .unwrap();
    let names: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with("last"))
        .collect();
    assert_eq!(names, ["last-129"]);
    // Each number is there as a name and as a content.
    let numbers = printed.lines().filter(|line| line.parse::<u32>().is_ok());
    assert_eq!(numbers.count(), 2 * 129);
    bench.check_empties().unwrap();
}

fn survives_restarts(version: Version) {
    let mut bench = Bench::start(version, 1).unwrap();
    let (_, odd) = bench.publish("odd", image::odd).unwrap();
    bench.pull(SNAPSHOTTER, &odd).unwrap();
    bench.start_container("sleeper", &odd).unwrap();
    bench.exec("sleeper", "echo mine > /data/mine").unwrap();
    let before = bench.cluster.snapshots().unwrap();

    assert!(bench.cluster.plugin.terminate().unwrap().success());
    // A running container needs nothing of the plugin.
    assert_eq!(
        bench.exec("sleeper", "cat /data/mine /data/kept").unwrap(),
        "mine\nkept"
    );
    bench.cluster.plugin.resume().unwrap();
    bench.cluster.wait_connected().unwrap();
    assert_eq!(bench.cluster.snapshots().unwrap(), before);
    assert_eq!(
        bench
            .run("after-stop", &odd, &["/bin/cat", "/data/kept"])
            .unwrap(),
        "kept"
    );

    bench.cluster.plugin.kill().unwrap();
    bench.cluster.plugin.resume().unwrap();
    bench.cluster.wait_connected().unwrap();
    assert_eq!(bench.cluster.snapshots().unwrap(), before);
    assert_eq!(
        bench
            .run("after-kill", &odd, &["/bin/cat", "/data/kept"])
            .unwrap(),
        "kept"
    );

    bench.cluster.containerd.restart().unwrap();
    assert_eq!(bench.exec("sleeper", "cat /data/mine").unwrap(), "mine");
    bench.cluster.containerd.kill().unwrap();
    bench.cluster.plugin.kill().unwrap();
    bench.cluster.plugin.resume().unwrap();
    bench.cluster.containerd.resume().unwrap();
    bench.cluster.wait_connected().unwrap();
    assert_eq!(bench.cluster.snapshots().unwrap(), before);
    assert_eq!(bench.exec("sleeper", "cat /data/mine").unwrap(), "mine");

    bench.remove_container("sleeper").unwrap();
    bench.check_settles().unwrap();
    bench.check_empties().unwrap();
}

fn runs_a_debian_image(version: Version) {
    let bench = Bench::start(version, 4).unwrap();
    let debian = image::debian().unwrap();
    let reference = bench.registry.push(&debian, "debian", "1").unwrap();
    bench.pull(SNAPSHOTTER, &reference).unwrap();
    bench.pull(BUILTIN, &reference).unwrap();
    bench.check_parity(&reference).unwrap();
    let hello = bench.run("hello", &reference, &[]).unwrap();
    assert!(hello.starts_with("hello from Python 3."), "{hello}");
    bench.check_empties().unwrap();
}

/// Only 2.x unpacks in parallel, and only where the plugin offers `rebase`.
#[test]
fn unpacks_in_parallel_what_the_builtin_unpacks() {
    let bench = Bench::start(Version::V2_3, 4).unwrap();
    let (_, odd) = bench.publish("odd", image::odd).unwrap();
    let (_, long) = bench
        .publish("long", |dir| image::many_layers(dir, 20))
        .unwrap();
    for reference in [&odd, &long] {
        bench.pull(SNAPSHOTTER, reference).unwrap();
        bench.pull(BUILTIN, reference).unwrap();
        bench.check_parity(reference).unwrap();
    }
    let log = bench.cluster.containerd.log();
    let unpacked = log.lines().filter(|line| line.contains("image unpacked"));
    let parallel = unpacked
        .filter(|line| line.contains("parallel=true"))
        .count();
    // Both images on both snapshotters.
    assert_eq!(parallel, 4, "images that were unpacked in parallel");
    bench.check_empties().unwrap();
}
