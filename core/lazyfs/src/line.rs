//! The line that all layers share: what was asked for and has not come, and whether more may be asked for.
//!
//! What somebody waits for is asked for at once, always. What nobody waits for is asked for only as far as the line
//! would be idle otherwise:
//! - not while somebody waits for the first byte of an answer: it would come behind bytes that were asked for later;
//! - what a start is known to need, beside bytes that somebody waits for, only when half a window of all is left: then
//!   they are followed without a gap; else up to one window, which is twice what is on its way at any moment;
//! - what is only likely, not at all as long as a start is going on. Of the rest of an image a start reads a few bytes in
//!   a hundred, and who comes to wait would wait for the others (`docs/benchmarks.md` has what was measured). Whoever reads on and on, for longer than starts take, gets a
//!   quarter of a window at a time when nothing else is on its way: so much comes while his next request is on its way to
//!   the registry.
//!
//! So who comes to wait never finds more than a window of bytes before his own, whatever the protocol or the kernel
//! buffer, and none that are a guess.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A start is going on until nobody has waited for so long.
const CALM: Duration = Duration::from_millis(300);

/// Nor does a start take longer.
const START_MAX: Duration = Duration::from_secs(20);

/// What is to be asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// A start is known to need it.
    pub(crate) is_needed: bool,
    /// What the way to the registry holds, twice, in bytes.
    pub(crate) window: u64,
    /// Requests at the same time.
    pub(crate) requests_max: usize,
}

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
    waited: Option<Waited>,
}

/// When somebody waited: began to, or got something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waited {
    /// Since then somebody did, again and again.
    since: Instant,
    last: Instant,
}

impl Waited {
    fn is_over(self, now: Instant) -> bool {
        now >= self.last + CALM
    }

    /// Somebody waits `now`, and `before` was known until then.
    fn now(before: Option<Waited>, now: Instant) -> Self {
        Waited {
            since: before
                .filter(|before| !before.is_over(now))
                .map_or(now, |before| before.since),
            last: now,
        }
    }
}

impl Load {
    fn has_room(self, room: Room, now: Instant) -> bool {
        let Room {
            window,
            requests_max,
            ..
        } = room;
        let is_guess = !room.is_needed && !self.is_calm(now);
        if is_guess && (self.demanded > 0 || self.is_start(now)) {
            return false;
        }
        let most = match self.demanded {
            0 if is_guess => window / 4,
            0 => window,
            _ => window / 2,
        };
        let all = self.demanded.saturating_add(self.ahead);
        // However small a window is, a line with nothing on it is idle.
        self.silent == 0 && self.requests < requests_max && (all < most || all == 0)
    }

    fn is_calm(self, now: Instant) -> bool {
        self.waited.is_none_or(|waited| waited.is_over(now))
    }

    fn is_start(self, now: Instant) -> bool {
        let is_young = |waited: Waited| now < waited.since + START_MAX;
        !self.is_calm(now) && self.waited.is_some_and(is_young)
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
            waited: self.waited,
        }
    }

    fn without(self, other: Load) -> Load {
        Load {
            silent: self.silent.saturating_sub(other.silent),
            demanded: self.demanded.saturating_sub(other.demanded),
            ahead: self.ahead.saturating_sub(other.ahead),
            requests: self.requests.saturating_sub(other.requests),
            waited: self.waited,
        }
    }
}

