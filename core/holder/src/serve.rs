//! The holder: one thread, one loop.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pontoon_linux::{DirLock, PacketSocket, abort_connection};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::entries::{Entries, Entry};
use crate::protocol::{
    DONE, ENTRIES, ENTRY, FORGET, HELLO, KEEP, LIST, NOTE, PACKET_BYTES_MAX, PROTOCOL, REFUSED,
    Reader, SERVE, WELCOME, Writer,
};
use crate::{Error, Result, SOCKET};

/// Daemons and others that may be connected at the same time.
const CLIENTS_MAX: usize = 64;

/// How long somebody who has asked may leave the answer unread.
const READ_PATIENCE: Duration = Duration::from_secs(1);

/// How long it waits for whoever had it started.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// How a holder runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where its socket is: a directory that only its owner may look into. Made if it is missing.
    pub directory: PathBuf,
    /// Whether it stays when it keeps nothing and nobody is connected.
    pub stay: bool,
}

/// Keeps what it is given, until nobody needs it any more. `ready` is called when it listens, `say` with each line of
/// its log.
///
/// [`Error::Io`] if it cannot listen, or another holder runs for the directory.
pub fn serve(options: &Options, ready: impl FnOnce(), mut say: impl FnMut(&str)) -> Result<()> {
    let directory = &options.directory;
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    };
    make_private(directory).map_err(failed("create directory", directory))?;
    // Freed by the kernel when this process ends.
    let lock = DirLock::acquire(directory)
        .map_err(|error| failed("lock", directory)(io::Error::other(error)))?;
    let path = directory.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &path)(error));
        }
        _ => {}
    }
    let listener = PacketSocket::listen(&path).map_err(failed("listen at", &path))?;
    ready();
    let mut holder = Holder {
        listener,
        clients: Vec::new(),
        entries: Entries::new(Instant::now()),
        begun: Instant::now(),
        was_asked: false,
        stay: options.stay,
    };
    while holder.is_needed() {
        holder.turn(&mut say).map_err(failed("wait at", &path))?;
    }
    // A successor of this process waits for the lock, and makes its own.
    let _ = fs::remove_file(&path);
    drop(lock);
    Ok(())
}

fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

struct Holder {
    listener: PacketSocket,
    clients: Vec<Connected>,
    entries: Entries,
    begun: Instant,
    /// Whether anybody has connected.
    was_asked: bool,
    stay: bool,
}

struct Connected {
    socket: PacketSocket,
    serves: bool,
}

/// What becomes of a client.
#[derive(PartialEq)]
enum Next {
    Stays,
    Goes,
}

impl Holder {
    fn is_needed(&self) -> bool {
        self.stay || self.entries.len() > 0 || !self.clients.is_empty() || self.is_expected()
    }

    /// Whether it waits for whoever had it started.
    fn is_expected(&self) -> bool {
        !self.was_asked && self.begun.elapsed() < FIRST_PATIENCE
    }

    /// Waits for something to happen, and does it.
    fn turn(&mut self, say: &mut impl FnMut(&str)) -> io::Result<()> {
        let ready = self.wait()?;
        let now = Instant::now();
        let mut ready = ready.into_iter();
        let somebody_connects = ready.next().unwrap_or_default();
        for (mut client, has_asked) in std::mem::take(&mut self.clients).into_iter().zip(ready) {
            if !has_asked || self.hear(&mut client, now) == Next::Stays {
                self.clients.push(client);
            }
        }
        if somebody_connects {
            self.welcome();
        }
        let served = self.clients.iter().any(|client| client.serves);
        self.entries.set_served(served, now);
        for (name, entry) in self.entries.expired(Instant::now()) {
            give_up(&name, entry, say);
        }
        Ok(())
    }

