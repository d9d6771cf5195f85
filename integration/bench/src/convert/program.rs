//! Programs that are run to their end, and what they take.

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// How often the memory of a program is looked at. The kernel remembers the most, so only what is taken in its last
/// moments is missed.
const PERIOD: Duration = Duration::from_millis(5);

/// What programs have taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
    /// Of all that ran at once, the most that each had, together.
    pub(super) peak_bytes: u64,
}

impl Spent {
    /// What it is with what came `next`.
    pub(super) fn and(self, next: Spent) -> Spent {
        Spent {
            wall: self.wall + next.wall,
            cpu: self.cpu + next.cpu,
            peak_bytes: self.peak_bytes.max(next.peak_bytes),
        }
    }
}

/// A child that does not outlive this value.
struct Kept(Child, Command, File);

impl Drop for Kept {
    fn drop(&mut self) {
        // It has ended, mostly.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `programs` at the same time to their ends.
pub(super) fn run(programs: Vec<Command>) -> Result<Spent, Box<dyn Error>> {
    let began = Instant::now();
    let mut children = Vec::new();
    for mut command in programs {
        let errors = tempfile::tempfile()?;
        command.stdin(Stdio::null());
        command.stderr(errors.try_clone()?);
        // Ctrl-C reaches only us, and we end it in order.
        let child = command.process_group(0).spawn()?;
        children.push(Kept(child, command, errors));
    }
    let pids: Vec<u32> = children.iter().map(|child| child.0.id()).collect();
    let ended = AtomicBool::new(false);
    let (watched, peaks) = thread::scope(|scope| {
        let watcher = scope.spawn(|| peaks(&pids, &ended));
        let watched = pids.iter().map(|pid| wait(*pid));
        let watched = watched.collect::<Result<Vec<_>, Box<dyn Error>>>();
        let wall = began.elapsed();
        ended.store(true, Ordering::Relaxed);
        let peaks = watcher.join().unwrap_or_default();
        (watched.map(|cpu| (wall, cpu)), peaks)
    });
    let (wall, cpu) = watched?;
    for mut child in children {
        let status = child.0.wait()?;
        if !status.success() {
            let mut text = String::new();
            child.2.rewind()?;
            child.2.read_to_string(&mut text)?;
            return Err(format!("{status}: {:?}\n{text}", child.1).into());
        }
    }
    Ok(Spent {
        wall,
        cpu: cpu.into_iter().sum(),
        peak_bytes: peaks.into_iter().sum(),
    })
}

/// Waits for the end of a child without reaping it, and answers what it has had of processors.
fn wait(pid: u32) -> Result<Duration, Box<dyn Error>> {
    let id = Pid::from_raw(i32::try_from(pid)?).ok_or("a process without a number")?;
    waitid(
        WaitId::Pid(id),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may have anything in it; its own time, the kernel's for it, and the same of its children.
    let behind = stat.rsplit_once(')').ok_or("a process without a name")?.1;
    let ticks = behind.split_whitespace().skip(11).take(4);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?)
}

/// The most memory that each of the processes had until all had ended, in bytes.
fn peaks(pids: &[u32], ended: &AtomicBool) -> Vec<u64> {
    let mut peaks = vec![0; pids.len()];
    while !ended.load(Ordering::Relaxed) {
        for (pid, peak) in pids.iter().zip(&mut peaks) {
            // Those that have ended have no memory any more.
            *peak = high_water(*pid).unwrap_or_default().max(*peak);
        }
        thread::sleep(PERIOD);
    }
    peaks
}

fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn programs_run_at_once_and_a_failure_tells_what_it_said() {
        // Each waits for what the other does.
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().display();
        let meet = |own: &str, other: &str| {
            shell(&format!(
                "touch {path}/{own}; until [ -e {path}/{other} ]; do sleep 0.01; done"
            ))
        };
        let spent = run(vec![meet("a", "b"), meet("b", "a")]).expect("they meet");
        assert!(spent.wall > Duration::ZERO);
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done";
        let spent = run(vec![shell(burn)]).expect("it ends");
        assert!(spent.cpu > Duration::ZERO);
        assert!(spent.peak_bytes > 100_000, "{}", spent.peak_bytes);
        let error = run(vec![shell("echo why >&2; exit 3")]).expect_err("it fails");
        assert!(error.to_string().contains("why"), "{error}");
    }
}
