//! The line that all layers share: what was asked for and has not come, and whether more may be asked for.
//!
//! What somebody waits for is asked for at once, always. What nobody waits for is asked for only as far as the line
//! would be idle otherwise:
//! - not while somebody waits for the first byte of an answer: it would come behind bytes that were asked for later;
//! - beside bytes that somebody waits for, only when half a window of all is left: then they are followed without a gap;
//! - else up to one window, which is twice what is on its way at any moment.
//!
//! So who comes to wait never finds more than a window of bytes before his own, whatever the protocol or the kernel
//! buffer.

use std::sync::Arc;

use tokio::sync::watch;

/// See the module.
#[derive(Debug)]
pub(crate) struct Line(watch::Sender<Load>);

/// What was asked for and has not come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    /// Answers that somebody waits for and that have not begun.
    silent: usize,
    /// Bytes in requests that somebody waited for when they were made.
    demanded: u64,
    /// Bytes in the others.
    ahead: u64,
    /// The number of the others.
    requests: usize,
}

impl Load {
    fn has_room(self, window: u64, requests_max: usize) -> bool {
        let most = match self.demanded {
            0 => window,
            _ => window / 2,
        };
        let all = self.demanded.saturating_add(self.ahead);
        // However small a window is, a line with nothing on it is idle.
        self.silent == 0 && self.requests < requests_max && (all < most || all == 0)
    }

    fn is_free(self, window: u64) -> bool {
        self.silent == 0 && self.demanded <= window / 2
    }

    fn with(self, other: Load) -> Load {
        Load {
            silent: self.silent.saturating_add(other.silent),
            demanded: self.demanded.saturating_add(other.demanded),
            ahead: self.ahead.saturating_add(other.ahead),
            requests: self.requests.saturating_add(other.requests),
        }
    }

    fn without(self, other: Load) -> Load {
        Load {
            silent: self.silent.saturating_sub(other.silent),
            demanded: self.demanded.saturating_sub(other.demanded),
            ahead: self.ahead.saturating_sub(other.ahead),
            requests: self.requests.saturating_sub(other.requests),
        }
    }
}

impl Line {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Line(watch::Sender::default()))
    }

    /// Returns when something may be asked for that nobody waits for, with `window` bytes as a window and at most
    /// `requests_max` requests.
    pub(crate) async fn room(&self, window: u64, requests_max: usize) {
        self.wait(|load| load.has_room(window, requests_max)).await;
    }

    /// Returns when what nobody waits for and comes already is in nobody's way.
    pub(crate) async fn free(&self, window: u64) {
        self.wait(|load| load.is_free(window)).await;
    }

    async fn wait(&self, is_so: impl Fn(Load) -> bool) {
        let mut load = self.0.subscribe();
        // The sender is `self`, so this does not fail.
        let _ = load.wait_for(|load| is_so(*load)).await;
    }

    /// `bytes` are asked for that somebody waits for, until the trip is dropped.
    pub(crate) fn demand(self: &Arc<Self>, bytes: u64) -> Trip {
        self.trip(true, bytes)
    }

    /// `bytes` are asked for that nobody waits for.
    pub(crate) fn ahead(self: &Arc<Self>, bytes: u64) -> Trip {
        self.trip(false, bytes)
    }

    fn trip(self: &Arc<Self>, is_demand: bool, left: u64) -> Trip {
        let mut trip = Trip {
            line: Arc::clone(self),
            is_demand,
            is_silent: is_demand,
            left,
            is_on: false,
        };
        trip.change(|trip| trip.is_on = true);
        trip
    }
}

/// A request as the line sees it.
#[derive(Debug)]
pub(crate) struct Trip {
    line: Arc<Line>,
    is_demand: bool,
    is_silent: bool,
    left: u64,
    /// Whether it counts.
    is_on: bool,
}

impl Trip {
    /// So many bytes of it came.
    pub(crate) fn came(&mut self, bytes: u64) {
        self.change(|trip| {
            trip.left = trip.left.saturating_sub(bytes);
            trip.is_silent = false;
            trip.is_on = true;
        });
    }

    /// Nothing has come for a while: it is not the line that is busy, so it does not count until something comes.
    pub(crate) fn rest(&mut self) {
        self.change(|trip| trip.is_on = false);
    }

    /// Changes what it counts for, at once: nobody sees a line without it in between.
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.load();
        change(self);
        let after = self.load();
        self.line.0.send_if_modified(|load| {
            let new = load.without(before).with(after);
            std::mem::replace(load, new) != new
        });
    }

    fn load(&self) -> Load {
        match (self.is_on, self.is_demand) {
            (false, _) => Load::default(),
            (true, true) => Load {
                silent: usize::from(self.is_silent),
                demanded: self.left,
                ..Load::default()
            },
            (true, false) => Load {
                ahead: self.left,
                requests: 1,
                ..Load::default()
            },
        }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 100;

    fn has_room(line: &Line) -> bool {
        line.0.borrow().has_room(WINDOW, 3)
    }

    #[test]
    fn nothing_is_asked_for_ahead_before_an_answer_has_begun() {
        let line = Line::new();
        assert!(has_room(&line));
        let mut trip = line.demand(10);
        assert!(!has_room(&line) && !line.0.borrow().is_free(WINDOW));
        trip.came(1);
        assert!(has_room(&line) && line.0.borrow().is_free(WINDOW));
        drop(trip);
        assert_eq!(*line.0.borrow(), Load::default());
    }

    #[test]
    fn what_comes_for_a_reader_is_followed_when_little_of_it_is_left() {
        let line = Line::new();
        let mut trip = line.demand(200);
        trip.came(140);
        assert!(!has_room(&line) && !line.0.borrow().is_free(WINDOW));
        trip.came(11);
        assert!(has_room(&line) && line.0.borrow().is_free(WINDOW));
        let ahead = line.ahead(1);
        assert!(!has_room(&line));
        drop((trip, ahead));
        assert!(has_room(&line));
    }

    #[test]
    fn a_window_is_asked_for_and_not_more() {
        let line = Line::new();
        let mut first = line.ahead(60);
        assert!(has_room(&line));
        let second = line.ahead(60);
        assert!(!has_room(&line));
        first.came(21);
        assert!(has_room(&line));
        let third = line.ahead(0);
        // Three requests.
        first.came(39);
        assert!(!has_room(&line));
        drop((first, second, third));
        assert_eq!(*line.0.borrow(), Load::default());
    }

    #[test]
    fn an_empty_line_has_room() {
        let line = Line::new();
        assert!(line.0.borrow().has_room(0, 1));
        let _ahead = line.ahead(1);
        assert!(!line.0.borrow().has_room(0, 2));
    }

    #[test]
    fn who_says_nothing_keeps_nobody_away_for_long() {
        let line = Line::new();
        let mut trip = line.demand(200);
        trip.rest();
        trip.rest();
        assert_eq!(*line.0.borrow(), Load::default());
        trip.came(10);
        assert_eq!(line.0.borrow().demanded, 190);
        assert_eq!(line.0.borrow().silent, 0);
    }
}