    /// Which of the listener and the clients can be read. None when the time of an entry is over.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let sockets = self.clients.iter().map(|client| &client.socket);
        let mut polled: Vec<PollFd<'_>> = [&self.listener]
            .into_iter()
            .chain(sockets)
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        let expected = self.is_expected().then(|| self.begun + FIRST_PATIENCE);
        let deadline = self.entries.deadline().into_iter().chain(expected).min();
        let timeout = deadline.map(|deadline| {
            let time = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: time.subsec_nanos().into(),
            }
        });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(polled.iter().map(|one| !one.revents().is_empty()).collect())
    }

    fn welcome(&mut self) {
        // Who is gone again, or is nobody who may ask, is not heard.
        let Ok(socket) = self.listener.accept() else {
            return;
        };
        let own = rustix::process::geteuid().as_raw();
        let may = socket
            .peer()
            .is_ok_and(|peer| peer.uid == own || peer.uid == 0);
        if may && self.clients.len() < CLIENTS_MAX && socket.set_patience(READ_PATIENCE).is_ok() {
            self.was_asked = true;
            let serves = false;
            self.clients.push(Connected { socket, serves });
        }
    }

    fn hear(&mut self, client: &mut Connected, now: Instant) -> Next {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let packet = match client.socket.receive(&mut buffer) {
            Ok(Some(packet)) => packet,
            Ok(None) | Err(_) => return Next::Goes,
        };
        let Some(reader) = buffer.get(..packet.length).and_then(Reader::new) else {
            return Next::Goes;
        };
        let answered = match reader.kind {
            LIST => self.list(&client.socket),
            _ => {
                let answer = self.answer(reader, packet.descriptor, client, now);
                let answer =
                    answer.unwrap_or_else(|why| Writer::new(REFUSED).field(why.as_bytes()));
                client.socket.send(answer.bytes(), None)
            }
        };
        match answered {
            Ok(()) => Next::Stays,
            Err(_) => Next::Goes,
        }
    }

    fn answer(
        &mut self,
        mut reader: Reader<'_>,
        descriptor: Option<std::os::fd::OwnedFd>,
        client: &mut Connected,
        now: Instant,
    ) -> Result<Writer, String> {
        let short = || "a field is missing".to_owned();
        match reader.kind {
            HELLO => {
                let kept = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
                return Ok(Writer::new(WELCOME)
                    .number(PROTOCOL)
                    .number(std::process::id())
                    .field(env!("CARGO_PKG_VERSION").as_bytes())
                    .number(kept));
            }
            KEEP => {
                let name = reader.text().ok_or_else(short)?;
                let entry = Entry {
                    state: reader.field().ok_or_else(short)?.to_vec(),
                    patience: Duration::from_millis(reader.large_number().ok_or_else(short)?),
                    connection: reader.number().ok_or_else(short)?,
                    advice: reader.text().ok_or_else(short)?,
                    descriptor: descriptor.ok_or("no descriptor came along")?,
                };
                self.entries.keep(name, entry, now)?;
            }
            NOTE => {
                let name = reader.text().ok_or_else(short)?;
                let state = reader.field().ok_or_else(short)?;
                let connection = reader.number().ok_or_else(short)?;
                self.entries.note(&name, state, connection)?;
            }
            SERVE => client.serves = true,
            FORGET => self.entries.forget(&reader.text().ok_or_else(short)?),
            kind => {
                return Err(format!(
                    "it does not know message {kind}, and speaks version {PROTOCOL}"
                ));
            }
        }
        Ok(Writer::new(DONE))
    }

    fn list(&self, socket: &PacketSocket) -> io::Result<()> {
        let all = self.entries.all();
        let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
        socket.send(Writer::new(ENTRIES).number(count).bytes(), None)?;
        for (name, entry) in all {
            let packet = Writer::new(ENTRY)
                .field(name.as_bytes())
                .field(&entry.state);
            socket.send(packet.bytes(), Some(entry.descriptor.as_fd()))?;
        }
        Ok(())
    }
}

/// Ends what nobody has taken over.
fn give_up(name: &str, entry: Entry, say: &mut impl FnMut(&str)) {
    let connection = entry.connection;
    // If somebody else has the device too, closing it here ends nothing. Without that file it has to be enough.
    let _ = abort_connection(connection);
    drop(entry.descriptor);
    say(&format!(
        "nobody has taken over {name} (FUSE connection {connection}) for {} seconds: ending it, so that what waits for it fails. {}",
        entry.patience.as_secs(),
        entry.advice
    ));
}
