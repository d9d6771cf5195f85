//! What the daemons with lazy layers have in common, which is all but their names and the forms of images that they take:
//! the sections of their configuration, the engine with its provider, the holder, and what is counted.
//!
//! It is a library of its own because the command `pontoon` reads the daemons' files too.

mod config;
mod engine;
mod holder;
mod numbers;
mod peer;

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use engine::LazyEngine;
use peer::Peering;
use pontoon_daemon::Plugin;
use pontoon_overlay::{Engine, Features, Options};
use pontoon_remote::Remote;
use pontoon_snapshot::{Error, Result};

pub use config::{
    BackgroundSection, CacheSection, CredentialsSection, FixedCredentials, FrontEndSetting,
    HolderSection, LazySection, LazySections, OverlaySection, RegistrySection, UnpackSection,
};
pub use peer::{Address, PeerSection, PeerSwitch};

/// A daemon with lazy layers.
pub trait Flavor: fmt::Debug + Clone + Default + PartialEq + 'static {
    /// Its name: the binary is `pontoon-NAME`, its own section `[NAME]`.
    const NAME: &'static str;

    /// Whether it runs images in nydus' form. All run eStargz and zstd:chunked ones, and ordinary ones.
    const NYDUS: bool;
}

/// `pontoon-stargz`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stargz;

impl Flavor for Stargz {
    const NAME: &'static str = "stargz";
    const NYDUS: bool = false;
}

/// `pontoon-nydus`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Nydus;

impl Flavor for Nydus {
    const NAME: &'static str = "nydus";
    const NYDUS: bool = true;
}

/// The plugin of a flavor.
struct Lazy<F>(PhantomData<F>);

impl<F: Flavor> Plugin for Lazy<F> {
    const NAME: &'static str = F::NAME;
    const EXPORTS: &'static [(&'static str, &'static str, &'static str)] = &[(
        "enable_remote_snapshot_annotations",
        "true",
        "containerd's transfer service tells the plugin where layers are.",
    )];
    type Sections = LazySections<F>;

    fn open(root: &Path, sections: &LazySections<F>) -> Result<Arc<dyn pontoon_daemon::Engine>> {
        let features = probe(root)?;
        let mut config = sections.provider(features.userxattr);
        config.holder = holder::config(F::NAME, &sections.holder, root);
        let peering = Peering::start(&sections.peer, F::NYDUS, root);
        config.peers = peering.peers();
        let remote = Remote::open(root, config);
        let remote = remote.map_err(|error| Error::Failed {
            operation: format!("opening the lazy layers of {}", root.display()),
            source: Box::new(error),
        })?;
        let section = &sections.overlay;
        let options = Options {
            upperdir_label: section.upperdir_label,
            sync_remove: section.sync_remove,
            slow_chown: false,
            mount_options: section.mount_options.clone(),
        };
        let engine = Engine::open(root, options, Arc::clone(&remote) as _)?;
        Ok(Arc::new(LazyEngine {
            engine,
            remote,
            peering,
        }))
    }

    /// Never `rebase`: unpacking without parents loses the chain that a lazy layer lies on.
    fn capabilities(root: &Path, _: &LazySections<F>) -> Result<Vec<&'static str>> {
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

/// The `main` of a daemon.
pub fn run<F: Flavor>() -> ExitCode {
    if let Some(code) = pontoon_remote::at_mounts(std::env::args_os().skip(1)) {
        return code;
    }
    pontoon_daemon::run::<Lazy<F>>()
}
