//! `[overlayfs]`: what containerd's built-in overlayfs snapshotter lets its operator choose.

use pontoon_daemon::config::{Section, Sections};
use pontoon_daemon::section;

section! {
    /// What containerd's built-in overlayfs snapshotter lets its operator choose.
    pub struct OverlayfsSection {
        /// Answer each snapshot's upper directory as label `containerd.io/snapshot/overlay.upperdir`.
        pub upperdir_label: bool = false,
        /// Options of every overlay mount, not of bind mounts; `volatile` for instance, which trades the data of a power
        /// cut for speed. `index=off`, and in a user namespace `userxattr`, are added unless they are named here.
        pub mount_options: Vec<String> = Vec::new(),
        /// Delete a snapshot's directory before Remove returns, not soon after.
        pub sync_remove: bool = false,
        /// Let containerd change the owner of every file of an image where ids cannot be mapped: the drop-in of
        /// `print-containerd-config` then has no `only-remap-ids`, and where the kernel cannot map ids, snapshots with id
        /// mappings are mounted without.
        pub slow_chown: bool = false,
    }
}

impl Sections for OverlayfsSection {
    fn sections(&mut self) -> Vec<(&'static str, &mut dyn Section)> {
        vec![("overlayfs", self)]
    }
}
