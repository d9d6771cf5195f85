//! The installer for nodes, run on a directory that is a host's root. What cannot be seen here: systemd itself.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use pontoon_rig::command::run;
use pontoon_rig::tools::Tool;
use pontoon_rig::wait;

use super::host::Host;

const ADD: (&str, &str) = ("PONTOON_IMPORTS", "add");
const LIMIT: Duration = Duration::from_secs(60);

const INSTALLED: [&str; 6] = [
    "usr/local/bin/pontoon",
    "usr/local/bin/pontoon-nydus",
    "usr/local/bin/pontoon-holder",
    "etc/systemd/system/pontoon-nydus.service",
    "etc/systemd/system/pontoon-nydus-holder.service",
    "etc/containerd/conf.d/pontoon-nydus.toml",
];

/// The real containerd reads its configuration, and knows the plugin or not.
fn check_containerd(host: &Host, knows: bool) {
    let config = ["--config", "/etc/containerd/config.toml", "config", "dump"];
    let read = host.on_host("/usr/bin/containerd", &config);
    let plugin = "[proxy_plugins.pontoon-nydus]";
    assert_eq!(read.contains(plugin), knows, "{read}");
    let address = "/run/pontoon/nydus.sock";
    assert_eq!(read.contains(address), knows, "{read}");
}

#[test]
fn a_node_is_installed_upgraded_and_cleared() {
    for (tool, version) in [(Tool::Containerd23, 3), (Tool::Containerd17, 2)] {
        let host = Host::new(tool);
        let written = format!("# ours\nversion = {version}\nimports = []\n\n[grpc]\n  gid = 7\n");
        host.write("etc/containerd/config.toml", &written);
        let before = host.tree();
        host.run("install", &[ADD]);
        check_containerd(&host, true);
        let config = fs::read_to_string(host.path("etc/containerd/config.toml")).unwrap();
        assert!(config.contains("gid = 7") && config.contains("# ours"));
        for path in INSTALLED {
            assert!(host.path(path).is_file(), "{path}");
        }
        // What the unit starts is there, and runs.
        let unit = fs::read_to_string(host.path(INSTALLED[3])).unwrap();
        let start = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="));
        let told = host.on_host(start.unwrap(), &["--version"]);
        assert!(told.contains("pontoon-nydus"), "{told}");
        let wanted = "etc/systemd/system/multi-user.target.wants/pontoon-nydus.service";
        let link = fs::read_link(host.path(wanted)).unwrap();
        assert!(host.path(link.to_str().unwrap()).is_file());

        let installed = host.tree();
        let said = host.run("install", &[]);
        assert!(said.contains("nothing changed"), "{said}");
        assert!(host.tree() == installed, "the second run changed something");

        // Another version: a program that is longer by a byte, and a unit.
        let mut program = fs::read(host.shipped("bin/pontoon")).unwrap();
        program.push(0);
        fs::write(host.shipped("bin/pontoon"), &program).unwrap();
        let unit = host.shipped("systemd/pontoon-nydus.service");
        let text = fs::read_to_string(&unit).unwrap();
        fs::write(&unit, format!("{text}# new\n")).unwrap();
        host.run("install", &[]);
        assert!(fs::read(host.path("usr/local/bin/pontoon")).unwrap() == program);
        let mode = fs::metadata(host.path("usr/local/bin/pontoon")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o755);

        host.run("uninstall", &[]);
        check_containerd(&host, false);
        let mut left = host.tree();
        // The line stays: it imports nothing now, and somebody may have come to rely on it.
        left.retain(|path, _| !path.starts_with(host.path("etc/containerd")));
        let mut before = before;
        before.retain(|path, _| !path.starts_with(host.path("etc/containerd")));
        assert!(left == before, "{:?}", left.keys());
        let said = host.run("uninstall", &[]);
        assert!(said.contains("nothing changed"), "{said}");
    }
}

/// Refused with these words, and nothing changed.
fn check_refused(host: &Host, verb: &str, variables: &[(&str, &str)], words: &[&str]) {
    let before = host.tree();
    let output = host.attempt(verb, variables);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {}", output.stderr);
    }
    assert!(host.tree() == before, "{verb} changed something: {words:?}");
}

