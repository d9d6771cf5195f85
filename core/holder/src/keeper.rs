//! What a daemon has of a holder, whichever process that is at the moment.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pontoon_linux::PacketSocket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::client::{Client, Held, Keep};
use crate::start::connect_or_start;
use crate::{Error, Result};

/// Pauses between attempts to get another holder: at first it may be about to start.
const PAUSES_MS: [u64; 8] = [10, 20, 50, 100, 200, 500, 1000, 5000];

/// How a daemon wants its connections kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The holder's directory.
    pub directory: PathBuf,
    /// What is started where no holder runs.
    pub program: PathBuf,
    /// Whether a unit of its own runs the holder.
    pub unit: bool,
    /// For how long connections are kept when no daemon serves them.
    pub patience: Duration,
    /// What the holder's log says when it gives up a connection.
    pub advice: String,
}

/// Has a holder keep what this daemon serves. Starts one when there is something to keep, and when one is lost gives
/// everything to another.
///
/// Dropped, it hangs up: the holder then waits for a successor.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    /// Wakes the watcher, and ends it when it ends.
    waker: Option<PacketSocket>,
    watcher: Option<JoinHandle<()>>,
}

/// The holder, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its process, if there is one.
    pub pid: Option<u32>,
    /// How many connections it keeps for this daemon.
    pub kept: usize,
    /// How often it was lost and another one found or started.
    pub lost: u64,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    client: Option<Client>,
    pid: Option<u32>,
    kept: BTreeMap<String, Kept>,
    serves: bool,
    lost: u64,
}

#[derive(Debug)]
struct Kept {
    device: OwnedFd,
    state: Vec<u8>,
    connection: u32,
}

impl Keeper {
    /// A keeper. Starts nothing yet.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            settings,
            inner: Mutex::default(),
        });
        let (waker, woken) = PacketSocket::pair()?;
        let watched = Arc::clone(&shared);
        let watcher = thread::Builder::new()
            .name("holder".to_owned())
            .spawn(move || watched.watch(&woken))?;
        Ok(Keeper {
            shared,
            waker: Some(waker),
            watcher: Some(watcher),
        })
    }

    /// What a predecessor has left, if a holder is there. All of it is kept on: what is of no use has to be
    /// [forgotten](Self::forget).
    pub fn held(&self) -> Result<Vec<Held>> {
        let mut inner = self.shared.lock();
        if inner.client.is_none() {
            match Client::connect(&self.shared.settings.directory)? {
                Some(client) => inner.meet(client)?,
                None => return Ok(Vec::new()),
            }
        }
        inner.client.as_ref().map_or(Ok(Vec::new()), Client::list)
    }

    /// Has `device` kept as `name`, also by whichever holder comes after this one. On an error it will be kept as soon
    /// as there is a holder.
    pub fn keep(&self, name: &str, device: BorrowedFd<'_>) -> Result<()> {
        let copied = device.try_clone_to_owned().map_err(|source| Error::Lost {
            directory: self.shared.settings.directory.clone(),
            source,
        })?;
        let kept = Kept {
            device: copied,
            state: Vec::new(),
            connection: 0,
        };
        self.take(name, kept);
        let given = self.shared.give(name);
        self.wake();
        given
    }

    /// Goes on keeping what a predecessor has left.
    pub fn adopt(&self, held: Held, connection: u32) {
        let kept = Kept {
            device: held.device,
            state: held.state,
            connection,
        };
        self.take(&held.name, kept);
        self.wake();
    }

    /// Has the watcher look at what has changed.
    fn wake(&self) {
        let woken = self.waker.as_ref().map(|waker| waker.send(b"!", None));
        if let Some(Err(error)) = woken {
            tracing::warn!(%error, "nobody watches the holder");
        }
    }

    fn take(&self, name: &str, kept: Kept) {
        self.shared.lock().kept.insert(name.to_owned(), kept);
    }

    /// Notes what a successor has to know about what is kept as `name`.
    pub fn note(&self, name: &str, state: &[u8], connection: u32) -> Result<()> {
        if let Some(kept) = self.shared.lock().kept.get_mut(name) {
            kept.state = state.to_vec();
            kept.connection = connection;
        }
        self.shared
            .tell(|client| client.note(name, state, connection))
    }

    /// What is kept as `name` is of no use any more.
    pub fn forget(&self, name: &str) {
        self.shared.lock().kept.remove(name);
        self.tell_if_there(|client| client.forget(name));
    }

    /// From now on this daemon serves what is kept: the holder waits for no other one.
    pub fn serve(&self) {
        self.shared.lock().serves = true;
        self.tell_if_there(Client::serve);
    }

    fn tell_if_there(&self, ask: impl Fn(&Client) -> Result<()>) {
        let told = self.shared.lock().client.as_ref().map(ask);
        if let Some(Err(error)) = told {
            // It is lost, and the next one is told everything.
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the holder is not told"
            );
        }
    }

    /// For how long connections are kept.
    pub fn patience(&self) -> Duration {
        self.shared.settings.patience
    }

    /// The program that holds, which can also open what a daemon must not open itself.
    pub fn program(&self) -> &std::path::Path {
        &self.shared.settings.program
    }

    /// How it is.
    pub fn state(&self) -> State {
        let inner = self.shared.lock();
        State {
            pid: inner.pid.filter(|_| inner.client.is_some()),
            kept: inner.kept.len(),
            lost: inner.lost,
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.waker.take());
        if let Some(watcher) = self.watcher.take() {
            // One that panicked has said so.
            let _ = watcher.join();
        }
    }
}