impl Line {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Line(watch::Sender::default()))
    }

    /// Returns when there is this room for something that nobody waits for.
    pub(crate) async fn room(&self, room: Room) {
        let mut receiver = self.0.subscribe();
        loop {
            let load = *receiver.borrow_and_update();
            let now = Instant::now();
            if load.has_room(room, now) {
                return;
            }
            let change = |waited: Waited| match load.is_start(now) {
                true => (waited.last + CALM).min(waited.since + START_MAX),
                false => waited.last + CALM,
            };
            let calm = load.waited.map_or(now, change);
            tokio::select! {
                // The sender is `self`, so this does not fail.
                _ = receiver.changed() => {}
                () = sleep_until(calm), if calm > now => {}
            }
        }
    }

    /// Somebody begins to wait, for whatever is on its way.
    pub(crate) fn is_waited_for(&self) {
        self.0.send_if_modified(|load| {
            load.waited = Some(Waited::now(load.waited, Instant::now()));
            // It takes room, and gives none.
            false
        });
    }

    /// Whether nobody has waited for a while.
    pub(crate) fn is_calm(&self) -> bool {
        self.0.borrow().is_calm(Instant::now())
    }

    /// Returns when what nobody waits for and comes already is in nobody's way.
    pub(crate) async fn free(&self, window: u64) {
        let mut load = self.0.subscribe();
        // The sender is `self`, so this does not fail.
        let _ = load.wait_for(|load| load.is_free(window)).await;
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
        let (after, is_demand) = (self.load(), self.is_demand);
        self.line.0.send_if_modified(|load| {
            let mut new = load.without(before).with(after);
            if is_demand {
                new.waited = Some(Waited::now(load.waited, Instant::now()));
            }
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

    const NEEDED: Room = Room {
        is_needed: true,
        window: WINDOW,
        requests_max: 3,
    };
    const GUESS: Room = Room {
        is_needed: false,
        ..NEEDED
    };

    fn has_room(line: &Line) -> bool {
        line.0.borrow().has_room(NEEDED, Instant::now())
    }

    fn is_empty(line: &Line) -> bool {
        let load = *line.0.borrow();
        let empty = Load {
            waited: load.waited,
            ..Load::default()
        };
        load == empty
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
        assert!(is_empty(&line));
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
        assert!(is_empty(&line));
    }

    #[test]
    fn guesses_stay_back_while_a_start_is_going_on() {
        let line = Line::new();
        let has_room = |now| line.0.borrow().has_room(GUESS, now);
        // Nobody has ever waited.
        let ahead = line.ahead(99);
        assert!(has_room(Instant::now()));
        drop(ahead);
        let mut trip = line.demand(10);
        let now = Instant::now();
        assert!(!has_room(now));
        trip.came(9);
        assert!(!has_room(now), "a byte is still on its way");
        trip.came(1);
        assert!(!has_room(now), "he may come again");
        let ahead = line.ahead(25);
        assert!(has_room(now + 2 * CALM));
        drop(ahead);
        assert!(!has_room(now));
    }

    #[test]
    fn a_start_has_an_end() {
        let now = Instant::now();
        let mut waited = Waited::now(None, now);
        let load = |waited| Load {
            waited: Some(waited),
            ..Load::default()
        };
        assert!(!load(waited).has_room(GUESS, now));
        let mut later = now;
        while later < now + START_MAX {
            later += CALM / 2;
            waited = Waited::now(Some(waited), later);
        }
        assert!(load(waited).has_room(GUESS, later));
        let ahead = Load {
            ahead: WINDOW / 4,
            ..load(waited)
        };
        assert!(!ahead.has_room(GUESS, later));
        // After a while without anybody another one begins.
        waited = Waited::now(Some(waited), later + CALM);
        assert!(!load(waited).has_room(GUESS, later + CALM));
    }

    #[test]
    fn an_empty_line_has_room() {
        let line = Line::new();
        let none = Room {
            window: 0,
            ..NEEDED
        };
        let now = Instant::now();
        assert!(line.0.borrow().has_room(none, now));
        let _ahead = line.ahead(1);
        assert!(!line.0.borrow().has_room(none, now));
    }

    #[test]
    fn who_says_nothing_keeps_nobody_away_for_long() {
        let line = Line::new();
        let mut trip = line.demand(200);
        trip.rest();
        trip.rest();
        assert!(is_empty(&line));
        trip.came(10);
        assert_eq!(line.0.borrow().demanded, 190);
        assert_eq!(line.0.borrow().silent, 0);
    }
}