#[test]
fn what_would_not_work_is_refused_with_what_to_do() {
    let host = Host::new(Tool::Containerd23);
    let refused = |variables: &[(&str, &str)], words: &[&str]| {
        check_refused(&host, "install", variables, words);
    };
    refused(
        &[("PONTOON_PLUGIN", "zfs")],
        &["\"zfs\"", "nydus, stargz or overlayfs"],
    );
    refused(&[ADD, ("PONTOON_RESTART", "node")], &["\"node\""]);
    refused(
        &[ADD, ("PONTOON_HOST", "/proc/self")],
        &["not the / of a host"],
    );
    refused(&[], &["does not import", "PONTOON_IMPORTS=add"]);
    let nowhere = ("PONTOON_PREFIX", "/usr/bin/containerd/no");
    refused(&[ADD, nowhere], &["cannot be written", "PONTOON_PREFIX"]);

    // A program for another machine: bytes 18 and 19 of an ELF file, here those of MIPS.
    let shipped = host.shipped("bin/pontoon-nydus");
    let good = fs::read(&shipped).unwrap();
    let mut foreign = good.clone();
    foreign[18..20].copy_from_slice(&[8, 0]);
    fs::write(&shipped, &foreign).unwrap();
    refused(&[ADD], &["another machine", "nodeSelector"]);
    // One that this host cannot run: its loader is missing.
    let marker = b"/lib64/ld-linux";
    let at = good.windows(marker.len()).position(|bytes| bytes == marker);
    let mut stranger = good.clone();
    stranger[at.unwrap() + 1] = b'n';
    fs::write(&shipped, &stranger).unwrap();
    refused(&[ADD], &["does not run on this node", "C library"]);
    fs::remove_file(&shipped).unwrap();
    refused(&[ADD], &["is missing", "Containerfile"]);
    fs::write(&shipped, &good).unwrap();

    host.configure("[cache]\nmax_bites = 1\n");
    refused(&[ADD], &["not a configuration", "max_bites"]);
    host.configure("[cache]\nmax_bytes = \"20GiB\"\n");

    host.write("etc/systemd/system/pontoon-nydus.service", "somebody's own");
    refused(
        &[ADD],
        &["was not installed by this", "PONTOON_OVERWRITE=yes"],
    );
    host.run("install", &[ADD, ("PONTOON_OVERWRITE", "yes")]);
    // From now on it is ours, until somebody changes it.
    host.run("install", &[]);
    let config = host.path("etc/pontoon/nydus.toml");
    assert!(fs::read_to_string(&config).unwrap().contains("20GiB"));
    host.write("etc/pontoon/nydus.toml", "# by hand\n");
    refused(&[], &["/etc/pontoon/nydus.toml", "was changed since"]);
    host.configure("# by hand\n");
    host.run("install", &[]);

    host.write("etc/containerd/config.toml", "version = 1\n");
    refused(&[], &["version 1", "config migrate"]);
    fs::remove_file(host.path("usr/bin/containerd")).unwrap();
    refused(&[], &["no containerd", "Install containerd 1.7"]);
}

#[test]
fn what_containerd_imports_is_read_as_it_reads_it() {
    let host = Host::new(Tool::Containerd23);
    let imported = [
        "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
        "version = 3\n  imports = [ '/other/*.toml', # first\n \"conf.d/pontoon-*.toml\" ]\n[grpc]\n",
        "imports = [\n  \"/etc/containerd/conf.d/*\",\n]\nversion = 3\n",
    ];
    let not = [
        "version = 3\n#imports = [\"/etc/containerd/conf.d/*.toml\"]\n",
        "version = 3\nimports = [\"/etc/containerd/conf.d/other.toml\", \"/etc/*.toml\"]\n",
        "version = 3\n[plugins.x]\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
    ];
    for config in imported {
        host.write("etc/containerd/config.toml", config);
        host.run("install", &[]);
        check_containerd(&host, true);
    }
    for config in not {
        host.write("etc/containerd/config.toml", config);
        check_refused(&host, "install", &[], &["does not import"]);
        host.run("install", &[ADD]);
        check_containerd(&host, true);
    }
}

