//! The overlayfs proxy snapshotter for containerd: ordinary layers on overlayfs.

mod config;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use config::OverlayfsSection;
use pontoon_daemon::Plugin;
use pontoon_overlay::{Engine, Features, NoLayers, Options};
use pontoon_snapshot::Result;

struct Overlayfs;

impl Plugin for Overlayfs {
    const NAME: &'static str = "overlayfs";
    const MOUNTS_ARE_QUICK: bool = true;
    type Sections = OverlayfsSection;

    fn open(root: &Path, section: &OverlayfsSection) -> Result<Arc<dyn pontoon_daemon::Engine>> {
        let options = Options {
            upperdir_label: section.upperdir_label,
            sync_remove: section.sync_remove,
            slow_chown: section.slow_chown,
            mount_options: section.mount_options.clone(),
        };
        Ok(Engine::open(root, options, Arc::new(NoLayers))?)
    }

    fn capabilities(root: &Path, section: &OverlayfsSection) -> Result<Vec<&'static str>> {
        let existing = root.ancestors().find(|directory| directory.is_dir());
        let scratch = format!(".pontoon-probe-{}", std::process::id());
        let features = Features::probe(&existing.unwrap_or(root).join(scratch))?;
        Ok(features.capabilities(section.slow_chown))
    }
}

fn main() -> ExitCode {
    pontoon_daemon::run::<Overlayfs>()
}
