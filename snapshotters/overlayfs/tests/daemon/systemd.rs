//! The service manager's side, played by the test: NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process::{BINARY, PATIENCE, Place, key, refusal};

/// The receiving end of sd_notify.
struct Manager(UnixDatagram);

impl Manager {
    fn new(place: &Place) -> Self {
        let socket = UnixDatagram::bind(place.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager(socket)
    }

    fn receive(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.0.recv(&mut buffer).expect("a notification");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn receive_until(&self, line: &str) -> String {
        loop {
            let message = self.receive();
            if message.lines().any(|of| of == line) {
                return message;
            }
        }
    }
}

#[test]
fn the_manager_is_told_of_the_start_the_watchdog_and_the_stop() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let mut command = place.command();
    let file = place.config("[limits]\ndrain_seconds = 300\n");
    command
        .arg("--config")
        .arg(file)
        .env("NOTIFY_SOCKET", place.path("notify"))
        .env("WATCHDOG_USEC", "100000");
    let mut daemon = place.spawn(&mut command);
    let ready = manager.receive_until("READY=1");
    assert!(ready.contains("STATUS=serving"), "{ready}");
    // Ready means that it serves: no waiting here.
    let error = place.keyspace("test").stat(&key("a")).unwrap_err();
    assert!(error.to_string().contains("not found"), "{error}");
    // Four times in each period of 100 ms: one that is late costs nothing.
    let begun = Instant::now();
    for _ in 0..9 {
        assert_eq!(manager.receive(), "WATCHDOG=1\n");
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(150),
        "{:?}",
        begun.elapsed()
    );
    daemon.signal(Signal::TERM);
    let stopping = manager.receive_until("STOPPING=1");
    // The time of the drain, and some for the end.
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=316000000"),
        "{stopping}"
    );
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn a_daemon_that_hangs_does_not_calm_the_watchdog() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let mut command = place.command();
    command
        .env("NOTIFY_SOCKET", place.path("notify"))
        .env("WATCHDOG_USEC", "100000");
    let daemon = place.spawn(&mut command);
    manager.receive_until("WATCHDOG=1");
    daemon.signal(Signal::STOP);
    daemon.wait_for("stop", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        status.contains("State:\tT")
    });
    manager.0.set_nonblocking(true).unwrap();
    while manager.0.recv(&mut [0; 512]).is_ok() {}
    manager.0.set_nonblocking(false).unwrap();
    manager
        .0
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(manager.0.recv(&mut [0; 512]).is_err());
    daemon.signal(Signal::CONT);
    manager.0.set_read_timeout(Some(PATIENCE)).unwrap();
    manager.receive_until("WATCHDOG=1");
}

#[test]
fn without_a_watchdog_there_are_no_beats() {
    let place = Place::new();
    let manager = Manager::new(&place);
    let mut command = place.command();
    // This one is for another process.
    command.env("NOTIFY_SOCKET", place.path("notify"));
    command
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1");
    let mut daemon = place.start(&mut command);
    assert_eq!(daemon.stop(), Some(0));
    assert!(manager.receive().starts_with("READY=1"));
    assert!(manager.receive().starts_with("STOPPING=1"));
}

/// A daemon started with `passed` as descriptors from 3 on, which stands as its standard input before.
fn activated(place: &Place, passed: OwnedFd, count: u32) -> Command {
    let mut command = Command::new("sh");
    let script = format!(
        "exec 3<&0 4<&0 0</dev/null; export LISTEN_FDS={count} LISTEN_PID=$$; exec \"$0\" \"$@\""
    );
    command
        .args(["-c", &script, BINARY])
        .args(place.arguments());
    command.stdin(Stdio::from(passed));
    command
}

#[test]
fn a_socket_of_the_manager_is_served_and_left_where_it_is() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    for _ in 0..2 {
        let passed = OwnedFd::from(listener.try_clone().unwrap());
        // The call comes before the daemon: it waits in the socket.
        let caller = {
            let keyspace = place.keyspace("test");
            std::thread::spawn(move || keyspace.stat(&key("a")).unwrap_err().to_string())
        };
        let mut daemon = place.start(&mut activated(&place, passed, 1));
        assert!(caller.join().unwrap().contains("not found"));
        assert_eq!(daemon.stop(), Some(0));
        assert!(place.socket().exists());
        assert!(!place.admin().exists());
    }
}

#[test]
fn anything_else_that_is_passed_is_refused() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let (code, stderr) = refusal(&mut activated(&place, listener.into(), 2));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("2 descriptors; it must pass one"),
        "{stderr}"
    );
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, stderr) = refusal(&mut activated(&place, tcp.into(), 1));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("it must pass one listening unix stream socket"),
        "{stderr}"
    );
}
