//! Who calls: each snapshotter name belongs to one process at a time.
//!
//! containerd removes every snapshot under a name that its own database does not know, so two writers on one name
//! destroy each other's data. The first process that writes under a name owns it for as long as one of its
//! connections is open; another process may read under that name and is refused when it writes.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_snapshot::{Error, Result, SnapshotterName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UnixStream;

/// All open connections, and the names that their processes own.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    last_id: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: HashMap<u64, (Process, OwnedFd)>,
    owners: HashMap<SnapshotterName, Process>,
}

/// One open connection. It counts as closed when this is dropped.
#[derive(Debug)]
pub(crate) struct Caller {
    id: u64,
    process: Process,
    callers: Arc<Callers>,
}

/// A process: two connections with equal values come from the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    /// A pid, and when it started, because pids are used again.
    Known { pid: u32, started: u64 },
    /// A process of another pid namespace has no pid here; then its connection is all that is known.
    Foreign { connection: u64 },
}

impl Callers {
    /// Takes note of a new connection.
    pub(crate) fn connected(self: &Arc<Self>, stream: &UnixStream) -> std::io::Result<Caller> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let pid = stream
            .peer_cred()?
            .pid()
            .and_then(|pid| u32::try_from(pid).ok());
        let process = match pid {
            None | Some(0) => Process::Foreign { connection: id },
            // A process that is gone already has no start time; nothing it asked for matters any more.
            Some(pid) => Process::Known {
                pid,
                started: pontoon_linux::process::start_time(pid).unwrap_or_default(),
            },
        };
        let socket = rustix::io::fcntl_dupfd_cloexec(stream.as_fd(), 0)?;
        self.state().connections.insert(id, (process, socket));
        Ok(Caller {
            id,
            process,
            callers: Arc::clone(self),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    /// Makes this process the owner of `name`, unless another one is.
    pub(crate) fn claim(&self, name: &SnapshotterName) -> Result<()> {
        let mut state = self.callers.state();
        match state.owners.get(name).copied() {
            Some(owner) if owner == self.process => Ok(()),
            Some(owner) if state.is_connected(owner) => Err(Error::Refused {
                what: format!("writing under snapshotter {name} from {}", self.process),
                reason: format!(
                    "it belongs to {owner} while that is connected; give each containerd or BuildKit a snapshotter name of its own"
                ),
            }),
            _ => {
                state.owners.insert(name.clone(), self.process);
                Ok(())
            }
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut state = self.callers.state();
        state.connections.remove(&self.id);
        let others = state.connections.values();
        if !others
            .into_iter()
            .any(|(process, _)| *process == self.process)
        {
            state.owners.retain(|_, owner| *owner != self.process);
        }
    }
}

impl State {
    /// Whether any connection of `process` is open at its end too: a killed containerd's successor may be here
    /// before the end of its own connections was read.
    fn is_connected(&self, process: Process) -> bool {
        let mut connections = self.connections.values();
        connections.any(|(of, socket)| *of == process && !is_hung_up(socket))
    }
}

fn is_hung_up(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let ready = poll(&mut polled, Some(&at_once)).unwrap_or_default();
    ready > 0
        && polled[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR)
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Known { pid, .. } => {
                let program =
                    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                match program.trim_end() {
                    "" => write!(f, "process {pid}"),
                    program => write!(f, "process {pid} ({program})"),
                }
            }
            Process::Foreign { connection } => {
                write!(
                    f,
                    "a process of another pid namespace (connection {connection})"
                )
            }
        }
    }
}
