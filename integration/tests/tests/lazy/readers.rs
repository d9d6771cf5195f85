//! Programs that read a container's files all the time and know what is in them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use pontoon_rig::image::noise;
use pontoon_rig::wait;
use rustix::fs::Advice;

use crate::stage::{LIMIT, Stage};

/// Files of `lazy_fixture()` with this many bytes of noise each.
const SIZES: [usize; 6] = [4095, 4097, 65_536, 100_000, 1 << 20, 5_000_001];

/// So many files are in `/many` of its topmost layer.
const MANY: usize = 200;

/// The most bytes of one read.
const READ_BYTES_MAX: u64 = 200_000;

/// A small generator of numbers that are the same in each run (xorshift64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) reads: AtomicU64,
    pub(crate) failed: Mutex<Vec<String>>,
    pub(crate) wrong: Mutex<Vec<String>>,
}

impl Tally {
    /// The first ones that failed, and that were wrong.
    pub(crate) fn shown(&self) -> (Vec<String>, Vec<String>) {
        let first =
            |all: &Mutex<Vec<String>>| all.lock().unwrap().iter().take(10).cloned().collect();
        (first(&self.failed), first(&self.wrong))
    }
}

/// Threads outside of the container that read its files, and throw out of memory what they are about to read; and a
/// loop inside of it that checks the digest of everything.
#[derive(Debug)]
pub(crate) struct Readers {
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    inside: Child,
    id: String,
}

/// Notes the digests while all is well, then checks them until it is told to stop.
const INSIDE: &str = "cd /; sha256sum sizes/* twice/* many/* bin/busybox > /sums; \
                      while [ ! -e /stop ]; do sha256sum -c -s /sums || echo bad >> /bad; echo x >> /rounds; done";

impl Readers {
    /// Reads the files of the running container `id`.
    pub(crate) fn start(stage: &Stage, id: &str, threads: u64) -> Self {
        let root = PathBuf::from(format!("/proc/{}/root", stage.pid(id)));
        let (tally, stop) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
        let mut command: Command = stage.bench.cluster.containerd.ctr_command();
        command.args(["tasks", "exec", "--exec-id", "check", id]);
        command.args(["/bin/sh", "-c", INSIDE]);
        let inside = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let contents: Arc<Vec<Vec<u8>>> =
            Arc::new(SIZES.map(|size| noise(size as u64, size)).into());
        let threads = (0..threads).map(|seed| {
            let (root, contents) = (root.clone(), Arc::clone(&contents));
            let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
            thread::spawn(move || {
                let mut dice = Dice::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = read_something(&root, &contents, &mut dice, &tally) {
                        tally.failed.lock().unwrap().push(error.to_string());
                    }
                    tally.reads.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self {
            threads: threads.collect(),
            inside: inside.unwrap(),
            id: id.into(),
            tally,
            stop,
        }
    }

    /// How much was read so far.
    pub(crate) fn reads(&self) -> u64 {
        self.tally.reads.load(Ordering::Relaxed)
    }

    /// Ends them, fails if anything went wrong, and answers how often was read outside and inside.
    pub(crate) fn finish(mut self, stage: &Stage) -> (u64, u64) {
        let begun = || {
            let count = "wc -l < /rounds 2>/dev/null || true";
            Ok(stage
                .bench
                .exec(&self.id, count)?
                .trim()
                .parse()
                .ok()
                .filter(|rounds: &u64| *rounds > 0))
        };
        wait::until("a round inside", LIMIT, begun).unwrap();
        self.stop.store(true, Ordering::Relaxed);
        stage.bench.exec(&self.id, "touch /stop").unwrap();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        assert!(self.inside.wait().unwrap().success(), "the loop inside");
        let (failed, wrong) = self.tally.shown();
        assert_eq!(failed, [""; 0], "failed reads");
        assert_eq!(wrong, [""; 0], "wrong bytes");
        let script = "[ ! -e /bad ] && wc -l < /rounds";
        let inside = stage.bench.exec(&self.id, script).unwrap();
        (self.reads(), inside.trim().parse().unwrap())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.inside.kill();
        let _ = self.inside.wait();
    }
}

fn read_something(
    root: &std::path::Path,
    contents: &[Vec<u8>],
    dice: &mut Dice,
    tally: &Tally,
) -> io::Result<()> {
    let path = |name: &str| root.join(name);
    if dice.below(10) == 0 {
        let entries = fs::read_dir(path("many"))?.collect::<io::Result<Vec<_>>>()?;
        if entries.len() != MANY {
            let wrong = format!("{} entries", entries.len());
            tally.wrong.lock().unwrap().push(wrong);
        }
    }
    let content = &contents[dice.below(contents.len() as u64) as usize];
    let name = format!("sizes/{}", content.len());
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    let file = File::open(path(&name)).map_err(named)?;
    let size = file.metadata().map_err(named)?.len();
    // What the kernel has is not asked for again.
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    let offset = dice.below(content.len() as u64);
    let length = dice.below((content.len() as u64 - offset).min(READ_BYTES_MAX)) + 1;
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset).map_err(named)?;
    let expected = &content[offset as usize..][..length as usize];
    if size != content.len() as u64 || bytes != expected {
        let wrong = format!("{name} at {offset}, {length} bytes");
        tally.wrong.lock().unwrap().push(wrong);
    }
    Ok(())
}

impl Stage {
    /// The process of a running container, as this machine knows it.
    pub(crate) fn pid(&self, id: &str) -> u32 {
        let listed = self.bench.cluster.containerd.ctr(["tasks", "ls"]).unwrap();
        let rows = listed.stdout.lines().map(str::split_whitespace);
        let found = rows.filter_map(|mut row| (row.next() == Some(id)).then(|| row.next()));
        let pid = found.flatten().next();
        pid.unwrap_or_else(|| panic!("{id} does not run: {}", listed.stdout))
            .parse()
            .unwrap()
    }
}
