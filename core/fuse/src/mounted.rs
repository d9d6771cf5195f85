//! What a server has of the kernel: its mount, and its connection at the holder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_holder::Keeper;
use pontoon_linux::{abort, connection_at, detach, is_disconnected, is_mount_point};

use crate::{Error, Result};

/// Dead mounts of ours on top of each other; more are not from crashes.
const DEAD_MAX: usize = 64;

/// A mount that is taken off on drop.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    /// The number of its connection.
    pub(crate) connection: Option<u32>,
    /// It is there, and was not taken off yet.
    pub(crate) is_ours: bool,
}

impl Mounted {
    /// What was just mounted at `path`.
    pub(crate) fn at(path: &Path) -> Self {
        Mounted {
            path: path.to_owned(),
            connection: connection_at(path).ok().flatten(),
            is_ours: true,
        }
    }

    /// Whether that is what is at the path now.
    pub(crate) fn is_there(&self) -> bool {
        let there = connection_at(&self.path).ok().flatten();
        there.is_some() && there == self.connection
    }

    /// Ends the connection. Whether it was there.
    pub(crate) fn take_off(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_ours, false) || !self.is_there() {
            return false;
        }
        match abort(&self.path) {
            Ok(ended) => ended,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "layers stay mounted"
                );
                false
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.take_off();
    }
}

/// A connection that a holder keeps, and that is forgotten on drop.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) name: String,
    /// Another process goes on with it.
    pub(crate) is_left: bool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.is_left {
            self.keeper.forget(&self.name);
        }
    }
}

/// Takes off what servers that died have left at `mountpoint`. How many mounts that were.
pub(crate) fn clear(mountpoint: &Path) -> Result<usize> {
    let kernel = |source| Error::Kernel {
        mountpoint: mountpoint.to_owned(),
        source,
    };
    for dead in 0..DEAD_MAX {
        if is_disconnected(mountpoint) {
            tracing::info!(mountpoint = %mountpoint.display(), "taking off the mount of a server that is gone");
            detach(mountpoint).map_err(kernel)?;
        } else if is_mount_point(mountpoint).map_err(kernel)? {
            break;
        } else {
            return Ok(dead);
        }
    }
    Err(Error::Occupied {
        mountpoint: mountpoint.to_owned(),
    })
}
