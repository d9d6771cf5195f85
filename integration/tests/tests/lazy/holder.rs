//! Daemons and holders that die, one by one and together.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use pontoon_integration::full;
use pontoon_rig::cluster::SNAPSHOTTER;
use pontoon_rig::containerd::Version;
use pontoon_rig::gate::Request;
use pontoon_rig::image::{convert, lazy_fixture, noise};
use pontoon_rig::wait;
use rustix::fs::Advice;
use rustix::process::{Pid, Signal, kill_process};

use crate::readers::Readers;
use crate::stage::{LARGE, LIMIT, Setup, Stage};

/// How long somebody who is killed may take to be gone.
const KILLED: Duration = Duration::from_secs(1);

/// A container that runs on a lazy image, of which nothing was read but what it took to start.
fn running(setup: &Setup) -> Option<(Stage, String)> {
    let stage = Stage::start(setup);
    if stage.rival {
        // It has no holder.
        return None;
    }
    let image = convert(&lazy_fixture().unwrap(), setup.form).unwrap();
    let reference = stage.publish(&image, "lazy");
    stage.pull(&reference);
    stage.bench.start_container("sleeper", &reference).unwrap();
    Some((stage, reference))
}

impl Stage {
    /// A file of the running container, as this machine sees it.
    fn file(&self, path: &str) -> File {
        let pid = self.pid("sleeper");
        File::open(Path::new(&format!("/proc/{pid}/root")).join(path)).unwrap()
    }

    fn the_holder(&self) -> Pid {
        let found = || {
            Ok((self.holders().len() == 1)
                .then(|| self.holders())
                .and_then(|all| all.first().copied()))
        };
        wait::until("one holder", LIMIT, found).unwrap()
    }

    fn end(self) {
        self.bench.cluster.wait_connected().unwrap();
        self.bench.remove_containers().unwrap();
        self.finish();
    }
}

/// Whether a piece of the large file can be read, and not from this mount's pages. Never wrong bytes.
///
/// EROFS reads from pages that FUSE has of a piece, so who needs the daemon's answer takes another piece each time.
fn reads(file: &File, piece: usize) -> std::io::Result<()> {
    const BYTES: usize = 200_000;
    static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| noise(LARGE.1 as u64, LARGE.1));
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)?;
    let mut bytes = vec![0; BYTES];
    // Far from what the kernel reads ahead.
    let offset = piece * 5 * BYTES;
    file.read_exact_at(&mut bytes, offset as u64)?;
    assert!(bytes == CONTENT[offset..][..BYTES], "wrong bytes");
    Ok(())
}

#[test]
fn a_holder_that_is_killed_is_replaced_and_nobody_notices() {
    holders_are_killed(&Setup::new(Version::V2_3));
}

pub(crate) fn holders_are_killed(setup: &Setup) {
    let Some((mut stage, _)) = running(setup) else {
        return;
    };
    let file = stage.file(LARGE.0);
    reads(&file, 0).unwrap();
    let readers = Readers::start(&stage, "sleeper", 2);
    for piece in 1..4 {
        let holder = stage.the_holder();
        kill_process(holder, Signal::KILL).unwrap();
        let other = || {
            Ok(stage
                .holders()
                .iter()
                .any(|pid| *pid != holder)
                .then_some(()))
        };
        wait::until("another holder", LIMIT, other).unwrap();
        // It has everything: the next daemon goes on.
        let has_it = || {
            let socket = stage.bench.cluster.sandbox.path("plugin-admin.sock");
            let answer = pontoon_rig::http::get_unix(&socket, "/layers")?;
            let report = crate::json::parse(&answer.body);
            Ok(
                (report["holder"]["kept"] == 1 && report["holder"]["pid"].is_number())
                    .then_some(()),
            )
        };
        wait::until("a connection at the holder", LIMIT, has_it).unwrap();
        stage.bench.cluster.plugin.kill().unwrap();
        stage.bench.cluster.plugin.resume().unwrap();
        reads(&file, piece).unwrap();
    }
    readers.finish(&stage);
    drop(file);
    stage.end();
}

