//! What a daemon with lazy layers prints, ships and documents. What it does is tested in `core/remote` and
//! `integration/tests`. A module of the tests of each daemon, which say which one it is.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use pontoon_daemon::config::Bytes;
use pontoon_lazy::{Flavor, LazySections};

use super::{BINARY, Daemon};

type Config = pontoon_daemon::Config<LazySections<Daemon>>;

const NAME: &str = <Daemon as Flavor>::NAME;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// `page` ends with `reference`, which begins with `start`; written anew if PONTOON_WRITE_DOCS is set.
fn check_page(page: &str, start: &str, reference: &str) {
    let path = repository(page);
    let text = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("PONTOON_WRITE_DOCS").is_some() {
        let head = text.split(start).next().unwrap_or_default();
        fs::write(&path, format!("{head}{reference}")).unwrap();
        return;
    }
    assert!(
        text.ends_with(reference),
        "{page} is not what the daemon says; run this test with PONTOON_WRITE_DOCS=1"
    );
}

#[test]
fn the_configuration_is_documented() {
    let page = format!("docs/{NAME}-config.md");
    check_page(&page, "## Above the sections", &Config::reference(NAME));
}

#[test]
fn what_is_printed_is_read() {
    let printed = Command::new(BINARY)
        .arg("print-default-config")
        .output()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("daemon.toml");
    fs::write(&file, &printed.stdout).unwrap();
    let read = Config::load(NAME, &file).unwrap();
    assert_eq!(read.plugin, LazySections::default());
    fs::write(
        &file,
        "[unpack]\nself = true\n[cache]\nmax_bytes = \"20GiB\"\n",
    )
    .unwrap();
    let read = Config::load(NAME, &file).unwrap();
    assert!(read.plugin.unpack.everything);
    assert_eq!(read.plugin.cache.max_bytes, Bytes(20 << 30));
    fs::write(&file, "[unpack]\neverything = true\n").unwrap();
    Config::load(NAME, &file).unwrap_err();
}

#[test]
fn the_drop_ins_are_what_the_daemon_prints() {
    for (release, file) in [
        ("1.7", format!("dist/containerd/{NAME}-1.7.toml")),
        ("2", format!("dist/containerd/{NAME}-2.x.toml")),
    ] {
        let printed = Command::new(BINARY)
            .args(["print-containerd-config", "--containerd-version", release])
            .output()
            .unwrap();
        assert!(printed.status.success(), "{printed:?}");
        let printed = String::from_utf8(printed.stdout).unwrap();
        check_page(&file, "# containerd loads", &printed);
        assert!(!printed.contains("rebase"), "{printed}");
    }
}

/// The unit differs from that of `pontoon-overlayfs`, which is tested, in names, comments and the holder only.
#[test]
fn the_units_are_those_of_every_daemon() {
    for kind in ["service", "socket"] {
        let read = |name| {
            fs::read_to_string(repository(&format!("dist/systemd/pontoon-{name}.{kind}"))).unwrap()
        };
        let settings = |text: String| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let lines = lines.filter(|line| {
                let own = ["Environment=", "Description="];
                !own.iter().any(|key| line.starts_with(key)) && !line.contains("-holder.service")
            });
            lines.map(|line| line.replace("overlayfs", NAME)).collect()
        };
        assert_eq!(settings(read(NAME)), settings(read("overlayfs")));
    }
}

/// It is asked for by the daemon's unit, starts before it and runs in a control group of its own.
#[test]
fn the_holder_has_a_unit() {
    let read =
        |name: &str| fs::read_to_string(repository(&format!("dist/systemd/{name}"))).unwrap();
    let daemon = read(&format!("pontoon-{NAME}.service"));
    for order in ["Wants", "After"] {
        assert!(daemon.contains(&format!("\n{order}=pontoon-{NAME}-holder.service\n")));
    }
    let holder = read(&format!("pontoon-{NAME}-holder.service"));
    let root = Config::new(NAME).top.root;
    let directory = root.join("lazy/holder");
    let start = format!(
        "\nExecStart=/usr/local/bin/pontoon-holder --stay {}\n",
        directory.display()
    );
    assert!(holder.contains(&start), "{start}");
    for line in ["Type=notify", "OOMScoreAdjust=-1000", "Restart=always"] {
        assert!(holder.lines().any(|found| found == line), "{line}");
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_documented_and_layers_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let command = Command::new(BINARY)
        .arg("--root")
        .arg(at("root"))
        .arg("--address")
        .arg(at("s.sock"))
        .spawn();
    let _daemon = Running(command.unwrap());
    let admin = at("s-admin.sock");
    let begun = Instant::now();
    while UnixStream::connect(&admin).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it does not serve"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let layers = get(&admin, "/layers");
    let body = layers.split("\r\n\r\n").nth(1).unwrap();
    let report: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(report["layers"], serde_json::json!([]));

    let metrics = get(&admin, "/metrics");
    let mut reference = String::from("| metric | type | meaning |\n|---|---|---|\n");
    for help in metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "))
    {
        let (name, help) = help.split_once(' ').unwrap();
        let prefix = format!("# TYPE {name} ");
        let kind = metrics.lines().find_map(|line| line.strip_prefix(&prefix));
        reference.push_str(&format!("| `{name}` | {} | {help} |\n", kind.unwrap()));
    }
    check_page("docs/lazy-metrics.md", "| metric |", &reference);
}
