//! One fetch and one inflation for any number of readers.
//!
//! A member that is being fetched is a *flight*. Who wants it takes a [`Ticket`] and waits; who fetches it holds the
//! [`Claim`], and nobody else starts. A claim that is dropped, for instance by a panic, lands as a failure, so nobody
//! waits for ever.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::watch;

use crate::Error;
use crate::plan::Member;

/// How a flight ended.
#[derive(Debug, Clone)]
pub(crate) enum Landed {
    /// Every chunk of the member is in the cache.
    Stored,
    /// Not every one: these are not.
    Mixed(Arc<HashMap<usize, Piece>>),
    /// None is.
    Failed(Error),
}

/// A chunk that is not in the cache.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    /// But it was fetched and verified.
    Memory(Bytes),
    Failed(Error),
}

/// Whether somebody waits for a request that was made for nobody.
#[derive(Debug)]
pub(crate) struct Rush(watch::Sender<bool>);

impl Rush {
    pub(crate) fn new(rushed: bool) -> Arc<Self> {
        Arc::new(Rush(watch::Sender::new(rushed)))
    }

    pub(crate) fn is_on(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns as soon as somebody waits.
    pub(crate) async fn on(&self) {
        let mut receiver = self.0.subscribe();
        // The sender is `self`, so this does not fail.
        let _ = receiver.wait_for(|rushed| *rushed).await;
    }

    fn turn_on(&self) {
        self.0
            .send_if_modified(|rushed| !std::mem::replace(rushed, true));
    }
}

#[derive(Debug)]
struct Flight {
    landed: watch::Sender<Option<Landed>>,
    rush: Arc<Rush>,
    /// Somebody waited when it began, so its fetch is as patient as can be.
    demanded: bool,
}

/// The flights of a layer, by the key of their member.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<usize, Arc<Flight>>>);

impl Flights {
    /// Until it is dropped nobody else boards and nothing lands.
    pub(crate) fn gate(self: &Arc<Self>) -> Gate<'_> {
        Gate {
            flights: self,
            map: self.lock(),
        }
    }

    /// Whether nothing is being fetched or inflated.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Ends a flight, unless it has ended: who comes first tells how. Whether it was this one.
    fn end(&self, key: usize, flight: &Arc<Flight>, landed: Option<Landed>) -> bool {
        // First off the map: who comes now finds the chunk in the cache, or starts anew.
        let mut map = self.lock();
        if map
            .get(&key)
            .is_some_and(|known| Arc::ptr_eq(known, flight))
        {
            map.remove(&key);
        }
        drop(map);
        let mut landed = landed;
        flight.landed.send_if_modified(|now| {
            let is_first = now.is_none() && landed.is_some();
            if is_first {
                *now = landed.take();
            }
            is_first
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Flights::gate`].
pub(crate) struct Gate<'a> {
    flights: &'a Arc<Flights>,
    map: MutexGuard<'a, HashMap<usize, Arc<Flight>>>,
}

impl Gate<'_> {
    pub(crate) fn is_in_flight(&self, member: &Member) -> bool {
        self.map.contains_key(&member.key())
    }

    /// A ticket for a member that is in flight; its request is one that somebody waits for from now on.
    pub(crate) fn board(&self, member: &Member) -> Option<Ticket> {
        let flight = self.map.get(&member.key())?;
        flight.rush.turn_on();
        Some(Ticket::of(flight))
    }

    /// Starts a flight.
    pub(crate) fn claim(&mut self, member: Member, rush: &Arc<Rush>) -> Claim {
        let flight = Arc::new(Flight {
            landed: watch::Sender::new(None),
            rush: rush.clone(),
            demanded: rush.is_on(),
        });
        self.map.insert(member.key(), flight.clone());
        Claim {
            member,
            flight,
            flights: self.flights.clone(),
            second: false,
            landed: false,
        }
    }
}

/// A place on a flight.
#[derive(Debug)]
pub(crate) struct Ticket {
    landed: watch::Receiver<Option<Landed>>,
    demanded: bool,
}

impl Ticket {
    fn of(flight: &Flight) -> Self {
        Ticket {
            landed: flight.landed.subscribe(),
            demanded: flight.demanded,
        }
    }

    /// Whether a failure of this flight is final: it was flown for a reader.
    pub(crate) fn is_demanded(&self) -> bool {
        self.demanded
    }

    /// How the flight ended; `None` if it was given up.
    pub(crate) async fn landed(&mut self) -> Option<Landed> {
        let landed = self.landed.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}

/// The duty to fetch a member.
pub(crate) struct Claim {
    pub(crate) member: Member,
    /// Its bytes were wrong once.
    pub(crate) second: bool,
    flight: Arc<Flight>,
    flights: Arc<Flights>,
    landed: bool,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl Claim {
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket::of(&self.flight)
    }

    /// Tells everybody who waits. What is in the cache must be there already.
    pub(crate) fn land(mut self, landed: Landed) {
        self.finish(Some(landed));
    }

    fn finish(&mut self, landed: Option<Landed>) {
        if std::mem::replace(&mut self.landed, true) {
            return;
        }
        self.flights.end(self.member.key(), &self.flight, landed);
    }

    /// The right to land it for whoever has the claim.
    pub(crate) fn landing(&self) -> Landing {
        Landing {
            key: self.member.key(),
            flight: Arc::downgrade(&self.flight),
            flights: Arc::clone(&self.flights),
        }
    }

    /// Whether somebody with a [`Landing`] has landed it.
    pub(crate) fn has_landed(&self) -> bool {
        self.flight.landed.borrow().is_some()
    }
}

/// The right to land a flight that somebody else has the claim to. Keeps nobody waiting if that one gives up.
pub(crate) struct Landing {
    key: usize,
    flight: Weak<Flight>,
    flights: Arc<Flights>,
}

impl Landing {
    /// Tells everybody who waits, unless that was done. What is in the cache must be there already. Whether this was the
    /// first to tell.
    pub(crate) fn land(&self, landed: Landed) -> bool {
        let flight = self.flight.upgrade();
        flight.is_some_and(|flight| self.flights.end(self.key, &flight, Some(landed)))
    }

    /// Whether it landed, or was given up.
    pub(crate) fn is_over(&self) -> bool {
        let flight = self.flight.upgrade();
        flight.is_none_or(|flight| flight.landed.borrow().is_some())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // With the claim the sender goes, and who waits learns that.
        self.finish(None);
    }
}
