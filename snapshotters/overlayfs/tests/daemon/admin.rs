//! The admin endpoint.

use std::any::Any;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use pontoon_snapshot::Labels;
use rustix::process::Signal;

use crate::http::{get, metric, raw, request};
use crate::process::{Place, key, repository};

#[test]
fn it_answers_health_and_says_what_there_is() {
    let place = Place::new();
    let _daemon = place.start(&mut place.command());
    let admin = place.admin();
    assert_eq!(get(&admin, "/live"), (200, "live\n".to_owned()));
    assert_eq!(get(&admin, "/ready"), (200, "ready\n".to_owned()));
    assert_eq!(get(&admin, "/nothing").0, 404);
    assert_eq!(request(&admin, "POST", "/ready", "").0, 405);
    assert_eq!(request(&admin, "DELETE", "/log-level", "").0, 405);
}

#[test]
fn the_log_level_changes_at_run_time() {
    let place = Place::new();
    let file = place.config("[log]\nlevel = \"warn\"\n");
    // At this level the daemon does not say that it serves.
    let daemon = place.spawn(place.command().arg("--config").arg(&file));
    let admin = place.admin();
    daemon.wait_for("socket", || admin.exists() && place.socket().exists());
    assert_eq!(get(&admin, "/log-level"), (200, "warn\n".to_owned()));
    let stat = || place.keyspace("test").stat(&key("nowhere"));
    stat().unwrap_err();
    assert!(!daemon.log().contains("nowhere"));
    assert_eq!(
        request(&admin, "PUT", "/log-level", "debug\n"),
        (200, "debug\n".to_owned())
    );
    stat().unwrap_err();
    assert!(daemon.log().contains("nowhere"), "{}", daemon.log());
    let (code, said) = request(&admin, "PUT", "/log-level", "loud");
    assert_eq!(code, 400);
    assert!(said.contains("must be \"off\""), "{said}");
    assert_eq!(
        request(&admin, "PUT", "/log-level", &"x".repeat(100)).0,
        400
    );
    assert_eq!(get(&admin, "/log-level").1, "debug\n");
    fs::write(&file, "[log]\nlevel = \"error\"\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("level of the file", || {
        get(&admin, "/log-level").1 == "error\n"
    });
    fs::write(&file, "[log]\nlevel = \"loud\"\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("complaint", || daemon.log().contains("the log level stays"));
    assert_eq!(get(&admin, "/log-level").1, "error\n");
}

#[test]
fn what_happens_is_counted() {
    let place = Place::new();
    let _daemon = place.start(&mut place.command());
    let keyspace = place.keyspace("test");
    for name in ["a", "b"] {
        keyspace
            .prepare(&key(name), None, Labels::default())
            .unwrap();
    }
    keyspace
        .prepare(&key("a"), None, Labels::default())
        .unwrap_err();
    let admin = place.admin();
    let value = |name: &str| metric(&admin, name).unwrap_or(-1.0);
    assert_eq!(value("pontoon_rpc_total{rpc=\"prepare\",code=\"Ok\"}"), 2.0);
    assert_eq!(
        value("pontoon_rpc_total{rpc=\"prepare\",code=\"AlreadyExists\"}"),
        1.0
    );
    assert_eq!(
        value("pontoon_rpc_duration_seconds_count{rpc=\"prepare\"}"),
        3.0
    );
    assert_eq!(value("pontoon_rpc_in_flight"), 0.0);
    assert_eq!(value("pontoon_snapshots{snapshotter=\"test\"}"), 2.0);
    assert!(value("pontoon_process_resident_memory_bytes") > 1e6);
    assert!(value("pontoon_process_open_fds") > 5.0);
    // Each in a transaction of its own, because there is one caller; the refused one changed nothing.
    assert_eq!(value("pontoon_metadata_transactions_total"), 2.0);
    assert_eq!(value("pontoon_metadata_operations_total"), 2.0);
    // The reaper takes what was removed a while later.
    keyspace.remove(&key("a")).unwrap();
    assert_eq!(value("pontoon_removed_directories"), 1.0);
    keyspace.cleanup().unwrap();
    assert_eq!(value("pontoon_removed_directories"), 0.0);
}

#[test]
fn every_metric_is_documented() {
    let place = Place::new();
    let _daemon = place.start(&mut place.command());
    place
        .keyspace("test")
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    let (_, text) = get(&place.admin(), "/metrics");
    let mut reference = String::from("| metric | type | meaning |\n|---|---|---|\n");
    for help in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = help.split_once(' ').unwrap();
        let kind = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        reference.push_str(&format!("| `{name}` | {} | {help} |\n", kind.unwrap()));
    }
    let path = repository("docs/metrics.md");
    let page = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("PONTOON_WRITE_DOCS").is_some() {
        let head = page.split("| metric |").next().unwrap_or_default();
        fs::write(&path, format!("{head}{reference}")).unwrap();
        return;
    }
    assert!(
        page.ends_with(&reference),
        "docs/metrics.md is not what the daemon counts; run this test with PONTOON_WRITE_DOCS=1"
    );
}

#[test]
fn hostile_requests_are_refused_and_do_no_harm() {
    let place = Place::new();
    let _daemon = place.start(&mut place.command());
    let admin = place.admin();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let heads = format!("GET /live HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    for garbage in [&b"\0\xff\r\n\r\n"[..], long.as_bytes(), heads.as_bytes()] {
        let (code, _) = raw(&admin, garbage);
        assert!((400..500).contains(&code), "{code}");
    }
    // More idle connections than are served at a time must not keep the next request out for ever.
    let idle: Vec<UnixStream> = (0..15)
        .map(|_| UnixStream::connect(&admin).unwrap())
        .collect();
    assert_eq!(get(&admin, "/live").0, 200);
    drop(idle);
}

#[test]
fn it_can_be_on_loopback() {
    let place = Place::new();
    let file = place.config("[admin]\naddress = \"127.0.0.1:0\"\n");
    let daemon = place.start(place.command().arg("--config").arg(&file));
    let log = daemon.log();
    let (_, address) = log.split_once("admin=").expect(&log);
    let address: SocketAddr = address.lines().next().unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /ready HTTP/1.0\r\n\r\n").unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    assert!(answer.ends_with("ready\n"), "{answer}");
}

#[test]
fn it_takes_its_address_when_that_is_free_and_keeps_nothing_down_before() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().to_string();
    let place = Place::new();
    let unix = UnixListener::bind(place.admin()).unwrap();
    let taken: [(&str, Box<dyn Any>); 2] = [(&port, Box::new(tcp)), ("auto", Box::new(unix))];
    for (address, owner) in taken {
        let file = place.config(&format!("[admin]\naddress = \"{address}\"\n"));
        let mut daemon = place.start(place.command().arg("--config").arg(&file));
        let stat = place.keyspace("test").stat(&key("a")).unwrap_err();
        assert!(stat.to_string().contains("not found"), "{stat}");
        let log = daemon.log();
        assert!(log.contains("change [admin] address"), "{log}");
        drop(owner);
        daemon.wait_for("admin endpoint", || {
            daemon.log().contains("there is an admin endpoint now")
        });
        if address == "auto" {
            assert_eq!(get(&place.admin(), "/ready").0, 200);
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn an_empty_address_is_nowhere() {
    let place = Place::new();
    let file = place.config("[admin]\naddress = \"\"\n");
    let _daemon = place.start(place.command().arg("--config").arg(&file));
    assert!(!place.admin().exists());
}
