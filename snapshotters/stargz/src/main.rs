//! The lazy proxy snapshotter for containerd: eStargz and zstd:chunked layers from their registry, through EROFS or FUSE.

mod config;
mod engine;
mod holder;
mod numbers;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use config::StargzSections;
use engine::LazyEngine;
use pontoon_daemon::Plugin;
use pontoon_overlay::{Engine, Features, Options};
use pontoon_remote::Remote;
use pontoon_snapshot::{Error, Result};

struct Stargz;

impl Plugin for Stargz {
    const NAME: &'static str = "stargz";
    const EXPORTS: &'static [(&'static str, &'static str, &'static str)] = &[(
        "enable_remote_snapshot_annotations",
        "true",
        "containerd's transfer service tells the plugin where layers are.",
    )];
    type Sections = StargzSections;

    fn open(root: &Path, sections: &StargzSections) -> Result<Arc<dyn pontoon_daemon::Engine>> {
        let features = probe(root)?;
        let mut config = sections.provider(features.userxattr);
        config.holder = holder::config(&sections.holder, root);
        let remote = Remote::open(root, config);
        let remote = remote.map_err(|error| Error::Failed {
            operation: format!("opening the lazy layers of {}", root.display()),
            source: Box::new(error),
        })?;
        let section = &sections.stargz;
        let options = Options {
            upperdir_label: section.upperdir_label,
            sync_remove: section.sync_remove,
            slow_chown: false,
            mount_options: section.mount_options.clone(),
        };
        let engine = Engine::open(root, options, Arc::clone(&remote) as _)?;
        Ok(Arc::new(LazyEngine { engine, remote }))
    }

    /// Never `rebase`: unpacking without parents loses the chain that a lazy layer lies on.
    fn capabilities(root: &Path, _: &StargzSections) -> Result<Vec<&'static str>> {
        let mut capabilities = probe(root)?.capabilities(false);
        capabilities.retain(|capability| *capability != "rebase");
        Ok(capabilities)
    }
}

/// What this kernel and the filesystem of `root`, which need not exist, can do.
fn probe(root: &Path) -> Result<Features> {
    let existing = root.ancestors().find(|directory| directory.is_dir());
    let scratch = format!(".pontoon-probe-{}", std::process::id());
    Features::probe(&existing.unwrap_or(root).join(scratch))
}

fn main() -> ExitCode {
    if let Some(code) = pontoon_remote::at_mounts(std::env::args_os().skip(1)) {
        return code;
    }
    pontoon_daemon::run::<Stargz>()
}
