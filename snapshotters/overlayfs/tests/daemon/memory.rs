//! What the daemon takes of a node's memory and files.

use std::ops::ControlFlow;

use pontoon_snapshot::{Filter, Labels};

use crate::http::metric;
use crate::process::{Daemon, Place, key};

const CALLERS: usize = 8;
const SNAPSHOTS: usize = 160;

/// glibc's heaps besides the first: each is at a multiple of 64 MiB.
fn heaps_of_threads(daemon: &Daemon) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    let is_heap = |line: &str| {
        let start = line.split('-').next().unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        start.is_multiple_of(64 << 20) && line.contains(" rw-p 00000000 00:00 0")
    };
    maps.lines().filter(|line| is_heap(line)).count()
}

/// Data that many threads make in turn must not be spread over a heap for each: with the cache of the metadata that
/// was 52 MB for 10,000 snapshots, and is 10 MB.
#[test]
fn it_stays_small_after_many_callers() {
    let place = Place::new();
    let daemon = place.start(&mut place.command());
    let keyspace = place.keyspace("test");
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let keyspace = &keyspace;
            scope.spawn(move || {
                for number in 0..SNAPSHOTS / CALLERS {
                    let key = key(&format!("k{caller}-{number}"));
                    keyspace.prepare(&key, None, Labels::default()).unwrap();
                }
            });
        }
    });
    let mut count = 0;
    let mut visit = |_| {
        count += 1;
        ControlFlow::Continue(())
    };
    keyspace.walk(&Filter::default(), &mut visit).unwrap();
    assert_eq!(count, SNAPSHOTS);
    assert!(heaps_of_threads(&daemon) < 2);
    let anonymous = metric(&place.admin(), "pontoon_process_anonymous_memory_bytes").unwrap();
    assert!(anonymous < 15e6, "{anonymous} bytes\n{}", daemon.log());
}

/// Whoever starts it without the unit gives it few files.
#[test]
fn it_may_have_as_many_files_as_it_is_allowed() {
    let place = Place::new();
    let mut command = std::process::Command::new("prlimit");
    command.args(["--nofile=300:5000", crate::process::BINARY]);
    command.args(place.arguments());
    command.args(["--log-level", "debug"]);
    let daemon = place.start(&mut command);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = files.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["5000", "5000"], "{limits}");
    let log = daemon.log();
    let told = log.lines().find(|line| line.contains("files may be open"));
    let told = told.unwrap_or_else(|| panic!("{log}"));
    assert!(told.contains("DEBUG") && told.contains("300"), "{told}");
}