impl Inner {
    /// Goes on with `client`.
    fn meet(&mut self, client: Client) -> Result<()> {
        self.pid = Some(client.hello()?.pid);
        self.client = Some(client);
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep<'a>(&'a self, name: &'a str, kept: &'a Kept) -> Keep<'a> {
        Keep {
            name,
            state: &kept.state,
            patience: self.settings.patience,
            connection: kept.connection,
            advice: &self.settings.advice,
        }
    }

    /// Gives what is kept as `name` to the holder.
    fn give(&self, name: &str) -> Result<()> {
        let mut inner = self.lock();
        let given = match (&inner.client, inner.kept.get(name)) {
            (Some(client), Some(kept)) => client.keep(&self.keep(name, kept), kept.device.as_fd()),
            // Another one is given everything.
            _ => return self.replace(&mut inner),
        };
        match given {
            Err(Error::Lost { .. } | Error::Garbled { .. }) => self.replace(&mut inner),
            given => given,
        }
    }

    fn tell(&self, ask: impl Fn(&Client) -> Result<()>) -> Result<()> {
        let mut inner = self.lock();
        match inner.client.as_ref().map(ask) {
            None | Some(Err(Error::Lost { .. } | Error::Garbled { .. })) => {
                self.replace(&mut inner)
            }
            Some(told) => told,
        }
    }

    /// Finds or starts another holder, and gives it everything.
    fn replace(&self, inner: &mut Inner) -> Result<()> {
        inner.client = None;
        let settings = &self.settings;
        let client = connect_or_start(&settings.program, &settings.directory, settings.unit)?;
        for (name, kept) in &inner.kept {
            client.keep(&self.keep(name, kept), kept.device.as_fd())?;
        }
        if inner.serves {
            client.serve()?;
        }
        inner.meet(client)?;
        tracing::info!(
            pid = inner.pid,
            kept = inner.kept.len(),
            "a holder keeps the connections of lazy layers"
        );
        Ok(())
    }

    /// Sees to it that there is a holder for as long as there is something to keep.
    fn watch(&self, woken: &PacketSocket) {
        let mut failures = 0;
        loop {
            let pause = match failures {
                0 => None,
                failures => PAUSES_MS.get(failures.min(PAUSES_MS.len()) - 1),
            };
            if self.wait(woken, pause.copied().map(Duration::from_millis)) {
                return;
            }
            let mut inner = self.lock();
            if inner.client.is_some() || inner.kept.is_empty() {
                failures = 0;
                continue;
            }
            match self.replace(&mut inner) {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    drop(inner);
                    // Once: it is tried for as long as it takes.
                    if failures == 1 {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "nobody keeps the connections of lazy layers: if this daemon dies now, containers on them read errors; trying again"
                        );
                    }
                }
            }
        }
    }

    /// Waits until the holder is lost, somebody wakes us, or `pause` is over. True if nothing is left to do.
    fn wait(&self, woken: &PacketSocket, pause: Option<Duration>) -> bool {
        let client = {
            let inner = self.lock();
            let client = inner.client.as_ref();
            client.and_then(|client| client.as_fd().try_clone_to_owned().ok())
        };
        // Only hanging up is waited for: answers are read by who has asked.
        let mut polled = vec![PollFd::new(woken, PollFlags::IN)];
        polled.extend(
            client
                .iter()
                .map(|client| PollFd::new(client, PollFlags::RDHUP)),
        );
        let pause = pause.map(|pause| Timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: pause.subsec_nanos().into(),
        });
        // An interruption is as good as the end of the pause.
        let _ = poll(&mut polled, pause.as_ref());
        let mut ended = polled.iter().map(|one| !one.revents().is_empty());
        if ended.next().unwrap_or_default() && !matches!(woken.receive(&mut [0; 8]), Ok(Some(_))) {
            return true;
        }
        if ended.next().unwrap_or_default() {
            drop(polled);
            let mut inner = self.lock();
            // Unless somebody else has noticed.
            let same = inner
                .client
                .as_ref()
                .zip(client.as_ref())
                .is_some_and(|(now, then)| is_same(now.as_fd(), then.as_fd()));
            if same {
                inner.client = None;
                inner.lost += 1;
                let kept = inner.kept.len();
                drop(inner);
                tracing::warn!(kept, "the holder of lazy layers' connections is gone");
            }
        }
        false
    }
}

/// Whether both are ends of one socket.
fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let inode = |socket| rustix::fs::fstat(socket).map(|stat| stat.st_ino);
    matches!((inode(one), inode(other)), (Ok(one), Ok(other)) if one == other)
}
