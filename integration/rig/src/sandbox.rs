//! A directory for one run of real programs, and the promise that nothing of it
//! outlives the run: no process, mount, cgroup or file.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::{At, Error, Result};
use crate::{checkout, wait};

/// A unix socket's path has at most 107 bytes (unix(7)); Docker's longest one takes
/// this much less for the sandbox.
const PATH_MAX_BYTES: usize = 62;

/// A private directory under `target/rig/run`.
///
/// Programs are recognised as ours by the directory's path on their command line
/// or by a cgroup of the sandbox's name. Dropping it kills them, unmounts all
/// below it and deletes it. What a killed run left behind is swept when the next
/// sandbox is made.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
    dir: PathBuf,
    // Held for as long as the sandbox is in use: the sweep leaves it alone then.
    _lock: File,
}

impl Sandbox {
    /// Makes a new sandbox, after sweeping those whose owner is gone.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let why = "it mounts file systems and runs containers; run it as root";
            return Err(Error::unexpected("a sandbox", why));
        }
        let base = checkout::rig_dir().join("run");
        fs::create_dir_all(&base).at("create", &base)?;
        sweep(&base)?;
        let name = format!(
            "pt{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = base.join(&name);
        if dir.as_os_str().len() > PATH_MAX_BYTES {
            let why = format!(
                "{} is too long for the unix sockets below it; move the checkout to a path \
                 that is shorter by {} bytes",
                dir.display(),
                dir.as_os_str().len() - PATH_MAX_BYTES
            );
            return Err(Error::unexpected("a sandbox", why));
        }
        // The lock is taken before the directory exists: a sweep never sees one without.
        let lock = lock_file(&base, &name)?;
        flock(&lock, FlockOperation::LockExclusive).at("lock", &dir)?;
        fs::create_dir_all(dir.join("tmp")).at("create", &dir)?;
        Ok(Self {
            name,
            dir,
            _lock: lock,
        })
    }

    /// Its name, unique on this machine: also the containerd namespace and the
    /// cgroup of what runs in it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in it.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    /// A directory in it, made when it is missing.
    pub fn subdir(&self, relative: &str) -> Result<PathBuf> {
        let dir = self.dir.join(relative);
        fs::create_dir_all(&dir).at("create", &dir)?;
        Ok(dir)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        clear(&self.dir, &self.name);
        if std::thread::panicking() && std::env::var_os("PONTOON_KEEP").is_some() {
            eprintln!("kept {}", self.dir.display());
            return;
        }
        remove(&self.dir);
    }
}

/// The mount points at or below `dir`, the innermost last.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").at("read", "/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.map(|field| PathBuf::from(unescape(field)));
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// Undoes mountinfo's octal escapes (proc_pid_mountinfo(5)).
fn unescape(field: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(field.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

fn lock_file(base: &Path, name: &str) -> Result<File> {
    let path = base.join(format!("{name}.lock"));
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .at("open", &path)
}

fn sweep(base: &Path) -> Result<()> {
    for entry in fs::read_dir(base).at("list", base)? {
        let path = entry.at("list", base)?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if !path.is_dir() {
            continue;
        }
        let lock = lock_file(base, name)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            clear(&path, name);
            remove(&path);
        }
    }
    Ok(())
}

/// Ends what runs in a sandbox and unmounts what is mounted below it.
fn clear(dir: &Path, name: &str) {
    let limit = Duration::from_secs(20);
    let what = "end of the sandbox's processes";
    let gone = wait::until_even_if_interrupted(what, limit, || {
        let left = processes(dir, name);
        for pid in &left {
            // One that has ended meanwhile is what is wanted.
            let _ = kill_process(*pid, Signal::KILL);
        }
        Ok(left.is_empty().then_some(()))
    });
    if let Err(error) = gone {
        eprintln!("sandbox {name}: {error}");
    }
    for cgroup in cgroups(name) {
        remove_cgroup(&cgroup);
    }
    for point in mounts_below(dir).unwrap_or_default().iter().rev() {
        let _ = unmount(point, UnmountFlags::DETACH);
    }
    let _ = fs::remove_dir_all(Path::new("/run/containerd/runc").join(name));
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("cannot delete {}: {error}", dir.display());
        return;
    }
    let _ = fs::remove_file(dir.with_extension("lock"));
}

