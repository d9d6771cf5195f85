//! One caller's operation on its way through a batch.

use std::sync::{Arc, Mutex, PoisonError};

use pontoon_snapshot::{Error, Result};

use crate::failure::Fault;
use crate::group::{Job, Seat};
use crate::tables::Tables;

/// A batch that was not acknowledged.
pub(super) struct FailedBatch {
    /// Its number, where its commit was tried and may have come through.
    pub(super) number: Option<u64>,
    pub(super) fault: Fault,
}

impl<E: Into<Fault>> From<E> for FailedBatch {
    fn from(error: E) -> Self {
        FailedBatch {
            number: None,
            fault: error.into(),
        }
    }
}

/// One caller's operation in a batch.
pub(super) struct Write {
    pub(super) operation: &'static str,
    /// It frees more space than it takes.
    pub(super) frees: bool,
    pub(super) seat: Arc<Seat>,
    pub(super) work: Box<dyn Work>,
}

impl Job for Write {
    fn seat(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.seat.done();
    }
}

pub(super) trait Work: Send {
    /// Does it in the batch's transaction, once for each that is tried. An error is the whole transaction's; what
    /// the rules refuse is kept for the caller.
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), Fault>;

    /// Answers the caller: with `failure` of the transaction, or else with what `run` made.
    fn answer(&mut self, failure: Option<Error>);
}

pub(super) struct Pending<F, T> {
    run: F,
    outcome: Option<Result<T>>,
    answer: Answer<T>,
}

impl<F, T> Pending<F, T> {
    pub(super) fn new(run: F, answer: Answer<T>) -> Self {
        Pending {
            run,
            outcome: None,
            answer,
        }
    }
}

/// Where the caller finds its answer.
pub(super) type Answer<T> = Arc<Mutex<Option<Result<T>>>>;

impl<F, T> Work for Pending<F, T>
where
    F: Fn(&mut Tables<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, tables: &mut Tables<'_>) -> Result<(), Fault> {
        self.outcome = Some(match (self.run)(tables) {
            Ok(answer) => Ok(answer),
            // Refused because of what others in the batch did, perhaps; so this, too, waits for the commit.
            Err(Fault::Refused(error)) => Err(error),
            Err(fault) => return Err(fault),
        });
        Ok(())
    }

    fn answer(&mut self, failure: Option<Error>) {
        let outcome = match failure {
            Some(error) => Some(Err(error)),
            None => self.outcome.take(),
        };
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
    }
}
