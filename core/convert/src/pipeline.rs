//! Units through several compressors, in their order.

use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::unit::{Packed, Unit};

/// A unit to be compressed, and where the result goes.
type Job = (Unit, SyncSender<Result<Packed>>);

/// Where a result comes from, in the order of the units.
type Due = Receiver<Result<Packed>>;

/// Has `make` make units and `take` take them, compressed by several threads, in their order. No more than two for each
/// thread are on their way.
///
/// The first error of `take` and of the compressors counts; then that of `make`, whose last unit nobody may have taken.
pub(crate) fn run<M, T: Send>(
    options: &Options<'_>,
    make: impl FnOnce(&mut dyn FnMut(Unit) -> Result<()>) -> Result<M>,
    take: impl FnOnce(&mut dyn Iterator<Item = Result<Packed>>) -> Result<T> + Send,
) -> Result<(M, T)> {
    let threads = options.threads.get();
    let (to_work, jobs) = mpsc::channel::<Job>();
    let (in_order, due) = mpsc::sync_channel::<Due>(2 * threads);
    let jobs = Mutex::new(jobs);
    let jobs = &jobs;
    let ended = "the threads of a conversion do not panic";
    thread::scope(|scope| {
        for _ in 0..threads {
            let encoder = Encoder::new(options.format, options.level)?;
            thread::Builder::new()
                .name("pontoon-pack".to_owned())
                .spawn_scoped(scope, move || work(encoder, jobs))
                .map_err(Error::Thread)?;
        }
        let taker = thread::Builder::new()
            .name("pontoon-write".to_owned())
            .spawn_scoped(scope, move || take(&mut in_turn(due)))
            .map_err(Error::Thread)?;
        let made = make(&mut |unit| send(unit, &in_order, &to_work));
        drop((in_order, to_work));
        let taken = taker.join().expect(ended)?;
        Ok((made?, taken))
    })
}

fn send(unit: Unit, in_order: &SyncSender<Due>, to_work: &Sender<Job>) -> Result<()> {
    let (result, due) = mpsc::sync_channel(1);
    // Whoever does not take any more has an error to tell.
    in_order.send(due).map_err(|_| Error::Cancelled)?;
    to_work.send((unit, result)).map_err(|_| Error::Cancelled)
}

fn work(mut encoder: Encoder, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((unit, result)) = job else {
            return;
        };
        // After an error, nobody waits for the rest.
        let _ = result.send(encoder.pack(unit));
    }
}

fn in_turn(due: Receiver<Due>) -> impl Iterator<Item = Result<Packed>> {
    // A result that nobody sends any more: its unit was never sent either.
    due.into_iter().map_while(|due| due.recv().ok())
}
