//! Jobs through several threads, in their order.

use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};

/// A job, and where the result goes.
type Job<J, R> = (J, SyncSender<Result<R>>);

/// Where a result comes from, in the order of the jobs.
type Due<R> = Receiver<Result<R>>;

/// Has `make` make jobs and `take` take their results, done by `threads` workers, in their order. No more than two for
/// each thread are on their way.
///
/// The first error of `take` and of the workers counts; then that of `make`, whose last job nobody may have taken.
pub(crate) fn run<J: Send, R: Send, W: FnMut(J) -> Result<R> + Send, M, T: Send>(
    threads: NonZeroUsize,
    worker: impl Fn() -> Result<W>,
    make: impl FnOnce(&mut dyn FnMut(J) -> Result<()>) -> Result<M>,
    take: impl FnOnce(&mut dyn Iterator<Item = Result<R>>) -> Result<T> + Send,
) -> Result<(M, T)> {
    let threads = threads.get();
    let (to_work, jobs) = mpsc::channel::<Job<J, R>>();
    let (in_order, due) = mpsc::sync_channel::<Due<R>>(2 * threads);
    let jobs = Mutex::new(jobs);
    let jobs = &jobs;
    let ended = "the threads of a conversion do not panic";
    thread::scope(|scope| {
        for _ in 0..threads {
            let worker = worker()?;
            thread::Builder::new()
                .name("pontoon-pack".to_owned())
                .spawn_scoped(scope, move || work(worker, jobs))
                .map_err(Error::Thread)?;
        }
        let taker = thread::Builder::new()
            .name("pontoon-write".to_owned())
            .spawn_scoped(scope, move || take(&mut in_turn(due)))
            .map_err(Error::Thread)?;
        let made = make(&mut |job| send(job, &in_order, &to_work));
        drop((in_order, to_work));
        let taken = taker.join().expect(ended)?;
        Ok((made?, taken))
    })
}

fn send<J, R>(job: J, in_order: &SyncSender<Due<R>>, to_work: &Sender<Job<J, R>>) -> Result<()> {
    let (result, due) = mpsc::sync_channel(1);
    // Whoever does not take any more has an error to tell.
    in_order.send(due).map_err(|_| Error::Cancelled)?;
    to_work.send((job, result)).map_err(|_| Error::Cancelled)
}

fn work<J, R>(mut worker: impl FnMut(J) -> Result<R>, jobs: &Mutex<Receiver<Job<J, R>>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, result)) = job else {
            return;
        };
        // After an error, nobody waits for the rest.
        let _ = result.send(worker(job));
    }
}

fn in_turn<R>(due: Receiver<Due<R>>) -> impl Iterator<Item = Result<R>> {
    // A result that nobody sends any more: its job was never sent either.
    due.into_iter().map_while(|due| due.recv().ok())
}
