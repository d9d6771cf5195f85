//! Waiting for a condition with a deadline, and for the user's Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The flag that ends every wait of this crate with [`Error::Interrupted`]; a
/// program sets it in its signal handler, and destructors clean up.
pub fn interrupt_flag() -> Arc<AtomicBool> {
    Arc::clone(&INTERRUPTED)
}

/// Fails once the user has interrupted the run.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}

/// Calls `probe` until it yields something, fails, `limit` has passed, or the user
/// interrupts.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    until_even_if_interrupted(what, limit, || {
        let found = probe()?;
        if found.is_none() {
            check_interrupt()?;
        }
        Ok(found)
    })
}

/// Like [`until`], but goes on when the user has interrupted: for cleaning up.
pub(crate) fn until_even_if_interrupted<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if started.elapsed() > limit {
            return Err(Error::Deadline {
                what: what.into(),
                limit,
                detail: String::new(),
            });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