#[test]
fn when_both_die_readers_get_errors_and_new_containers_work() {
    let Some((mut stage, reference)) = running(&Setup::new(Version::V2_3)) else {
        return;
    };
    let file = stage.file(LARGE.0);
    reads(&file, 0).unwrap();
    let holder = stage.the_holder();
    // The daemon must not get to start another one.
    stage
        .bench
        .cluster
        .plugin
        .process()
        .unwrap()
        .signal(Signal::STOP)
        .unwrap();
    kill_process(holder, Signal::KILL).unwrap();
    stage.bench.cluster.plugin.kill().unwrap();
    reads(&file, 1).unwrap_err();
    stage.bench.cluster.plugin.resume().unwrap();
    stage.bench.cluster.wait_connected().unwrap();
    reads(&file, 2).unwrap_err();
    let key = format!("{}/", stage.bench.cluster.containerd.namespace());
    let log = stage.bench.cluster.plugin.log();
    let named = log
        .lines()
        .find(|line| line.contains("have lost their connection"));
    let named = named.unwrap_or_else(|| panic!("nobody is named: {log}"));
    assert!(named.contains(&key) && named.contains("sleeper"), "{named}");
    // What is new works, and the old one when it is started again.
    stage.check_reads("new", &reference);
    let containerd = &stage.bench.cluster.containerd;
    containerd
        .ctr(["tasks", "rm", "--force", "sleeper"])
        .unwrap();
    containerd
        .ctr(["tasks", "start", "--detach", "sleeper"])
        .unwrap();
    drop(file);
    reads(&stage.file(LARGE.0), 3).unwrap();
    stage.end();
}

#[test]
fn who_waits_for_a_daemon_that_does_not_come_gets_an_error() {
    let setup = Setup {
        config: "[holder]\npatience_seconds = 2\n".into(),
        ..Setup::new(Version::V2_3)
    };
    let Some((mut stage, _)) = running(&setup) else {
        return;
    };
    let file = stage.file(LARGE.0);
    stage.bench.cluster.plugin.kill().unwrap();
    // It waits, and it would wait for ever without the holder.
    reads(&file, 0).unwrap_err();
    let gone = || Ok(stage.holders().is_empty().then_some(()));
    wait::until("the end of a holder that keeps nothing", LIMIT, gone).unwrap();
    let log = stage.bench.cluster.plugin.log();
    let said: Vec<&str> = log
        .lines()
        .filter(|line| line.starts_with("pontoon-holder: nobody has taken over"))
        .collect();
    assert_eq!(said.len(), 1, "{log}");
    let binary = stage.bench.cluster.plugin.name();
    assert!(
        said[0].contains(&format!("start {binary} again")),
        "{said:?}"
    );
    stage.bench.cluster.plugin.resume().unwrap();
    drop(file);
    stage.end();
}

#[test]
fn an_older_kernel_has_no_holder_and_nobody_hangs() {
    let setup = Setup {
        env: vec![("PONTOON_KERNEL_RELEASE".into(), "6.8.0-31-generic".into())],
        ..Setup::new(Version::V2_3)
    };
    let Some((mut stage, reference)) = running(&setup) else {
        return;
    };
    assert_eq!(stage.holders(), []);
    let log = stage.bench.cluster.plugin.log();
    assert!(log.contains("Linux 6.8 cannot hand FUSE requests"), "{log}");
    let file = stage.file(LARGE.0);
    let hold = stage.site.gate.hold(Request::is_blob);
    let mut reader = Cold::read(&stage);
    hold.wait(1).unwrap();
    stage.bench.cluster.plugin.kill().unwrap();
    assert!(!reader.ends(LIMIT), "it read what was not there");
    reads(&file, 0).unwrap_err();
    drop(hold);
    stage.bench.cluster.plugin.resume().unwrap();
    stage.bench.cluster.wait_connected().unwrap();
    stage.check_reads("new", &reference);
    // Told to end, it takes its mount off as before.
    assert!(stage.bench.cluster.plugin.terminate().unwrap().success());
    assert_eq!(
        stage.bench.cluster.plugin.mounts().unwrap(),
        [""; 0].map(std::path::PathBuf::from)
    );
    stage.bench.cluster.plugin.resume().unwrap();
    drop(file);
    stage.end();
}

