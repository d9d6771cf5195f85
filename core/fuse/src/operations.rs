//! What the kernel has asked for.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! operations {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// How often the kernel has asked for what, since the server started.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Operations {
            $($(#[$doc])+ pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)+
        }

        impl Counters {
            pub(crate) fn counted(&self) -> Operations {
                Operations { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

operations! {
    /// A name in a directory.
    lookup,
    /// Attributes.
    getattr,
    /// Where a symbolic link points to.
    readlink,
    /// To open a file.
    open,
    /// To open a directory.
    opendir,
    /// To close a file, first step.
    flush,
    /// Bytes of a file.
    read,
    /// Reads that were answered later, when their bytes had come.
    read_waited,
    /// Reads that failed.
    read_failed,
    /// Entries of a directory.
    readdir,
    /// Extended attributes.
    xattr,
    /// Space.
    statfs,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