#[test]
fn nothing_is_restarted_without_being_told() {
    let host = Host::new(Tool::Containerd23).with_systemd();
    let said = host.run("install", &[ADD]);
    assert!(said.contains("TO DO: containerd does not know"), "{said}");
    let first = [
        "daemon-reload",
        "start pontoon-nydus-holder.service",
        "start pontoon-nydus.service",
    ];
    assert_eq!(host.systemd_was_told(), first);
    host.run("install", &[]);
    assert_eq!(host.systemd_was_told(), [first[1]]);

    let lengthen = || {
        let program = host.shipped("bin/pontoon");
        let mut bytes = fs::read(&program).unwrap();
        bytes.push(0);
        fs::write(&program, bytes).unwrap();
    };
    lengthen();
    let said = host.run("install", &[]);
    assert!(
        said.contains("TO DO: the running pontoon-nydus is the old one"),
        "{said}"
    );
    assert_eq!(host.systemd_was_told(), [first[1]]);
    // Told later, it knows that there is something to do still, unless somebody has done it.
    let done = host.path("run/active-containerd.service");
    File::create(&done)
        .unwrap()
        .set_modified(SystemTime::now() + LIMIT)
        .unwrap();
    let said = host.run("install", &[]);
    assert!(
        said.contains("the old one") && !said.contains("containerd does not know"),
        "{said}"
    );
    host.systemd_was_told();
    let said = host.run("install", &[("PONTOON_RESTART", "pontoon containerd")]);
    assert_eq!(
        host.systemd_was_told(),
        [first[1], "restart pontoon-nydus.service"],
        "{said}"
    );
    host.run("install", &[("PONTOON_RESTART", "pontoon containerd")]);
    assert_eq!(host.systemd_was_told(), [first[1]]);

    check_refused(
        &host,
        "uninstall",
        &[],
        &["pontoon-nydus runs", "PONTOON_RESTART=pontoon"],
    );
    host.run("uninstall", &[("PONTOON_RESTART", "pontoon")]);
    assert_eq!(
        host.systemd_was_told(),
        [
            "stop pontoon-nydus.service",
            "stop pontoon-nydus-holder.service",
            "daemon-reload"
        ]
    );
}

#[test]
fn it_stays_as_long_as_containers_use_it() {
    let host = Host::new(Tool::Containerd23);
    host.run("install", &[ADD]);
    let lazy = host.path("var/lib/pontoon/nydus/lazy/mnt");
    fs::create_dir_all(&lazy).unwrap();
    // The sandbox unmounts what is left of it.
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "tmpfs"]).arg(&lazy);
    run(&mut mount, LIMIT).unwrap();
    let words = [
        "containers on this node use pontoon-nydus",
        "lazy/mnt",
        "Drain",
    ];
    check_refused(&host, "uninstall", &[], &words);
    run(Command::new("umount").arg(&lazy), LIMIT).unwrap();
    host.run("uninstall", &[]);
    assert!(!host.path(INSTALLED[0]).exists());
}

/// A process of ours that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_addresses_of_other_nodes_reach_the_node() {
    let host = Host::new(Tool::Containerd23);
    let service = [
        ADD,
        ("PONTOON_PEERS_SERVICE", "localhost"),
        ("PONTOON_PEERS_SECONDS", "1"),
    ];
    let mut running = Running(host.command("run", &service).spawn().unwrap());
    let file = host.path("etc/pontoon/bootstrap");
    let addresses = wait::until("the file of peers", LIMIT, || {
        Ok(fs::read_to_string(&file).ok().filter(|_| host.is_ready()))
    });
    let addresses = addresses.unwrap();
    let mut lines = addresses.lines().filter(|line| !line.starts_with('#'));
    assert!(lines.clone().count() >= 1, "{addresses}");
    let is_address = |line: &str| {
        line.parse::<std::net::SocketAddr>()
            .is_ok_and(|a| a.port() == 7001)
    };
    assert!(lines.all(is_address), "{addresses}");
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = wait::until("its end", LIMIT, || Ok(running.0.try_wait().ok().flatten()));
    assert!(ended.unwrap().success());
}