/// The processes of a sandbox: those that name its directory, those in its
/// cgroups, and the descendants of both.
fn processes(dir: &Path, name: &str) -> HashSet<Pid> {
    // With the slash, because one name may begin another.
    let needle = format!("{}/", dir.display());
    let mut parents = Vec::new();
    let mut ours = HashSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let raw = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok());
        let Some(pid) = raw.and_then(Pid::from_raw) else {
            continue;
        };
        let Some(parent) = parent_of(&entry.path()) else {
            continue;
        };
        parents.push((pid, parent));
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let named = String::from_utf8_lossy(&line).contains(&needle);
        if named && pid != rustix::process::getpid() {
            ours.insert(pid);
        }
    }
    for cgroup in cgroups(name) {
        collect_cgroup(&cgroup, &mut ours);
    }
    loop {
        let children = parents.iter().filter(|(_, parent)| ours.contains(parent));
        let children: Vec<Pid> = children.map(|(pid, _)| *pid).collect();
        let before = ours.len();
        ours.extend(children);
        if ours.len() == before {
            return ours;
        }
    }
}

/// The parent of a process that is alive (a zombie is not: its parent reaps it).
fn parent_of(proc_dir: &Path) -> Option<Pid> {
    let stat = fs::read_to_string(proc_dir.join("stat")).ok()?;
    // The name in parentheses may hold anything; the fields after it do not.
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok().and_then(Pid::from_raw)?;
    (state != "Z").then_some(parent)
}

/// The cgroups of that name, of every v1 hierarchy and of v2.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    let all = hierarchies
        .chain([base.to_owned()])
        .map(|dir| dir.join(name));
    all.filter(|dir| dir.is_dir()).collect()
}

fn collect_cgroup(dir: &Path, into: &mut HashSet<Pid>) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    into.extend(
        procs
            .lines()
            .filter_map(|l| l.parse().ok())
            .filter_map(Pid::from_raw),
    );
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            collect_cgroup(&child.path(), into);
        }
    }
}

fn remove_cgroup(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_cgroup(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn nothing_outlives_a_sandbox() {
        let sandbox = Sandbox::new().unwrap();
        let (dir, name) = (sandbox.dir().to_owned(), sandbox.name().to_owned());
        let inner = sandbox.subdir("a mount").unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(&inner)
            .status();
        assert!(mounted.unwrap().success());
        assert_eq!(mounts_below(&dir).unwrap(), [inner.as_path()]);
        // A shell that names the sandbox, and a child that does not.
        // If the child is killed first, the shell may end by itself.
        let script = "sleep 3600 & echo $! > \"$0/child\"; wait; exit 1";
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg(&inner)
            .spawn()
            .unwrap();
        let child = wait::until("the shell's child", Duration::from_secs(10), || {
            let text = fs::read_to_string(inner.join("child")).unwrap_or_default();
            Ok(text.trim().parse::<i32>().ok())
        });
        let child = child.unwrap();
        assert_eq!(processes(&dir, &name).len(), 2);

        drop(sandbox);
        assert!(!shell.wait().unwrap().success());
        let ended = || {
            let path = format!("/proc/{child}/cmdline");
            Ok(fs::read(path).unwrap_or_default().is_empty().then_some(()))
        };
        wait::until("end of the child", Duration::from_secs(10), ended).unwrap();
        assert_eq!(mounts_below(&dir).unwrap(), Vec::<PathBuf>::new());
        assert!(!dir.exists());
    }

    /// What a killed run left behind: a sandbox whose lock nobody holds.
    #[test]
    fn the_next_sandbox_sweeps_what_a_killed_run_left() {
        let base = checkout::rig_dir().join("run");
        let name = format!("pt{}-left", process::id());
        let dir = base.join(&name);
        fs::create_dir_all(dir.join("containerd")).unwrap();
        drop(lock_file(&base, &name).unwrap());
        let other = Sandbox::new().unwrap();
        assert!(other.dir().exists() && !dir.exists());
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
    }
}
