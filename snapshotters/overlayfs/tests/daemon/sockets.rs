//! The unix socket: its mode, what it replaces and what it refuses to, and its end.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pontoon_snapshot::Labels;
use rustix::process::Signal;

use crate::process::{BINARY, Place, key, refusal};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn sockets_are_for_root_alone_whatever_the_umask() {
    let place = Place::new();
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\"", BINARY]);
    command.arg("--root").arg(place.root());
    command
        .arg("--address")
        .arg(place.path("made/by/daemon/s.sock"));
    let mut daemon = place.start(&mut command);
    let directory = place.path("made/by/daemon");
    assert_eq!(mode(&directory), 0o711);
    assert_eq!(mode(&directory.join("s.sock")), 0o600);
    assert_eq!(mode(&directory.join("s-admin.sock")), 0o600);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn a_killed_daemons_socket_is_replaced() {
    let place = Place::new();
    let mut daemon = place.start(&mut place.command());
    place
        .keyspace("test")
        .prepare(&key("a"), None, Labels::default())
        .unwrap();
    daemon.signal(Signal::KILL);
    daemon.ended();
    assert!(
        fs::metadata(place.socket())
            .unwrap()
            .file_type()
            .is_socket()
    );
    let _successor = place.start(&mut place.command());
    assert!(place.keyspace("test").stat(&key("a")).is_ok());
}

#[test]
fn a_socket_that_somebody_serves_is_left_alone() {
    let place = Place::new();
    let _other = UnixListener::bind(place.socket()).unwrap();
    let (code, stderr) = refusal(&mut place.command());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("is served by another process; stop that"),
        "{stderr}"
    );
    assert!(UnixStream::connect(place.socket()).is_ok());
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let place = Place::new();
    fs::write(place.socket(), "precious").unwrap();
    let (code, stderr) = refusal(&mut place.command());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("exists and is not a socket"), "{stderr}");
    assert_eq!(fs::read(place.socket()).unwrap(), b"precious");
}

#[test]
fn a_path_that_no_socket_can_have_is_refused() {
    let place = Place::new();
    let long = place.path(&"x".repeat(108));
    let (code, stderr) = refusal(
        Command::new(BINARY)
            .arg("--root")
            .arg(place.root())
            .arg("--address")
            .arg(long),
    );
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("more than 107 bytes; use a shorter"),
        "{stderr}"
    );
}

#[test]
fn a_root_has_one_daemon() {
    let place = Place::new();
    let first = place.start(&mut place.command());
    let second = place.path("other.sock");
    let (code, stderr) = refusal(
        Command::new(BINARY)
            .arg("--root")
            .arg(place.root())
            .arg("--address")
            .arg(second),
    );
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&first.pid().to_string()), "{stderr}");
    assert!(
        place
            .keyspace("test")
            .stat(&key("a"))
            .is_err_and(|error| error.to_string().contains("not found"))
    );
}

#[test]
fn a_successor_s_socket_outlives_its_predecessor() {
    let place = Place::new();
    let mut first = place.start(&mut place.command());
    // Somebody removed the socket, and another daemon with a root of its own took the place.
    fs::remove_file(place.socket()).unwrap();
    fs::remove_file(place.admin()).unwrap();
    let other = Place::new();
    let mut command = Command::new(BINARY);
    command
        .arg("--root")
        .arg(other.root())
        .arg("--address")
        .arg(place.socket());
    let _second = other.start(&mut command);
    assert_eq!(first.stop(), Some(0));
    assert!(UnixStream::connect(place.socket()).is_ok());
    assert!(UnixStream::connect(place.admin()).is_ok());
}

#[test]
fn want_of_descriptors_is_logged_seldom_and_passes() {
    let place = Place::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\"", BINARY]);
    let daemon = place.start(command.args(place.arguments()));
    let connected: Vec<UnixStream> = (0..40)
        .map(|_| UnixStream::connect(place.socket()).unwrap())
        .collect();
    let complaint = "a connection was not accepted";
    daemon.wait_for("complaint", || daemon.log().contains(complaint));
    // A few more tries, which are 100 ms apart.
    std::thread::sleep(Duration::from_millis(350));
    assert_eq!(daemon.log().matches(complaint).count(), 1);
    drop(connected);
    let error = place.keyspace("test").stat(&key("a")).unwrap_err();
    assert!(error.to_string().contains("not found"), "{error}");
}
