//! Layers as mounts of the kernel's EROFS: names, attributes and warm pages without a question to this daemon.
//!
//! Such a mount covers the layer's directory in the FUSE mount. So its path is the same for either front end; who sees the
//! FUSE mount and not this one, in another mount namespace or in a copy of the one mount, finds the same layer; and
//! what lies below a FUSE mount reads from no other connection than that one, also after a restart, and ends with it.
//!
//! Its bytes come from the layer's data file below the same FUSE mount, or, when all of them are here, from the cache's
//! own file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_fuse::{Server, data_name};
use pontoon_lazyfs::LazyLayer;
use pontoon_linux::mounts_below;
use pontoon_snapshot::{Error, Result};

use crate::LazyConfig;
use crate::front_end::{Chosen, FrontEnd};
use crate::mounter::Mounter;

/// Mounts layers, if the kernel is to.
#[derive(Debug)]
pub(crate) struct Erofs {
    /// Of the FUSE server.
    mountpoint: PathBuf,
    chosen: Chosen,
    /// There is no way but this.
    must: bool,
    mounter: Mounter,
    /// Held while one is mounted: two mounts on top of each other would be one too many.
    covered: Mutex<Covered>,
}

/// What was mounted.
#[derive(Debug, Default)]
struct Covered {
    /// The FUSE connection that it lies on, once that is known.
    connection: Option<u32>,
    /// The layers, with how many of their reads were noticed.
    layers: BTreeMap<u32, u64>,
}

impl Erofs {
    pub(crate) fn new(mountpoint: PathBuf, config: &LazyConfig, chosen: Chosen) -> Self {
        Erofs {
            mountpoint,
            must: config.front_end == FrontEnd::Erofs,
            mounter: Mounter::new(config.mounter.clone()),
            chosen,
            covered: Mutex::default(),
        }
    }

    /// Who serves trees, and why.
    pub(crate) fn chosen(&self) -> &Chosen {
        &self.chosen
    }

    /// Mounts a layer with the tree in the file `tree` over its directory, unless it is. The kernel asks `server` meanwhile,
    /// so nothing may be held that answering takes.
    ///
    /// It is no error if the kernel refuses and the operator leaves the choice to us, nor if somebody has taken the mount
    /// off: FUSE has the directory.
    pub(crate) fn cover(
        &self,
        server: &Server,
        number: u32,
        layer: &LazyLayer,
        tree: &Path,
    ) -> Result<()> {
        if !self.chosen.is_erofs() {
            return Ok(());
        }
        let (target, served) = (server.path(number), server.data_path(number));
        let connection = server.connection();
        let mut covered = self.covered();
        if covered.connection.is_some() && covered.connection != connection {
            // They went with it.
            covered.layers.clear();
        }
        covered.connection = connection;
        if covered.layers.contains_key(&number) {
            return Ok(());
        }
        match self.mounter.mount(layer, tree, &served, &target) {
            Err(error) if self.must => Err(Error::Failed {
                operation: format!("mounting the tree of layer {}", layer.digest()),
                source: error,
            }),
            Err(error) => {
                tracing::warn!(
                    layer = %layer.digest(),
                    error = &*error as &dyn std::error::Error,
                    "the kernel does not mount the tree of a layer; FUSE serves it"
                );
                Ok(())
            }
            Ok(()) => {
                covered.layers.insert(number, 0);
                Ok(())
            }
        }
    }

    /// Takes the mount of a layer off that nobody is to find any more. Who uses it keeps it. As [`Erofs::cover`], the
    /// kernel may ask the server.
    pub(crate) fn uncover(&self, number: u32) {
        if self.covered().layers.remove(&number).is_some() {
            self.take_off(&[self.mountpoint.join(number.to_string())]);
        }
    }

    fn take_off(&self, targets: &[PathBuf]) {
        if targets.is_empty() {
            return;
        }
        if let Err(error) = self.mounter.unmount(targets) {
            tracing::warn!(
                error = &*error as &dyn std::error::Error,
                "the mount of a layer that is gone stays"
            );
        }
    }

