//! What a wire has seen.

use std::time::{Duration, Instant};

/// The longest head of a request that is read along.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What went over a wire.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// How many connections were opened.
    pub connections: usize,
    /// How many bytes reached clients, heads and TLS included.
    pub bytes: u64,
    /// The requests, in the order in which clients sent them; none of TLS or HTTP/2.
    pub transfers: Vec<Transfer>,
    /// When the link carried something towards clients, in order, without gaps of nothing.
    pub busy: Vec<(Instant, Instant)>,
}

/// One request and its answer, by the client's clock.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// The number of its connection.
    pub connection: usize,
    /// Method and path, `GET /v2/...`.
    pub request: String,
    /// The header `Range`, as it was sent.
    pub range: Option<String>,
    /// When the client sent it.
    pub asked: Instant,
    /// When the first byte of the answer reached the client.
    pub first: Option<Instant>,
    /// When the last byte so far reached the client.
    pub last: Option<Instant>,
    /// How many bytes of the answer reached the client, its head included.
    pub bytes: u64,
}

impl Transfer {
    /// Whether it asks for a blob or a part of one.
    pub fn is_blob(&self) -> bool {
        self.request.starts_with("GET ") && self.request.contains("/blobs/")
    }
}

impl Journal {
    /// For how long the link carried something between two moments.
    pub fn busy_between(&self, from: Instant, to: Instant) -> Duration {
        let overlap = |&(start, end): &(Instant, Instant)| {
            end.min(to).saturating_duration_since(start.max(from))
        };
        self.busy.iter().map(overlap).sum()
    }

    /// How many bytes of the answers to `wanted` requests reached clients.
    pub fn bytes_of(&self, wanted: impl Fn(&Transfer) -> bool) -> u64 {
        let wanted = self.transfers.iter().filter(|transfer| wanted(transfer));
        wanted.map(|transfer| transfer.bytes).sum()
    }

    /// Notes that the link carries from `start` to `end`.
    pub(super) fn carried(&mut self, start: Instant, end: Instant) {
        match self.busy.last_mut() {
            Some((_, last)) if *last >= start => *last = end,
            _ => self.busy.push((start, end)),
        }
    }

    /// Notes that `bytes` reached the client of connection `connection`.
    pub(super) fn delivered(&mut self, connection: usize, bytes: usize, now: Instant) {
        self.bytes += bytes as u64;
        let mut of_connection = self.transfers.iter_mut().rev();
        if let Some(transfer) = of_connection.find(|t| t.connection == connection) {
            transfer.first.get_or_insert(now);
            transfer.last = Some(now);
            transfer.bytes += bytes as u64;
        }
    }
}

/// Reads the heads of requests out of what a client sends.
#[derive(Debug, Default)]
pub(super) struct Reader {
    head: Vec<u8>,
    /// How much of the body of a request is still to come.
    body: u64,
    /// It is not HTTP/1.1 in the clear.
    blind: bool,
}

impl Reader {
    /// Takes what the client of connection `connection` sent and returns the requests whose
    /// heads end in it.
    pub(super) fn read(&mut self, mut bytes: &[u8], connection: usize) -> Vec<Transfer> {
        let mut found = Vec::new();
        while !bytes.is_empty() && !self.blind {
            let skipped = bytes
                .len()
                .min(usize::try_from(self.body).unwrap_or(usize::MAX));
            self.body -= skipped as u64;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                break;
            }
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            // The end may have begun in what came before.
            let from = before.saturating_sub(3);
            let end = self.head[from..].windows(4).position(|w| w == b"\r\n\r\n");
            let Some(end) = end.map(|at| from + at + 4) else {
                self.blind = self.head.len() > HEAD_BYTES_MAX || self.head[0] < b' ';
                break;
            };
            bytes = &bytes[end - before..];
            self.head.truncate(end);
            found.extend(self.request(connection));
            self.head.clear();
        }
        found
    }

    /// What the head says; `None` if it is none.
    fn request(&mut self, connection: usize) -> Option<Transfer> {
        let text = String::from_utf8_lossy(&self.head).into_owned();
        let mut lines = text.lines();
        let first = lines.next()?;
        self.blind = !first.ends_with(" HTTP/1.1");
        let request = first.strip_suffix(" HTTP/1.1")?.to_owned();
        let mut range = None;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("range") {
                range = Some(value.trim().to_owned());
            } else if name.eq_ignore_ascii_case("content-length") {
                self.body = value.trim().parse().unwrap_or(0);
            }
        }
        Some(Transfer {
            connection,
            request,
            range,
            asked: Instant::now(),
            first: None,
            last: None,
            bytes: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_however_they_are_cut() {
        let text = b"GET /a HTTP/1.1\r\nRange: bytes=1-2\r\n\r\n\
            PUT /b HTTP/1.1\r\ncontent-length: 5\r\n\r\n\r\n\r\n.\
            GET /d HTTP/1.1\r\n\r\n";
        for size in 1..=text.len() {
            let mut reader = Reader::default();
            let pieces = text.chunks(size);
            let found: Vec<Transfer> = pieces.flat_map(|piece| reader.read(piece, 0)).collect();
            let requests: Vec<&str> = found.iter().map(|t| t.request.as_str()).collect();
            assert_eq!(
                requests,
                ["GET /a", "PUT /b", "GET /d"],
                "in pieces of {size}"
            );
            assert_eq!(found[0].range.as_deref(), Some("bytes=1-2"));
        }
    }

    #[test]
    fn busy_times_are_cut_to_what_is_asked_for() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut journal = Journal::default();
        for (start, end) in [(0, 10), (10, 20), (30, 40)] {
            journal.carried(at(start), at(end));
        }
        assert_eq!(journal.busy.len(), 2);
        let busy = journal.busy_between(at(5), at(35));
        assert_eq!(busy, Duration::from_millis(20));
    }
}
