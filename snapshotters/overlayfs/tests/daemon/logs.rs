//! What the logs look like.

use pontoon_snapshot::Labels;
use serde_json::Value;

use crate::process::{Place, key};

#[test]
fn json_logs_are_one_object_a_line_with_a_span_per_request() {
    let place = Place::new();
    let file = place.config("[log]\nlevel = \"debug\"\nformat = \"json\"\n");
    let mut daemon = place.start(place.command().arg("--config").arg(&file));
    let keyspace = place.keyspace("test");
    keyspace
        .prepare(&key("ns/1/a"), None, Labels::default())
        .unwrap();
    keyspace.stat(&key("ns/2/b")).unwrap_err();
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let of = |rpc: &str| {
        let line = lines
            .iter()
            .find(|line| line["span"]["rpc"] == rpc && line["message"] != "done");
        line.or_else(|| lines.iter().find(|line| line["span"]["rpc"] == rpc))
            .expect(&log)
    };
    let done = of("prepare");
    assert_eq!(done["level"], "DEBUG");
    assert_eq!(done["span"]["snapshotter"], "test");
    assert_eq!(done["span"]["ns"], "ns");
    assert_eq!(done["span"]["key"], "ns/1/a");
    assert_eq!(of("stat")["error"], "snapshot ns/2/b: not found");
    assert_eq!(lines.last().unwrap()["message"], "stopped");
}

#[test]
fn text_logs_have_the_span_and_the_whole_chain_of_an_error() {
    let place = Place::new();
    let daemon = place.start(place.command().args(["--log-level", "debug"]));
    place.keyspace("test").stat(&key("ns/2/b")).unwrap_err();
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("ns/2/b"))
        .expect(&log);
    assert!(
        line.contains("rpc{rpc=\"stat\" snapshotter=\"test\" ns=\"ns\" key=\"ns/2/b\"}"),
        "{line}"
    );
    drop(daemon);
    // A database that is a directory: the refusal of the system stands at the end of the chain.
    let broken = Place::new();
    std::fs::create_dir_all(broken.root().join("metadata.redb")).unwrap();
    let mut daemon = broken.spawn(&mut broken.command());
    assert_eq!(daemon.ended().code(), Some(1));
    let log = daemon.log();
    assert!(log.contains("the daemon cannot run error=root "), "{log}");
    assert!(log.contains("cannot be opened: "), "{log}");
    assert!(log.contains("Is a directory"), "{log}");
}
