//! A new image of one that is there: from a place, to a place.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pontoon_convert::{Error, Plan, Target, Watch};

use crate::failure::Failure;
use crate::place::{Choice, Destination, Place, Ways};
use crate::progress::Progress;
use crate::watched::{Stop, watched};

/// What those who make an image are given.
pub(crate) struct Aim<'a> {
    pub(crate) target: &'a dyn Target,
    /// Set to stop.
    pub(crate) cancel: &'a AtomicBool,
    pub(crate) watch: &'a Watch<'a>,
}

/// Has `make` make an image for `to` of those at `from` that are chosen.
pub(crate) async fn produce<T: Send + 'static>(
    (from, to): (&Place, &Place),
    (choice, ways): (&Choice, &Ways),
    stop: &Arc<Stop>,
    make: impl FnOnce(&Plan, &Aim<'_>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Failure> {
    if let Place::Registry(reference) = to
        && (reference.tag().is_none() || reference.digest().is_some())
    {
        let message = format!("{to}: name a tag, and no digest, to push to");
        return Err(Failure::new(crate::EXIT_USAGE, message));
    }
    let source = ways.source(from, stop).await?;
    let selection = choice.selection();
    let plan = watched(None, stop, move || Plan::read(source, &selection)).await?;
    if plan.targets() != 1 && !matches!(to, Place::Layout { .. }) {
        let count = plan.targets();
        let message = format!("{from} has {count} images; name one: oci:DIRECTORY:NAME");
        return Err(Failure::new(crate::EXIT_USAGE, message));
    }
    let progress = Arc::new(Progress::new(plan.sizes()));
    let destination = ways.destination(to, from, &progress, stop);
    let destination = Arc::new(destination.await?);
    let work = {
        let (progress, stop) = (Arc::clone(&progress), Arc::clone(stop));
        let destination = Arc::clone(&destination);
        move || {
            let aim = Aim {
                target: destination.target(),
                cancel: stop.flag(),
                watch: &|blob, offset| progress.reach(blob, offset),
            };
            make(&plan, &aim)
        }
    };
    let done = watched(Some(&progress), stop, work).await;
    let ended = match &*destination {
        Destination::Layout(_) => Ok(()),
        Destination::Push(push) => push.end().await,
    };
    // What went wrong first is what counts.
    let done = done?;
    ended?;
    Ok(done)
}
