//! Who keeps lazy layers going when this daemon ends, if this kernel lets anybody.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_remote::HolderConfig;

use crate::config::HolderSection;

/// The first kernel with `FUSE_NOTIFY_RESEND`, without which what a dead daemon was asked would wait for ever.
const ADOPTION: (u32, u32) = (6, 9);

/// For tests: the release of another kernel, which this daemon takes its own one for.
const OTHER_KERNEL: &str = "PONTOON_KERNEL_RELEASE";

/// What `section` means on this kernel, for the daemon `name` of `root`. If it means that containers end with the daemon, that
/// is logged.
pub(crate) fn config(name: &str, section: &HolderSection, root: &Path) -> Option<HolderConfig> {
    let release = match std::env::var(OTHER_KERNEL) {
        Ok(other) => pontoon_linux::probe::parse_release(&other),
        Err(_) => pontoon_linux::probe::kernel_release(),
    };
    let config = of(name, section, release, root);
    if config.is_none() {
        let reason = match section.enabled {
            true => format!(
                "Linux {}.{} cannot hand FUSE requests to another process; 6.9 and later can",
                release.0, release.1
            ),
            false => "[holder] enabled is false".to_owned(),
        };
        tracing::warn!(
            reason,
            "containers on lazy layers read errors when this daemon ends, also when it is upgraded: drain the node before"
        );
    }
    config
}

fn of(
    name: &str,
    section: &HolderSection,
    release: (u32, u32),
    root: &Path,
) -> Option<HolderConfig> {
    (section.enabled && release >= ADOPTION).then(|| HolderConfig {
        program: Some(PathBuf::from(&section.program)).filter(|_| !section.program.is_empty()),
        patience: Duration::from_secs(section.patience_seconds.0.into()),
        advice: format!(
            "Containers on lazy layers of {} read errors from now on: start pontoon-{name} again (journalctl -u pontoon-{name} says why it is not running), then restart these containers.",
            root.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_kernels_have_no_holder() {
        let section = HolderSection::default();
        let root = Path::new("/a/root");
        assert_eq!(of("stargz", &section, (6, 8), root), None);
        let config = of("nydus", &section, (6, 9), root).unwrap();
        assert_eq!((config.program, config.patience.as_secs()), (None, 300));
        assert!(config.advice.contains("/a/root"));
        assert!(config.advice.contains("start pontoon-nydus again"));
        let off = HolderSection {
            enabled: false,
            ..section
        };
        assert_eq!(of("stargz", &off, (7, 0), root), None);
    }
}
