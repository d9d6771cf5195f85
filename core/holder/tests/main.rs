//! The holder as a process, with daemons that come and go.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::fs::{self, File};
use std::io::{Read, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pontoon_holder::{Client, Error, Held, Keep, Keeper, PROTOCOL, Settings};
use pontoon_linux::PacketSocket;
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pontoon-holder");

/// How long anything may take that takes milliseconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A holder that ends with the test.
struct Holder(Child);

impl Holder {
    fn start(directory: &Path, options: &[&str]) -> (Self, Client) {
        let mut command = Command::new(PROGRAM);
        command.args(options).arg(directory).stderr(Stdio::piped());
        let holder = Holder(command.spawn().unwrap());
        let client = until("it listens", || Client::connect(directory).unwrap());
        (holder, client)
    }

    /// Its log, when it has ended by itself, without what it says where it must not protect itself.
    fn log(mut self) -> Vec<String> {
        let mut log = String::new();
        let stderr = self.0.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut log).unwrap();
        assert!(self.0.wait().unwrap().success(), "{log}");
        let lines = log
            .lines()
            .filter(|line| !line.contains("when memory is short"));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keep<'a>(name: &'a str, state: &'a [u8], patience: Duration) -> Keep<'a> {
    Keep {
        name,
        state,
        patience,
        connection: 0,
        advice: "Do this.",
    }
}

/// A descriptor, and what is at its end when nobody has it any more.
fn device() -> (OwnedFd, File) {
    let (reader, writer) = pipe().unwrap();
    (writer.into(), File::from(OwnedFd::from(reader)))
}

#[test]
fn what_is_kept_outlives_who_gave_it() {
    let directory = tempfile::tempdir().unwrap();
    let (holder, client) = Holder::start(directory.path(), &[]);
    let welcome = client.hello().unwrap();
    assert_eq!((welcome.protocol, welcome.kept), (PROTOCOL, 0));
    assert_eq!(welcome.pid, holder.0.id());
    let (given, mut end) = device();
    client
        .keep(&keep("one", b"", LIMIT), given.as_fd())
        .unwrap();
    client.note("one", b"\0state", 0).unwrap();
    client.note("two", b"", 0).unwrap_err();
    drop((client, given));

    let client = Client::connect(directory.path()).unwrap().unwrap();
    let held = client.list().unwrap();
    assert_eq!(held.len(), 1);
    let Held {
        name,
        state,
        device,
    } = held.into_iter().next().unwrap();
    assert_eq!((name.as_str(), state.as_slice()), ("one", &b"\0state"[..]));
    std::io::Write::write_all(&mut File::from(device), b"alive").unwrap();
    client.serve().unwrap();
    client.forget("one").unwrap();
    let mut read = String::new();
    end.read_to_string(&mut read).unwrap();
    assert_eq!(read, "alive");
    // With nothing to keep and nobody who asks it ends.
    drop(client);
    assert_eq!(holder.log(), [""; 0]);
    assert!(Client::connect(directory.path()).unwrap().is_none());
}

#[test]
fn what_nobody_takes_over_is_given_up_and_the_log_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let (holder, client) = Holder::start(directory.path(), &[]);
    let ((short, mut short_end), (long, _long_end)) = (device(), device());
    let patience = Duration::from_millis(50);
    client
        .keep(&keep("short", b"", patience), short.as_fd())
        .unwrap();
    client
        .keep(&keep("long", b"", LIMIT), long.as_fd())
        .unwrap();
    drop((short, long));
    // Who only looks does not serve.
    let mut all = Vec::new();
    short_end.read_to_end(&mut all).unwrap();
    let left = client.list().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].name, "long");
    client.forget("long").unwrap();
    drop((client, left));
    let log = holder.log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(
        log[0].contains("over short ") && log[0].ends_with("Do this."),
        "{log:?}"
    );
}

#[test]
fn nothing_is_given_up_while_somebody_serves() {
    let directory = tempfile::tempdir().unwrap();
    let (_holder, client) = Holder::start(directory.path(), &[]);
    client.serve().unwrap();
    let (given, mut end) = device();
    client
        .keep(&keep("a", b"", Duration::ZERO), given.as_fd())
        .unwrap();
    drop(given);
    let other = Client::connect(directory.path()).unwrap().unwrap();
    assert_eq!(other.list().unwrap().len(), 1);
    drop(client);
    end.read_to_end(&mut Vec::new()).unwrap();
    until("it is gone", || {
        other.list().unwrap().is_empty().then_some(())
    });
}

