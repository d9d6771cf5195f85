//! Group commit: the jobs of many callers in one transaction and one fsync.
//!
//! A caller queues its job. The first one leads: it takes all jobs that are queued and runs them as one batch,
//! while later callers queue for the next batch. Then it appoints one of those to lead, and everybody has an
//! answer. With one caller there is no hand-over and no other thread.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// One caller's part of a batch. Dropping it unanswered tells the caller so.
pub(crate) trait Job: Send {
    /// Where its caller waits.
    fn seat(&self) -> &Seat;
}

/// Jobs that wait for the next batch.
#[derive(Debug)]
pub(crate) struct Group<J> {
    queue: Mutex<Queue<J>>,
}

#[derive(Debug)]
struct Queue<J> {
    waiting: Vec<J>,
    /// Some caller runs a batch, or was appointed to.
    led: bool,
}

/// Where one caller waits for its turn to lead, or for its job to be done.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    turn: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    Wait,
    Lead,
    Done,
}

impl Seat {
    /// The job has its answer; its caller may go.
    pub(crate) fn done(&self) {
        self.tell(Turn::Done);
    }

    fn tell(&self, turn: Turn) {
        *lock(&self.turn) = turn;
        self.changed.notify_one();
    }

    /// Waits until this caller is to lead or is done; leading happens once.
    fn wait(&self) -> Turn {
        let mut turn = self
            .changed
            .wait_while(lock(&self.turn), |turn| *turn == Turn::Wait)
            .unwrap_or_else(PoisonError::into_inner);
        match *turn {
            Turn::Lead => mem::replace(&mut *turn, Turn::Wait),
            other => other,
        }
    }
}

impl<J: Job> Group<J> {
    pub(crate) fn new() -> Self {
        Group {
            queue: Mutex::new(Queue {
                waiting: Vec::new(),
                led: false,
            }),
        }
    }

    /// Queues `job` and returns once it is done, which `run` may have done on this thread or another's.
    ///
    /// `run` gets every job that waits, in the order of their coming, never two batches at once.
    pub(crate) fn submit(&self, job: J, seat: &Arc<Seat>, run: impl Fn(Vec<J>)) {
        let lead_now = {
            let mut queue = lock(&self.queue);
            queue.waiting.push(job);
            !mem::replace(&mut queue.led, true)
        };
        if lead_now {
            self.lead(&run);
        }
        while seat.wait() == Turn::Lead {
            self.lead(&run);
        }
    }

    fn lead(&self, run: &impl Fn(Vec<J>)) {
        // Appoints the next leader even when the batch panics: the others must not wait for ever.
        let _leave = Leave(self);
        // Callers that are about to queue come along, where there are more of them than processors.
        thread::yield_now();
        let batch = mem::take(&mut lock(&self.queue).waiting);
        run(batch);
    }
}

struct Leave<'a, J: Job>(&'a Group<J>);

impl<J: Job> Drop for Leave<'_, J> {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        match queue.waiting.first() {
            Some(next) => next.seat().tell(Turn::Lead),
            None => queue.led = false,
        }
    }
}

/// The guarded values are valid whatever panicked: each is set in one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Number {
        number: usize,
        seat: Arc<Seat>,
    }

    impl Job for Number {
        fn seat(&self) -> &Seat {
            &self.seat
        }
    }

    impl Drop for Number {
        fn drop(&mut self) {
            self.seat.done();
        }
    }

    fn submit(group: &Group<Number>, number: usize, run: impl Fn(Vec<Number>)) {
        let seat = Arc::new(Seat::default());
        let job = Number {
            number,
            seat: seat.clone(),
        };
        group.submit(job, &seat, run);
    }

    #[test]
    fn every_job_runs_once_and_batches_do_not_overlap() {
        let group = Group::new();
        let running = AtomicUsize::new(0);
        let seen = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for caller in 0..8 {
                let (group, running, seen) = (&group, &running, &seen);
                scope.spawn(move || {
                    for round in 0..200 {
                        submit(group, caller * 1000 + round, |batch| {
                            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                            seen.lock()
                                .unwrap()
                                .extend(batch.iter().map(|job| job.number));
                            assert_eq!(running.fetch_sub(1, Ordering::SeqCst), 1);
                        });
                        let mine = caller * 1000 + round;
                        assert!(
                            seen.lock().unwrap().contains(&mine),
                            "not done when answered"
                        );
                    }
                });
            }
        });
        let mut seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 1600);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1600);
    }

    #[test]
    fn a_panic_in_a_batch_releases_its_callers_and_the_next_batch() {
        let group = Group::new();
        thread::scope(|scope| {
            for number in 0..8 {
                let group = &group;
                scope.spawn(move || {
                    let ended = catch_unwind(AssertUnwindSafe(|| {
                        submit(group, number, |batch| {
                            assert!(batch.iter().all(|job| job.number != 3), "as the test wants");
                        });
                    }));
                    drop(ended);
                });
            }
        });
        let done = AtomicUsize::new(0);
        submit(&group, 9, |batch| {
            done.fetch_add(batch.len(), Ordering::SeqCst);
        });
        assert_eq!(done.into_inner(), 1);
    }
}
