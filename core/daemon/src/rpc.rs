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

    /// Whether it is one look-up in the metadata, a few microseconds, however large the snapshot is. Mounts is that
    /// unless a plugin brings layers back for it.
    pub(crate) fn is_quick(self, mounts_are_quick: bool) -> bool {
        self == Rpc::Stat || self == Rpc::Mounts && mounts_are_quick
    }

    /// Whether it may take seconds by its nature: it goes through directories, or as slowly as its client reads.
    pub(crate) fn may_take_long(self) -> bool {
        matches!(self, Rpc::List | Rpc::Usage | Rpc::Cleanup)
    }
}
