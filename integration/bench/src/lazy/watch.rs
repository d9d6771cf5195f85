//! What the daemons under test take of the machine while they are measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often memory is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// After how many looks at memory new processes are looked for.
const SEARCH_EVERY: u32 = 10;

/// Programs that are containerd's or the container's, not the snapshotter's.
const NOT_OURS: [&str; 6] = [
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "docker-registry",
    "pull",
];

/// What was taken.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(super) struct Taken {
    /// The most anonymous memory that all daemons had at one time, in MB (10^6 bytes).
    pub(super) rss_anon_mb: f64,
    /// The processor time of all daemons, in seconds.
    pub(super) cpu_s: f64,
}

/// Watches the daemons of one sandbox; dropping it ends that.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    over: AtomicBool,
    sandbox: PathBuf,
    /// The clock ticks of each process that was seen, when it was last seen.
    ticks: Mutex<BTreeMap<u32, u64>>,
    /// In bytes.
    peak: Mutex<u64>,
}

impl Watch {
    /// Watches every daemon whose command line names a path in `sandbox`.
    pub(super) fn start(sandbox: &Path) -> Self {
        let shared = Arc::new(Shared {
            over: AtomicBool::new(false),
            sandbox: sandbox.to_owned(),
            ticks: Mutex::default(),
            peak: Mutex::default(),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut pids = Vec::new();
                for look in 0.. {
                    if shared.over.load(Ordering::Relaxed) {
                        return;
                    }
                    if look % SEARCH_EVERY == 0 {
                        pids = daemons(&shared.sandbox);
                    }
                    shared.look(&pids);
                    std::thread::sleep(PERIOD);
                }
            }
        });
        Watch {
            shared,
            thread: Some(thread),
        }
    }

    /// What was taken since the start of the daemons.
    pub(super) fn taken(&self) -> Taken {
        self.shared.look(&daemons(&self.shared.sandbox));
        let ticks: u64 = lock(&self.shared.ticks).values().sum();
        Taken {
            rss_anon_mb: *lock(&self.shared.peak) as f64 / 1e6,
            cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        }
    }

    /// The anonymous memory of all daemons now, in MB (10^6 bytes).
    pub(super) fn now_mb(&self) -> f64 {
        let pids = daemons(&self.shared.sandbox);
        let bytes: u64 = pids.iter().filter_map(|pid| rss_anon(*pid)).sum();
        bytes as f64 / 1e6
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // That it panicked has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn look(&self, pids: &[u32]) {
        let mut bytes = 0;
        for &pid in pids {
            bytes += rss_anon(pid).unwrap_or_default();
            if let Some(now) = ticks(pid) {
                lock(&self.ticks).insert(pid, now);
            }
        }
        let mut peak = lock(&self.peak);
        *peak = (*peak).max(bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The processes that serve snapshots below `sandbox`.
fn daemons(sandbox: &Path) -> Vec<u32> {
    let needle = format!("{}/", sandbox.display());
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        *pid != std::process::id()
            && String::from_utf8_lossy(&line).contains(&needle)
            && !NOT_OURS.contains(&name.as_ref())
    })
    .collect()
}

/// `RssAnon` of proc_pid_status(5), in bytes.
fn rss_anon(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// User and system time of proc_pid_stat(5), in clock ticks.
fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what is after it does not.
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_names_the_sandbox_is_watched_until_it_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let watch = Watch::start(dir.path());
        assert_eq!(watch.taken().rss_anon_mb, 0.0);
        let mut child = std::process::Command::new("bash")
            .args(["-c", "while :; do :; done"])
            .arg(dir.path().join("x"))
            .spawn()
            .expect("bash");
        while watch.taken().cpu_s < 0.05 {
            std::thread::sleep(PERIOD);
        }
        child.kill().expect("it runs");
        child.wait().expect("it runs");
        let taken = watch.taken();
        assert!(taken.rss_anon_mb > 0.1 && taken.cpu_s >= 0.05, "{taken:?}");
    }
}
