//! What is in `dist/`: good, and what the daemon would print.

use std::fs;
use std::process::Command;

use crate::process::{BINARY, Place, repository};

#[test]
fn the_drop_ins_are_what_the_daemon_prints() {
    for (release, file) in [
        ("1.7", "dist/containerd/1.7.toml"),
        ("2", "dist/containerd/2.x.toml"),
    ] {
        let printed = Command::new(BINARY)
            .args(["print-containerd-config", "--containerd-version", release])
            .output()
            .unwrap();
        assert!(printed.status.success(), "{printed:?}");
        let shipped = fs::read_to_string(repository(file)).unwrap();
        assert_eq!(
            shipped,
            String::from_utf8(printed.stdout).unwrap(),
            "{file}"
        );
    }
}

#[test]
fn the_units_satisfy_systemd() {
    pontoon_rig::tools::require_package("systemd-analyze", "systemd", "it checks the units")
        .unwrap();
    pontoon_rig::tools::require_package("kill", "procps", "the unit reloads the daemon with it")
        .unwrap();
    let place = Place::new();
    let mut units = Vec::new();
    for name in ["pontoon-overlayfs.service", "pontoon-overlayfs.socket"] {
        let shipped = fs::read_to_string(repository("dist/systemd").join(name)).unwrap();
        let unit = place.path(name);
        fs::write(
            &unit,
            shipped.replace("/usr/local/bin/pontoon-overlayfs", BINARY),
        )
        .unwrap();
        units.push(unit);
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .output()
        .unwrap();
    let said = String::from_utf8(verified.stderr).unwrap();
    assert!(verified.status.success(), "{said}");
    let about_ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("pontoon"))
        .collect();
    assert!(about_ours.is_empty(), "{about_ours:?}");
}

#[test]
fn the_unit_gives_the_daemon_no_mounts_of_its_own() {
    let unit = fs::read_to_string(repository("dist/systemd/pontoon-overlayfs.service")).unwrap();
    // Each of these implies a mount namespace: systemd.exec(5).
    let settings = unit.lines().filter(|line| !line.starts_with('#'));
    for setting in settings.filter_map(|line| Some(line.split_once('=')?.0)) {
        for prefix in [
            "Private",
            "Protect",
            "ReadOnly",
            "ReadWrite",
            "Inaccessible",
            "Bind",
            "Mount",
            "TemporaryFileSystem",
            "Root",
            "DynamicUser",
            "ProcSubset",
        ] {
            assert!(!setting.starts_with(prefix), "{setting}");
        }
    }
    for needed in [
        "Type=notify",
        "StartLimitIntervalSec=0",
        "Before=containerd.service docker.service buildkit.service",
        "Before=k3s.service rke2-server.service rke2-agent.service",
        "Restart=always",
    ] {
        assert!(unit.contains(needed), "{needed}");
    }
    let socket = fs::read_to_string(repository("dist/systemd/pontoon-overlayfs.socket")).unwrap();
    assert!(socket.contains("TriggerLimitIntervalSec=0"));
}
