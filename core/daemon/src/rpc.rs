//! The RPCs by name.

/// One RPC of the snapshots service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rpc {
    Prepare,
    View,
    Mounts,
    Commit,
    Remove,
    Stat,
    Update,
    List,
    Usage,
    Cleanup,
}

impl Rpc {
    /// All of them.
    pub(crate) const ALL: [Rpc; 10] = [
        Rpc::Prepare,
        Rpc::View,
        Rpc::Mounts,
        Rpc::Commit,
        Rpc::Remove,
        Rpc::Stat,
        Rpc::Update,
        Rpc::List,
        Rpc::Usage,
        Rpc::Cleanup,
    ];

    /// Its name as logs and metrics have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Rpc::Prepare => "prepare",
            Rpc::View => "view",
            Rpc::Mounts => "mounts",
            Rpc::Commit => "commit",
            Rpc::Remove => "remove",
            Rpc::Stat => "stat",
            Rpc::Update => "update",
            Rpc::List => "list",
            Rpc::Usage => "usage",
            Rpc::Cleanup => "cleanup",
        }
    }

    /// Whether it changes something, which only the owner of a snapshotter name may.
    pub(crate) fn writes(self) -> bool {
        match self {
            Rpc::Prepare | Rpc::View | Rpc::Commit | Rpc::Remove | Rpc::Update | Rpc::Cleanup => {
                true
            }
            Rpc::Mounts | Rpc::Stat | Rpc::List | Rpc::Usage => false,
        }
    }

    /// How long it may take by its nature.
    pub(crate) fn pace(self, mounts_are_quick: bool) -> Pace {
        match self {
            Rpc::Stat => Pace::Quick,
            Rpc::Mounts if mounts_are_quick => Pace::Quick,
            Rpc::List | Rpc::Usage | Rpc::Cleanup => Pace::Slow,
            _ => Pace::Usual,
        }
    }
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// One look-up in the metadata, a few microseconds, however large the snapshot is.
    Quick,
    /// A transaction, or what a plugin does for a layer.
    Usual,
    /// Seconds: it goes through directories, or as slowly as its client reads.
    Slow,
}
