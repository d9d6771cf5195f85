//! The thread of a wire.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Shared;
use super::journal::Reader;
use super::lane::{Broken, Lane};

/// How long a piece may occupy the link: what a small answer waits for behind a large one.
const PIECE_TIME: Duration = Duration::from_micros(500);

/// The bounds of a piece, in bytes.
const PIECE_BYTES: (usize, usize) = (16 * 1024, 64 * 1024);

/// How much more important than others the thread is (nice(2)): a link is not slower because
/// the processors are busy.
const NICE: i32 = -15;

struct Connection {
    number: usize,
    client: TcpStream,
    server: TcpStream,
    /// When its handshake is over.
    established: Instant,
    up: Lane,
    down: Lane,
    reader: Reader,
    broken: bool,
}

pub(super) struct Pump {
    listener: TcpListener,
    held: UnixStream,
    to: SocketAddr,
    shared: Arc<Shared>,
    connections: Vec<Connection>,
    accepted: usize,
    /// When the link towards the clients has carried all that is on it.
    free_at: Instant,
    /// Whose turn it is.
    turn: usize,
}

/// What `poll` said of one connection.
struct Events {
    client: PollFlags,
    server: PollFlags,
}

impl Pump {
    pub(super) fn new(
        listener: TcpListener,
        held: UnixStream,
        to: SocketAddr,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            listener,
            held,
            to,
            shared,
            connections: Vec::new(),
            accepted: 0,
            free_at: Instant::now(),
            turn: 0,
        }
    }

    /// Works until the other end of `held` is closed.
    pub(super) fn run(mut self) {
        // Without the right to them it works as well, less exactly.
        let _ = rustix::process::nice(NICE);
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        loop {
            let now = Instant::now();
            self.carry(now);
            self.deliver(now);
            self.connections.retain(|c| {
                let done = c.up.is_closed() && c.down.is_closed();
                !c.broken && !done
            });
            let Some((accept, events)) = self.wait() else {
                return;
            };
            self.read(&events);
            if accept {
                self.accept();
            }
        }
    }

    /// Waits for something to do; `None` when the wire was dropped.
    fn wait(&self) -> Option<(bool, Vec<Events>)> {
        let mut fds = vec![
            PollFd::new(&self.held, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        for c in &self.connections {
            let ends = [(&c.client, &c.up, &c.down), (&c.server, &c.down, &c.up)];
            for (stream, from, to) in ends {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, from.wants());
                flags.set(PollFlags::OUT, to.is_blocked());
                fds.push(PollFd::new(stream, flags));
            }
        }
        let timeout = self.next().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        // Interrupted or out of memory: it looks again.
        let _ = poll(&mut fds, timeout.as_ref());
        if !fds[0].revents().is_empty() {
            return None;
        }
        let accept = !fds[1].revents().is_empty();
        let events = fds[2..].chunks(2).map(|pair| Events {
            client: pair[0].revents(),
            server: pair[1].revents(),
        });
        Some((accept, events.collect()))
    }

    /// When there is something to do without anybody sending anything.
    fn next(&self) -> Option<Instant> {
        let arrivals = self.connections.iter().flat_map(|c| {
            let lanes = [c.up.arrives(), c.down.arrives()];
            lanes.into_iter().flatten()
        });
        let waits = self.connections.iter().any(|c| c.down.next().is_some());
        arrivals.chain(waits.then_some(self.free_at)).min()
    }

    fn accept(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            let now = Instant::now();
            let number = self.accepted;
            self.accepted += 1;
            self.shared.journal().connections += 1;
            // A server that is gone: the client sees its connection end.
            let Ok(server) = TcpStream::connect(self.to) else {
                continue;
            };
            let mut ready = true;
            for stream in [&client, &server] {
                ready &= stream.set_nodelay(true).is_ok() && stream.set_nonblocking(true).is_ok();
            }
            if ready {
                self.connections.push(Connection {
                    number,
                    client,
                    server,
                    established: now + self.shared.link().round_trip,
                    up: Lane::default(),
                    down: Lane::default(),
                    reader: Reader::default(),
                    broken: false,
                });
            }
        }
    }

    /// Reads what was sent.
    fn read(&mut self, events: &[Events]) {
        let link = self.shared.link();
        let now = Instant::now();
        let half = link.round_trip / 2;
        let most = piece_bytes(link.bytes_per_second);
        for (c, events) in self.connections.iter_mut().zip(events) {
            let ended = PollFlags::HUP | PollFlags::ERR;
            // The client is gone altogether; the server may be, with its answer sent.
            c.broken |= events.client.intersects(ended) || events.server.contains(PollFlags::ERR);
            if events.client.contains(PollFlags::IN) {
                match c.up.read(&c.client, most, now) {
                    Ok(Some(bytes)) => {
                        let requests = c.reader.read(bytes, c.number);
                        if !requests.is_empty() {
                            self.shared.journal().transfers.extend(requests);
                        }
                        // Requests are small: the way there has room.
                        c.up.depart(now.max(c.established) + half);
                    }
                    Ok(None) => {}
                    Err(Broken) => c.broken = true,
                }
            }
            if events.server.intersects(PollFlags::IN | PollFlags::HUP) && c.down.wants() {
                c.broken |= c.down.read(&c.server, most, now).is_err();
            }
        }
    }

    /// Puts onto the link what it has room for, a piece of each connection in turn.
    fn carry(&mut self, now: Instant) {
        let link = self.shared.link();
        let half = link.round_trip / 2;
        while self.free_at <= now {
            let count = self.connections.len();
            let order = (0..count).map(|n| (self.turn + n) % count);
            let next = order.filter_map(|n| Some((n, self.connections[n].down.next()?)));
            let Some((n, (read_at, bytes))) = next.take(1).last() else {
                return;
            };
            let takes = match link.bytes_per_second {
                0 => Duration::ZERO,
                rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
            };
            // That this thread is late costs the link nothing.
            let start = self.free_at.max(read_at);
            self.free_at = start + takes;
            self.connections[n].down.depart(self.free_at + half);
            self.shared.journal().carried(start, self.free_at);
            self.turn = n + 1;
        }
    }

    fn deliver(&mut self, now: Instant) {
        // Who has got bytes finds them in the journal.
        let mut journal = self.shared.journal();
        for c in &mut self.connections {
            c.broken |= c.up.deliver(&c.server, now).is_err();
            match c.down.deliver(&c.client, now) {
                Ok(0) => {}
                Ok(bytes) => journal.delivered(c.number, bytes, now),
                Err(Broken) => c.broken = true,
            }
        }
    }
}

/// How many bytes go onto a link at a time.
fn piece_bytes(rate: u64) -> usize {
    let (least, most) = PIECE_BYTES;
    match rate {
        0 => most,
        rate => (rate as f64 * PIECE_TIME.as_secs_f64()) as usize,
    }
    .clamp(least, most)
}
