//! Whether a process keeps containers going when the daemon ends: what the configuration says, and what the kernel can.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_linux::probe;
use pontoon_remote::HolderConfig;

use crate::config::HolderSection;

/// The first kernel with `FUSE_NOTIFY_RESEND`, without which what a dead daemon was asked would wait for ever.
const ADOPTION: (u32, u32) = (6, 9);

/// For tests: the release of another kernel, which this daemon takes its own one for.
const OTHER_KERNEL: &str = "PONTOON_KERNEL_RELEASE";

/// The holder for the daemon of `root` on a kernel of `release`. The log says why, if there is none.
pub(crate) fn provider(
    section: &HolderSection,
    release: (u32, u32),
    root: &Path,
) -> Option<HolderConfig> {
    if !section.enabled || release < ADOPTION {
        tell_that_containers_end(section.enabled, release);
        return None;
    }
    let program = Some(&section.program).filter(|program| !program.is_empty());
    Some(HolderConfig {
        program: program.map(PathBuf::from),
        patience: Duration::from_secs(section.patience_seconds.0.into()),
        advice: format!(
            "Containers on lazy layers of {} read errors from now on: start pontoon-stargz again (journalctl -u pontoon-stargz says why it is not running), then restart these containers.",
            root.display()
        ),
    })
}

/// Of the kernel that this daemon runs on.
pub(crate) fn kernel_release() -> (u32, u32) {
    match std::env::var(OTHER_KERNEL) {
        Ok(other) => probe::parse_release(&other),
        Err(_) => probe::kernel_release(),
    }
}

fn tell_that_containers_end(wanted: bool, (major, minor): (u32, u32)) {
    let reason = match wanted {
        true => format!(
            "Linux {major}.{minor} cannot hand FUSE requests to another process; 6.9 and later can"
        ),
        false => "[holder] enabled is false".to_owned(),
    };
    tracing::warn!(
        reason,
        "containers on lazy layers read errors when this daemon ends, also when it is upgraded: drain the node before"
    );
}