#[test]
fn who_waits_for_a_cold_byte_can_be_killed_with_and_without_a_daemon() {
    let Some((mut stage, _)) = running(&Setup::new(Version::V2_3)) else {
        return;
    };
    let hold = stage.site.gate.hold(Request::is_blob);
    let mut first = Cold::read(&stage);
    hold.wait(1).unwrap();
    first.killed();
    // One whose request a daemon had read before it died, and one that nobody has ever read.
    let (mut second, mut third) = (Cold::read(&stage), Cold::read(&stage));
    std::thread::sleep(Duration::from_millis(200));
    stage.bench.cluster.plugin.kill().unwrap();
    second.killed();
    let mut fourth = Cold::read(&stage);
    std::thread::sleep(Duration::from_millis(100));
    fourth.killed();
    // Who is not killed goes on with the next daemon.
    drop(hold);
    stage.bench.cluster.plugin.resume().unwrap();
    assert!(third.ends(LIMIT), "its read failed");
    stage.end();
}

/// One connection has all of them, so it takes no longer than one.
#[test]
fn a_hundred_mounts_go_on_with_the_next_daemon() {
    let Some((mut stage, reference)) = running(&Setup::new(Version::V2_3)) else {
        return;
    };
    let count = if full() { 100 } else { 10 };
    let targets: Vec<String> = (0..count)
        .map(|number| {
            let target = stage.bench.cluster.sandbox.subdir(&format!("v/{number}"));
            let target = target.unwrap().to_str().unwrap().to_owned();
            let mount = ["images", "mount", "--snapshotter", SNAPSHOTTER];
            let all = mount.into_iter().chain([reference.as_str(), &target]);
            stage.bench.cluster.containerd.ctr(all).unwrap();
            target
        })
        .collect();
    let files = targets
        .iter()
        .map(|target| File::open(Path::new(target).join(LARGE.0)).unwrap());
    let files: Vec<File> = files.collect();
    reads(&files[0], 0).unwrap();
    stage.bench.cluster.plugin.kill().unwrap();
    let begun = Instant::now();
    stage.bench.cluster.plugin.resume().unwrap();
    let ready = begun.elapsed();
    files.iter().for_each(|file| reads(file, 0).unwrap());
    eprintln!(
        "{count} mounts: the next daemon answers after {ready:?}, all of them were read after {:?}",
        begun.elapsed()
    );
    drop(files);
    stage.bench.cluster.wait_connected().unwrap();
    for target in &targets {
        let unmount = ["images", "unmount", "--rm", "--snapshotter", SNAPSHOTTER];
        let all = unmount.into_iter().chain([target.as_str()]);
        stage.bench.cluster.containerd.ctr(all).unwrap();
    }
    stage.end();
}

/// A program that reads bytes that nobody has read yet.
struct Cold(Child);

impl Cold {
    fn read(stage: &Stage) -> Self {
        let pid = stage.pid("sleeper");
        let path = format!("/proc/{pid}/root/{}", LARGE.0);
        let mut command = Command::new("cat");
        command
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn killed(&mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "it does not wait");
        self.0.kill().unwrap();
        assert!(!self.ends(KILLED));
    }

    /// Waits for its end. Whether it read everything.
    fn ends(&mut self, limit: Duration) -> bool {
        let child = &mut self.0;
        let ended = wait::until("the end of a reader", limit, || {
            Ok(child.try_wait().unwrap())
        });
        ended.unwrap().success()
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
