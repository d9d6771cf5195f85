//! How a node gives chunks to others: as `core/peer/src/wire/server` does, with its limits.

use std::ops::Range;
use std::time::Duration;

use pontoon_peer::Class;
use pontoon_peer::policy::{AskId, Failure};

use crate::event::{Event, Name, Request, Time};
use crate::node::Node;
use crate::world::{World, nanoseconds, time_of};

/// Answers under way in all, and to one node.
const UPLOADS: (usize, usize) = (64, 8);

/// Requests that wait, and those of one node among them.
const QUEUED: (usize, usize) = (256, 16);

/// When to come again for whom there was no place.
const BUSY: Duration = Duration::from_millis(50);

/// Bytes of a request for chunks and of the headers of its answer, on HTTP/1.1.
const HEADERS: u64 = 450;

/// An answer under way, or one that waits.
#[derive(Debug)]
pub(crate) struct Upload {
    to: Name,
    id: AskId,
    class: Class,
    chunks: Range<usize>,
    /// Chunks that are still to be sent.
    left: usize,
    is_active: bool,
}

impl Node {
    /// Requests of `of`, or of all, that are answered, or that wait.
    fn count(&self, is_active: bool, of: Option<Name>) -> usize {
        let counted = self.uploads.iter().filter(|upload| {
            upload.is_active == is_active && of.is_none_or(|name| name == upload.to)
        });
        counted.count()
    }

    fn has_place_for(&self, to: Name) -> bool {
        self.count(true, None) < UPLOADS.0 && self.count(true, Some(to)) < UPLOADS.1
    }

    /// Begins to answer those for whom there is a place now.
    fn admit(&mut self, chunk_bytes: u64) {
        while let Some(at) = (0..self.uploads.len()).find(|at| {
            let upload = &self.uploads[*at];
            !upload.is_active && self.has_place_for(upload.to)
        }) {
            let upload = &mut self.uploads[at];
            upload.is_active = true;
            for chunk in upload.chunks.clone() {
                self.fair.push(
                    upload.to,
                    upload.class,
                    chunk_bytes,
                    (upload.to, upload.id, chunk),
                );
            }
        }
    }
}

impl World {
    /// A node asks `node` for chunks.
    pub(crate) fn asked(&mut self, node: Name, request: Request) {
        let chunk_bytes = u64::from(self.scenario.chunk_bytes);
        let from = request.from;
        self.node(node).control.bytes += HEADERS;
        self.node(node).control.messages += 1;
        let giver = self.node(node);
        let has_all = request.chunks.clone().all(|chunk| giver.have.get(chunk));
        let is_full =
            giver.count(false, None) >= QUEUED.0 || giver.count(false, Some(from)) >= QUEUED.1;
        let failure = match (has_all, is_full) {
            (false, _) => Some(Failure::Missing),
            (true, true) => Some(Failure::Busy(BUSY)),
            (true, false) => None,
        };
        if let Some(failure) = failure {
            let delay = self.latency();
            self.plan(delay, Event::Failed(from, request.id, failure));
            return;
        }
        giver.uploads.push(Upload {
            to: from,
            id: request.id,
            class: request.class,
            left: request.chunks.len(),
            chunks: request.chunks,
            is_active: false,
        });
        giver.admit(chunk_bytes);
        self.send(node);
    }

    /// Sends the next chunk, if there is one and the link is free.
    fn send(&mut self, node: Name) {
        let bytes = u64::from(self.scenario.chunk_bytes);
        let now = self.instant();
        let giver = self.node(node);
        if giver.is_sending || giver.fair.is_empty() {
            return;
        }
        if let Err(wait) = giver.bucket.take(now, bytes as f64) {
            giver.is_sending = true;
            // Nothing is sent meanwhile; then it is tried again.
            self.plan(nanoseconds(wait), Event::Sent(node));
            return;
        }
        let Some(served) = giver.fair.pop(|_| true) else {
            return;
        };
        giver.is_sending = true;
        giver.given_bytes += bytes;
        let (_, id, chunk) = served.item;
        let is_right = !giver.is_liar;
        let is_it = |upload: &Upload| upload.to == served.peer && upload.id == id;
        let mut is_last = false;
        if let Some(at) = giver.uploads.iter().position(is_it) {
            giver.uploads[at].left -= 1;
            is_last = giver.uploads[at].left == 0;
            if is_last {
                giver.uploads.remove(at);
                giver.admit(bytes);
            }
        }
        let time = time_of(bytes, giver.upload_bytes_per_second);
        let delay = time + self.latency();
        let delay = self.receive(served.peer, delay, bytes);
        let came = Event::Came(served.peer, id, chunk, is_right, is_last);
        self.plan(delay, came);
        self.plan(time, Event::Sent(node));
    }

    /// The link of `node` is free again.
    pub(crate) fn sent(&mut self, node: Name) {
        self.node(node).is_sending = false;
        self.send(node);
    }

    /// A node does not want any more what it has asked `node` for.
    pub(crate) fn cancelled(&mut self, node: Name, by: Name, id: AskId) {
        let chunk_bytes = u64::from(self.scenario.chunk_bytes);
        let giver = self.node(node);
        let before = giver.uploads.len();
        giver
            .uploads
            .retain(|upload| upload.to != by || upload.id != id);
        if giver.uploads.len() < before {
            giver
                .fair
                .retain(|(whose, other, _)| *whose != by || *other != id);
            giver.admit(chunk_bytes);
        }
    }

    /// How long a request takes to get to another node.
    pub(crate) fn ask(&mut self, node: Name, peer: Name, request: Request) {
        self.node(node).control.bytes += HEADERS;
        self.node(node).control.messages += 1;
        let delay: Time = self.latency();
        self.plan(delay, Event::Asked(peer, request));
    }
}
