//! Who a peer is, because a pid alone may be somebody else by the time it is looked up; and what this process may have.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::raw;

/// As many open files as systemd's units ask for. More is not asked for where nothing limits them: programs that are
/// started from here get the limit too, and some of them go through every number below it when they start.
const OPEN_FILES_MAX: u64 = 1 << 20;

/// When process `pid` started, in clock ticks since boot: with the pid it names one process for good.
///
/// An error of kind `NotFound` says that there is no such process (any more).
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Has the C library give memory that is free back to the kernel, where it keeps some. Takes milliseconds, during which
/// whoever allocates may wait.
pub fn give_memory_back() -> bool {
    raw::trim_malloc()
}

/// Has the C library take memory from at most `arenas_max` heaps, where it has that choice.
///
/// It gives threads heaps of their own, up to eight for each processor. Data that many threads make in turn, a cache
/// for instance, is then spread over all of them, and none can give back what it has free.
pub fn limit_malloc_arenas(arenas_max: i32) -> bool {
    raw::limit_malloc_arenas(arenas_max)
}

/// Raises how many files this process may have open (`RLIMIT_NOFILE`, getrlimit(2)) to what it is allowed to, at most
/// 1,048,576. Answers the limit before and now; they are the same if nothing was to be raised.
///
/// Whoever starts a daemon without systemd's unit gives it 1024: too little where each layer has files of its own.
pub fn raise_open_files() -> io::Result<(u64, u64)> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let before = current.unwrap_or(u64::MAX);
    let allowed = maximum.unwrap_or(u64::MAX).min(OPEN_FILES_MAX);
    if before >= allowed {
        return Ok((before, before));
    }
    let raised = Rlimit {
        current: Some(allowed),
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok((before, allowed))
}

/// Field 22 of proc_pid_stat(5). The second field, the program's name, may hold spaces and parentheses.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_shift_the_fields() {
        let stat = "7 (a) b ) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99887 1 2 3";
        assert_eq!(parse_start_time(stat), Some(99887));
        assert_eq!(parse_start_time("garbage"), None);
    }

    #[test]
    fn open_files_are_raised_to_what_is_allowed_once() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let allowed = maximum.unwrap_or(u64::MAX).min(OPEN_FILES_MAX);
        // Other tests run beside this one, and need some.
        let few = Rlimit {
            current: Some(allowed.min(600)),
            maximum,
        };
        setrlimit(Resource::Nofile, few).unwrap();
        let raised = raise_open_files().unwrap();
        assert_eq!(raised, (allowed.min(600), allowed));
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, Some(allowed));
        assert_eq!(now.maximum, maximum);
        assert_eq!(raise_open_files().unwrap(), (allowed, allowed));
    }

    #[test]
    fn a_child_started_after_its_parent_and_is_gone_after_its_end() {
        let own = start_time(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let started = start_time(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(started.unwrap() >= own);
        let gone = start_time(child.id()).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
