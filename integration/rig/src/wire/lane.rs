//! One direction of one connection.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

/// What may wait for its turn on the link; more is left to the sender's socket.
const WAITING_MAX: usize = 4;

/// What may be on its way to a receiver who does not take it, in bytes: the window of TCP.
const FLYING_BYTES_MAX: usize = 4 << 20;

/// A piece of what was sent.
#[derive(Debug)]
struct Piece {
    /// When it was read, or when it arrives.
    at: Instant,
    bytes: Vec<u8>,
    /// How much of it the receiver has.
    taken: usize,
}

/// What one end sends to the other.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Read, and not yet on the link.
    waiting: VecDeque<Piece>,
    /// On the link.
    flying: VecDeque<Piece>,
    flying_bytes: usize,
    /// The sender has sent all.
    ended: bool,
    /// The receiver was told so.
    closed: bool,
    /// The receiver's socket is full.
    blocked: bool,
}

/// A connection that is broken.
#[derive(Debug)]
pub(super) struct Broken;

impl Lane {
    /// Whether more may be read from the sender.
    pub(super) fn wants(&self) -> bool {
        !self.ended && self.waiting.len() < WAITING_MAX
    }

    /// Whether its receiver's socket is full.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether all that was sent has arrived.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads at most `most` bytes and returns what was read; nothing is the sender's end.
    pub(super) fn read(
        &mut self,
        mut from: &TcpStream,
        most: usize,
        now: Instant,
    ) -> Result<Option<&[u8]>, Broken> {
        let mut bytes = vec![0; most];
        match from.read(&mut bytes) {
            Ok(0) => {
                self.ended = true;
                Ok(None)
            }
            Ok(length) => {
                bytes.truncate(length);
                self.waiting.push_back(Piece {
                    at: now,
                    bytes,
                    taken: 0,
                });
                Ok(self.waiting.back().map(|piece| piece.bytes.as_slice()))
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(_) => Err(Broken),
        }
    }

    /// When what goes next onto the link was read, and how many bytes it has.
    pub(super) fn next(&self) -> Option<(Instant, usize)> {
        let piece = self.waiting.front()?;
        let room = self.flying_bytes < FLYING_BYTES_MAX;
        room.then_some((piece.at, piece.bytes.len()))
    }

    /// Puts what goes next onto the link; it arrives at `at`.
    pub(super) fn depart(&mut self, at: Instant) {
        if let Some(mut piece) = self.waiting.pop_front() {
            piece.at = at;
            self.flying_bytes += piece.bytes.len();
            self.flying.push_back(piece);
        }
    }

    /// When the next piece arrives; `None` while the receiver takes nothing.
    pub(super) fn arrives(&self) -> Option<Instant> {
        let piece = self.flying.front().filter(|_| !self.blocked)?;
        Some(piece.at)
    }

    /// Hands over what has arrived and returns how many bytes.
    pub(super) fn deliver(&mut self, mut to: &TcpStream, now: Instant) -> Result<usize, Broken> {
        let mut delivered = 0;
        self.blocked = false;
        while let Some(piece) = self.flying.front_mut().filter(|piece| piece.at <= now) {
            match to.write(&piece.bytes[piece.taken..]) {
                Ok(length) => {
                    piece.taken += length;
                    delivered += length;
                    self.flying_bytes -= length;
                    if piece.taken == piece.bytes.len() {
                        self.flying.pop_front();
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken),
            }
        }
        if self.ended && !self.closed && self.waiting.is_empty() && self.flying.is_empty() {
            self.closed = true;
            // It may be gone already.
            let _ = to.shutdown(Shutdown::Write);
        }
        Ok(delivered)
    }
}
