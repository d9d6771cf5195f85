//! Connections that do not speak gRPC, or do not go on.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pontoon_proto::snapshots as v1;
use tokio::task::JoinSet;

use crate::daemon::{Daemon, NAME};

/// What an HTTP/2 client says first (RFC 9113, 3.4), and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.plugin.socket()).unwrap();
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit).unwrap();
    stream.set_write_timeout(limit).unwrap();
    stream
}

/// Writes as much of `bytes` as the daemon takes, then reads until it hangs up.
fn send(daemon: &Daemon, bytes: &[u8]) {
    let mut stream = connect(daemon);
    let gone = |kind| matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
    if let Err(error) = stream.write_all(bytes) {
        assert!(gone(error.kind()), "{error}");
        return;
    }
    // It may have hung up already.
    let _ = stream.shutdown(Shutdown::Write);
    if let Err(error) = stream.read_to_end(&mut Vec::new()) {
        assert!(gone(error.kind()), "the daemon does not hang up: {error}");
    }
}

#[test]
fn garbage_ends_only_its_connection() {
    let mut daemon = Daemon::start();
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |count: usize| -> Vec<u8> {
        let step = |_| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_le_bytes()[3]
        };
        (0..count).map(step).collect()
    };
    send(&daemon, b"");
    send(&daemon, b"\0");
    send(&daemon, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    send(&daemon, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    send(&daemon, &PREFACE[..10]);
    send(&daemon, &random(1_000_000));
    for round in 0..50 {
        send(&daemon, &[PREFACE, &random(round * 37)].concat());
    }
    // A frame that says it has 16 MiB, and a HEADERS frame that never ends.
    send(&daemon, &[PREFACE, b"\xff\xff\xff\0\0\0\0\0\x01"].concat());
    let endless = b"\0\0\x05\x09\0\0\0\0\x01aaaaa".repeat(100_000);
    send(
        &daemon,
        &[PREFACE, b"\0\0\x05\x01\0\0\0\0\x01aaaaa", &endless].concat(),
    );
    daemon.assert_nothing_lost();
}

#[test]
fn silent_connections_do_not_stop_others() {
    let mut daemon = Daemon::start();
    let mut silent: Vec<UnixStream> = (0..150).map(|_| connect(&daemon)).collect();
    for stream in silent.iter_mut().step_by(2) {
        stream.write_all(PREFACE).unwrap();
    }
    daemon.prepare("new", "kept").unwrap();
    daemon.remove("new").unwrap();
    daemon.assert_nothing_lost();
    drop(silent);
    daemon.assert_nothing_lost();
}

#[test]
fn calls_that_are_given_up_are_done_or_not() {
    let mut daemon = Daemon::start();
    for round in 0..5 {
        daemon.block_on(async {
            let mut callers = JoinSet::new();
            for caller in 0..100 {
                let mut service = daemon.service();
                callers.spawn(async move {
                    let request = v1::PrepareSnapshotRequest {
                        snapshotter: NAME.to_owned(),
                        key: format!("given-up-{round}-{caller}"),
                        parent: "kept".to_owned(),
                        ..Default::default()
                    };
                    let patience = Duration::from_micros(20 * caller);
                    let _ = tokio::time::timeout(patience, service.prepare(request)).await;
                });
            }
            while callers.join_next().await.is_some() {}
        });
        // It is the same connection, which is not closed for what was given up on it.
        daemon.assert_kept();
    }
    // What was begun goes on without its caller; a daemon that stops finishes it first.
    assert!(daemon.plugin.terminate().unwrap().success());
    daemon.plugin.resume().unwrap();
    let found = daemon.list(&["name~=^given-up"]).unwrap();
    assert!(!found.is_empty(), "nobody was patient enough");
    for info in found {
        let request = v1::MountsRequest {
            snapshotter: NAME.to_owned(),
            key: info.name.clone(),
        };
        let answer = daemon.call(|mut service| async move { service.mounts(request).await });
        let upper = crate::daemon::option(&answer.unwrap().mounts, "upperdir=").to_owned();
        assert!(std::path::Path::new(&upper).is_dir(), "{upper}");
        daemon.remove(&info.name).unwrap();
    }
    daemon.assert_nothing_lost();
}
