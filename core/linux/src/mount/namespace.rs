//! A mount namespace for the length of one call: what is mounted in it is gone with it, whatever happens.

use std::io;
use std::thread;

use rustix::mount::{MountPropagationFlags, mount_change};

use crate::raw::unshare_mounts;
use crate::{Error, Result};

/// Runs `work` on a thread of its own in a copy of this mount namespace, from which nothing propagates.
///
/// `work` may change the current directory and mount over anything. A detached mount that it answers can be
/// attached in the caller's namespace.
pub(crate) fn with_private_mounts<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = move || {
        unshare_mounts().map_err(|error| Error::new("make a mount namespace", error))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(|errno| Error::new("make all mounts private", errno))?;
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("mount".to_owned())
            .spawn_scoped(scope, run)
            .map_err(|error| Error::new("start a thread for a mount", error))?;
        thread.join().unwrap_or_else(|_| {
            let panicked = io::Error::other("the thread panicked");
            Err(Error::new("mount on a thread of its own", panicked))
        })
    })
}
