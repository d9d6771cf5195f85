//! A snapshotter name belongs to one process at a time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pontoon_proto::client::Client;
use pontoon_snapshot::{Class, Keyspaces, Labels, SnapshotterName};

use crate::process::{BINARY, PATIENCE, Place, key};

/// In the environment of a process that is to be a caller: the daemon's socket.
const CALLER: &str = "PONTOON_TEST_CALLER";

/// Another process, which calls what it is told and says how that went.
struct Caller {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Caller {
    /// This test program again, in the role of [`play_caller`].
    fn start(place: &Place, test: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(CALLER, place.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Caller {
            commands: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Prepares `key` under `name` there; the answer is empty or the error's class and text.
    fn prepare(&mut self, name: &str, key: &str) -> String {
        writeln!(self.commands, "{name} {key}").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(
                self.answers.read_line(&mut line).unwrap(),
                0,
                "the caller ended"
            );
            if let Some((_, answer)) = line.split_once("> ") {
                return answer.trim_end().to_owned();
            }
        }
    }

    /// Kills it and waits for its end, as a service manager does before it starts a successor.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The role of the other process; false if this is not it.
fn play_caller() -> bool {
    let Some(socket) = std::env::var_os(CALLER) else {
        return false;
    };
    let client = Client::with_deadline(socket.as_ref(), PATIENCE).unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (name, prepared) = line.split_once(' ').unwrap();
        let keyspace = client.open(&SnapshotterName::new(name).unwrap()).unwrap();
        match keyspace.prepare(&key(prepared), None, Labels::default()) {
            Ok(_) => println!("> "),
            Err(error) => println!("> {:?} {error}", error.class()),
        }
    }
    true
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    if play_caller() {
        return;
    }
    let place = Place::new();
    let _daemon = place.start(&mut place.command());
    let mut owner = Caller::start(
        &place,
        "owner::a_second_writer_is_refused_and_readers_are_not",
    );
    assert_eq!(owner.prepare("one", "a"), "");
    let keyspace = place.keyspace("one");
    let error = keyspace
        .prepare(&key("b"), None, Labels::default())
        .unwrap_err();
    assert_eq!(error.class(), Class::FailedPrecondition);
    for part in [
        format!("from process {} (", std::process::id()),
        format!("belongs to process {} (", owner.child.id()),
        "give each containerd or BuildKit a snapshotter name of its own".to_owned(),
    ] {
        assert!(error.to_string().contains(&part), "{error}");
    }
    for refused in [
        keyspace.remove(&key("a")).unwrap_err(),
        keyspace
            .commit(&key("c"), &key("a"), None, Labels::default())
            .unwrap_err(),
        keyspace
            .view(&key("b"), None, Labels::default())
            .unwrap_err(),
        keyspace.cleanup().unwrap_err(),
    ] {
        assert!(
            refused.to_string().contains("belongs to process"),
            "{refused}"
        );
    }
    assert!(keyspace.stat(&key("a")).is_ok());
    assert!(keyspace.mounts(&key("a")).is_ok());
    assert!(keyspace.usage(&key("a")).is_ok());
    // Another name is another keyspace, and more connections of the owner are the owner.
    place
        .keyspace("two")
        .prepare(&key("b"), None, Labels::default())
        .unwrap();
    place
        .keyspace("two")
        .prepare(&key("c"), None, Labels::default())
        .unwrap();
    assert!(owner.prepare("two", "d").starts_with("FailedPrecondition"));
    assert_eq!(owner.prepare("one", "d"), "");
}

#[test]
fn a_dead_owner_s_name_is_free_at_once() {
    if play_caller() {
        return;
    }
    let place = Place::new();
    let _daemon = place.start(&mut place.command());
    for turn in 0..20 {
        let name = format!("name{turn}");
        let mut owner = Caller::start(&place, "owner::a_dead_owner_s_name_is_free_at_once");
        assert_eq!(owner.prepare(&name, "a"), "");
        owner.kill();
        let keyspace = place.keyspace(&name);
        keyspace
            .prepare(&key("b"), None, Labels::default())
            .unwrap();
    }
}

#[test]
fn callers_from_another_pid_namespace_are_told_apart_by_their_connection() {
    let place = Place::new();
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--", BINARY])
        .args(place.arguments());
    let _daemon = place.start(&mut command);
    let first = place.keyspace("one");
    first.prepare(&key("a"), None, Labels::default()).unwrap();
    let second = place.keyspace("one");
    let error = second
        .prepare(&key("b"), None, Labels::default())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a process of another pid namespace"),
        "{error}"
    );
    drop(first);
    let freed =
        crate::process::holds(|| second.prepare(&key("b"), None, Labels::default()).is_ok());
    assert!(freed);
}
