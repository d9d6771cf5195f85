//! Readers that wait for the network, and everybody else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use pontoon_lazyfs::Config;

use crate::fixture::{Fault, Maker, exact, noise, wait_until};
use crate::mounted::Mounted;

/// More than there are threads that serve, and than FUSE by itself lets read ahead at once.
const READERS: usize = 40;

fn files(count: usize, length: usize) -> Maker {
    let mut maker = Maker::new();
    for index in 0..count {
        let bytes = noise(index as u64, length);
        maker.file(&index.to_string(), 0o644, &bytes, 50_000);
    }
    maker
}

#[test]
fn who_waits_holds_nobody_up() {
    let mounted = Mounted::with(exact());
    let slow = mounted.add(1, files(READERS, 50_000));
    let fast = mounted.add(2, files(50, 300_000));
    slow.blob.hold_all();
    let (done, finished) = mpsc::channel();
    let readers: Vec<_> = (0..READERS)
        .map(|index| {
            let (path, done) = (slow.path.join(index.to_string()), done.clone());
            thread::spawn(move || {
                let bytes = fs::read(path).unwrap();
                done.send(()).unwrap();
                bytes
            })
        })
        .collect();
    wait_until("all slow readers wait", || {
        mounted.server.operations().read_waited >= READERS as u64
    });
    // All of these are answered although none of those is.
    for (name, bytes) in &fast.files {
        assert!(fs::read(fast.path.join(name)).unwrap() == *bytes);
    }
    assert!(slow.path.join("0").exists());
    assert!(finished.try_recv().is_err(), "a slow reader was answered");
    slow.blob.release();
    for (index, reader) in readers.into_iter().enumerate() {
        assert!(reader.join().unwrap() == slow.files[&index.to_string()]);
    }
}

#[test]
fn who_waits_can_be_killed() {
    let mounted = Mounted::with(exact());
    let added = mounted.add(1, files(1, 50_000));
    added.blob.hold_all();
    let mut reader = Command::new("cat")
        .arg(added.path.join("0"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the reader waits", || {
        mounted.server.operations().read_waited > 0
    });
    reader.kill().unwrap();
    let status = reader.wait().unwrap();
    assert_eq!(status.signal(), Some(9));
    // Nothing had come meanwhile.
    assert_eq!(added.layer.status().local_bytes, 0);
    added.blob.release();
    assert!(fs::read(added.path.join("0")).unwrap() == added.files["0"]);
}

#[test]
fn a_failed_read_is_an_error_and_the_next_one_is_not() {
    let mounted = Mounted::with(Config::default());
    let added = mounted.add(1, files(1, 50_000));
    added.blob.fail([Fault::NotFound]);
    let file = File::open(added.path.join("0")).unwrap();
    let mut bytes = vec![0; 50_000];
    let mut errors = 0;
    // A refusal is believed for a moment.
    wait_until("the registry is asked again", || {
        let read = file.read_exact_at(&mut bytes, 0);
        if let Err(error) = &read {
            assert_eq!(error.raw_os_error(), Some(5), "{error}");
            errors += 1;
        }
        read.is_ok()
    });
    assert!(errors > 0);
    assert!(bytes == added.files["0"]);
    let state = added.path.join(".stargz-snapshotter");
    let state = state.join(format!("{}.json", added.layer.digest()));
    let state = fs::read_to_string(state).unwrap();
    assert!(state.contains("\"errorKind\":\"not-found\""), "{state}");
}

#[test]
fn who_waits_when_the_server_ends_gets_an_error() {
    let mounted = Mounted::with(exact());
    let added = mounted.add(1, files(1, 50_000));
    added.blob.hold_all();
    let path = added.path.join("0");
    let reader = thread::spawn(move || fs::read(path));
    wait_until("the reader waits", || {
        mounted.server.operations().read_waited > 0
    });
    drop(mounted);
    assert!(reader.join().unwrap().is_err());
}