#[test]
fn one_holder_per_directory_and_it_may_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (holder, client) = Holder::start(directory.path(), &["--stay"]);
    let second = Command::new(PROGRAM)
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    let pid = holder.0.id().to_string();
    assert!(
        said.contains("in use by process") && said.contains(&pid),
        "{said}"
    );
    drop(client);
    // One that may end would have by now.
    thread::sleep(Duration::from_millis(100));
    let client = Client::connect(directory.path()).unwrap().unwrap();
    assert_eq!(client.hello().unwrap().pid, holder.0.id());
}

#[test]
fn what_it_does_not_know_it_refuses_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (_holder, client) = Holder::start(directory.path(), &[]);
    let raw = PacketSocket::connect(&directory.path().join("socket")).unwrap();
    let mut buffer = [0; 1024];
    // A kind of a later version, and a message that is cut off.
    for packet in [&[77, 1, 9, 9][..], &[2, 0], &[2, 0, 255, 255, 255, 255, 1]] {
        raw.send(packet, None).unwrap();
        let answer = raw.receive(&mut buffer).unwrap().unwrap();
        assert_eq!(buffer[..2], [101, 0], "{packet:?}");
        assert!(answer.length > 10);
    }
    // What is no message at all ends the connection, and only that.
    raw.send(&[1], None).unwrap();
    assert!(raw.receive(&mut buffer).unwrap().is_none());
    // Nor is a descriptor that it does not want a reason to end.
    let (given, mut end) = device();
    let raw = PacketSocket::connect(&directory.path().join("socket")).unwrap();
    raw.send(&[1, 0], Some(given.as_fd())).unwrap();
    raw.receive(&mut buffer).unwrap().unwrap();
    drop(given);
    end.read_to_end(&mut Vec::new()).unwrap();
    assert!(client.hello().is_ok());
}

#[test]
fn a_wrong_command_line_is_refused() {
    for arguments in [&[][..], &["--what"], &["a", "b"]] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}

/// Ends a holder that nobody is the parent of.
struct Detached(Pid);

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// Whether this process, and so what it starts, may ask not to be killed when memory is short: CAP_SYS_RESOURCE.
fn may_protect() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let capabilities = lines.find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(capabilities.trim(), 16).unwrap() >> SYS_RESOURCE & 1 == 1
}

fn keeper(directory: &Path) -> Keeper {
    Keeper::new(Settings {
        directory: directory.to_owned(),
        program: PROGRAM.into(),
        unit: false,
        patience: LIMIT,
        advice: String::new(),
    })
    .unwrap()
}

fn pid(keeper: &Keeper) -> Pid {
    let found = until("a holder", || keeper.state().pid);
    Pid::from_raw(i32::try_from(found).unwrap()).unwrap()
}

#[test]
fn a_holder_is_started_replaced_and_ends_with_what_it_keeps() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path());
    assert!(keeper.held().unwrap().is_empty());
    assert_eq!(keeper.state().pid, None, "it was started for nothing");
    let (given, mut end) = device();
    keeper.keep("one", given.as_fd()).unwrap();
    keeper.note("one", b"state", 0).unwrap();
    keeper.serve();
    drop(given);
    let first = Detached(pid(&keeper));
    if may_protect() {
        let score = format!("/proc/{}/oom_score_adj", first.0.as_raw_nonzero());
        assert_eq!(fs::read_to_string(score).unwrap().trim(), "-1000");
    }

    kill_process(first.0, Signal::KILL).unwrap();
    until("another one", || {
        let state = keeper.state();
        (state.lost == 1 && state.pid.is_some()).then_some(())
    });
    let second = Detached(pid(&keeper));
    assert_ne!(first.0, second.0);
    let other = Client::connect(directory.path()).unwrap().unwrap();
    let held = other.list().unwrap();
    assert_eq!(
        (held[0].name.as_str(), held[0].state.as_slice()),
        ("one", &b"state"[..])
    );
    drop((held, other));

    // A successor finds it.
    drop(keeper);
    let keeper = self::keeper(directory.path());
    let held = keeper.held().unwrap().pop().unwrap();
    assert_eq!(pid(&keeper), second.0);
    keeper.adopt(held, 0);
    keeper.serve();
    keeper.forget("one");
    end.read_to_end(&mut Vec::new()).unwrap();
    drop(keeper);
    until("its end", || {
        Client::connect(directory.path())
            .unwrap()
            .is_none()
            .then_some(())
    });
}

#[test]
fn a_program_that_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = Keeper::new(Settings {
        directory: directory.path().join("holder"),
        program: "/nowhere/pontoon-holder".into(),
        unit: false,
        patience: LIMIT,
        advice: String::new(),
    });
    let keeper = keeper.unwrap();
    let (given, _end) = device();
    let error = keeper.keep("one", given.as_fd()).unwrap_err();
    assert!(matches!(error, Error::Start { .. }), "{error}");
    assert!(
        error.to_string().contains("/nowhere/pontoon-holder"),
        "{error}"
    );
    assert_eq!(keeper.state().kept, 1);
}