    /// Takes off what a predecessor has mounted, but for the layers in `trees`, by number with the name of the tree;
    /// answers how many stay.
    pub(crate) fn adopt(&self, trees: &BTreeMap<u32, String>) -> usize {
        let mounts = mounts_below(&self.mountpoint).unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what an earlier daemon has mounted is not known"
            );
            Vec::new()
        });
        let mut covered = self.covered();
        let kept = &mut covered.layers;
        let mut unwanted = Vec::new();
        for mount in mounts {
            let name = mount.target.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.parse().ok());
            let tree = mount.source.file_name().and_then(|name| name.to_str());
            match number {
                Some(number)
                    if self.chosen.is_erofs()
                        && mount.fs_type == "erofs"
                        && trees.get(&number).map(String::as_str) == tree
                        && !kept.contains_key(&number) =>
                {
                    kept.insert(number, 0);
                }
                _ => unwanted.push(mount.target),
            }
        }
        let kept = kept.len();
        drop(covered);
        self.take_off(&unwanted);
        kept
    }

    /// Has the kernel drop FUSE's pages of the layers that were read since the last time; `reads` is how often each was, by
    /// number. EROFS has copied them, and a program whose memory is limited pays for both.
    pub(crate) fn drop_copies(&self, reads: &[(u32, u64)]) {
        let mut read = Vec::new();
        let mut covered = self.covered();
        for (number, reads) in reads {
            let noticed = covered.layers.get_mut(number);
            if let Some(noticed) = noticed.filter(|noticed| *noticed != reads) {
                *noticed = *reads;
                read.push(self.mountpoint.join(data_name(*number)));
            }
        }
        drop(covered);
        // Pages that are being filled stay; the next time takes them.
        if !read.is_empty()
            && let Err(error) = self.mounter.forget(&read)
        {
            tracing::debug!(
                error = &*error as &dyn std::error::Error,
                "the kernel keeps two copies of what was read"
            );
        }
    }

    fn covered(&self) -> MutexGuard<'_, Covered> {
        self.covered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_linux::{DeviceReads, mount_erofs};
    use std::fs;

    fn erofs(mountpoint: &Path, name: &'static str) -> Erofs {
        let why = String::new();
        let config = crate::Config::default().lazy;
        Erofs::new(mountpoint.to_owned(), &config, Chosen { name, why })
    }

    #[test]
    fn what_an_earlier_daemon_mounted_stays_if_it_is_what_the_records_say() {
        let directory = tempfile::tempdir().unwrap();
        let directory = &fs::canonicalize(directory.path()).unwrap();
        let layer = crate::fixture::layer(&["etc/", "etc/name"]);
        let image = pontoon_erofs::write(&layer.tree, 0).unwrap();
        let mountpoint = directory.join("mnt");
        fs::write(directory.join("data"), "").unwrap();
        let at = |name: &str| mountpoint.join(name);
        for (name, tree) in [("1", "0a"), ("2", "0b"), ("3", "0c"), ("x", "0d")] {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(directory.join(tree), &image).unwrap();
            let devices = directory.join("data");
            if let Err(error) = mount_erofs(
                &directory.join(tree),
                &[&devices],
                DeviceReads::Buffered,
                &at(name),
            ) {
                println!("not tested: {error}");
                return;
            }
        }
        let trees = [(1, "0a"), (2, "ff"), (4, "0d")];
        let trees = trees.map(|(number, tree)| (number, tree.to_owned()));
        let trees = BTreeMap::from(trees);
        let mounted = || {
            let mounts = mounts_below(&mountpoint).unwrap().into_iter();
            mounts.map(|mount| mount.target).collect::<Vec<_>>()
        };
        let adopting = erofs(&mountpoint, "erofs");
        assert_eq!(adopting.adopt(&trees), 1);
        assert_eq!(mounted(), [at("1")]);
        assert_eq!(erofs(&mountpoint, "erofs").adopt(&trees), 1);
        // Not its own.
        adopting.uncover(4);
        adopting.uncover(1);
        assert!(mounted().is_empty());
        mount_erofs(
            &directory.join("0a"),
            &[&directory.join("data")],
            DeviceReads::Buffered,
            &at("1"),
        )
        .unwrap();
        assert_eq!(erofs(&mountpoint, "fuse").adopt(&trees), 0);
        assert!(mounted().is_empty());
    }
}
