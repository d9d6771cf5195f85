//! Work that takes a while: it tells how far it is, and can be stopped.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_convert::Error;
use tokio::sync::watch;

use crate::convert::failure;
use crate::failure::{EXIT_LATER, Failure};
use crate::interrupt::interrupted;
use crate::progress::Progress;

/// Tells all who work on something that nobody wants it any more.
#[derive(Debug)]
pub(crate) struct Stop {
    /// For those who look from time to time.
    flag: AtomicBool,
    /// For those who wait.
    told: watch::Sender<bool>,
}

impl Stop {
    pub(crate) fn new() -> Arc<Stop> {
        Arc::new(Stop {
            flag: AtomicBool::new(false),
            told: watch::Sender::new(false),
        })
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    fn stop(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.told.send_replace(true);
    }

    /// What `work` gives, unless it is stopped before.
    pub(crate) async fn race<T>(&self, work: impl Future<Output = T>) -> io::Result<T> {
        let mut told = self.told.subscribe();
        tokio::select! {
            done = work => Ok(done),
            // The other end is here.
            _ = told.wait_for(|told| *told) => Err(io::Error::other("interrupted")),
        }
    }
}

/// Does `work` on a thread that may block, and tells how far it is until it ends or is interrupted.
pub(crate) async fn watched<T: Send + 'static>(
    progress: Option<&Progress>,
    stop: &Stop,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Failure> {
    let work = tokio::task::spawn_blocking(work);
    tokio::pin!(work);
    let tell = async {
        match progress {
            Some(progress) => progress.tell().await,
            None => std::future::pending().await,
        }
    };
    let done = tokio::select! {
        done = &mut work => done,
        () = tell => work.await,
        () = interrupted() => {
            stop.stop();
            // It may have come to its end all the same.
            work.await.map(|done| done.map_err(|_| Error::Cancelled))
        }
    };
    if let Some(progress) = progress {
        progress.end();
    }
    match done {
        Ok(done) => done.map_err(failure),
        Err(error) => Err(Failure::new(1, format!("it broke off: {error}"))),
    }
}

/// What is said when somebody stops it.
pub(crate) fn stopped() -> Failure {
    Failure::new(EXIT_LATER, "interrupted; run it again")
}
