//! Layers as mounts of the kernel's EROFS: names, attributes and warm pages without a question to this daemon.
//!
//! Such a mount covers the layer's directory in the FUSE mount. So its path is the same for either front end; who sees the
//! FUSE mount and not this one, in another mount namespace or in a copy of the one mount, finds the same layer; and
//! what lies below a FUSE mount reads from no other connection than that one, also after a restart, and ends with it.
//!
//! Its bytes come from the layer's data file below the same FUSE mount, or, when all of them are here, from the cache's
//! own file.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_fuse::{Server, data_name};
use pontoon_lazyfs::LazyLayer;
use pontoon_linux::{detach, is_mount_point, mounts_below};
use pontoon_snapshot::{Error, Result};
use rustix::fs::{Advice, fadvise};

use crate::LazyConfig;
use crate::front_end::{Chosen, FrontEnd};
use crate::mounter::mount;

/// Mounts layers, if the kernel is to.
#[derive(Debug)]
pub(crate) struct Erofs {
    /// Of the FUSE server.
    mountpoint: PathBuf,
    chosen: Chosen,
    /// There is no way but this.
    must: bool,
    /// The program that mounts, see [`mount_layer`](crate::mount_layer). Without one it is this process.
    mounter: Option<PathBuf>,
    /// The layers that were mounted, with how many of their reads were noticed. Held while one is: two mounts on top of
    /// each other would be one too many.
    covered: Mutex<BTreeMap<u32, u64>>,
}

impl Erofs {
    pub(crate) fn new(mountpoint: PathBuf, config: &LazyConfig, chosen: Chosen) -> Self {
        Erofs {
            mountpoint,
            must: config.front_end == FrontEnd::Erofs,
            mounter: config.mounter.clone(),
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
    /// It is no error if the kernel refuses and the operator leaves the choice to us: FUSE has the directory.
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
        let target = server.path(number);
        let mut covered = self.covered();
        // Somebody may have taken it off. Is it there, the kernel knows that without asking us.
        if covered.contains_key(&number) && is_mount_point(&target).unwrap_or(false) {
            return Ok(());
        }
        let mounter = self.mounter.as_deref();
        let mounted = mount(layer, tree, &server.data_path(number), &target, mounter);
        match mounted {
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
                covered.insert(number, 0);
                Ok(())
            }
        }
    }

    /// Takes the mount of a layer off that nobody is to find any more. Who uses it keeps it. As [`Erofs::cover`], the
    /// kernel may ask the server.
    pub(crate) fn uncover(&self, number: u32) {
        if self.covered().remove(&number).is_some() {
            take_off(&self.mountpoint.join(number.to_string()));
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
        let mut kept = self.covered();
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
                _ => take_off(&mount.target),
            }
        }
        kept.len()
    }

    /// Has the kernel drop FUSE's pages of the layers that were read since the last time; `reads` is how often each was, by
    /// number. EROFS has copied them, and a program whose memory is limited pays for both.
    ///
    /// It asks nobody: the mount holds the data file's name, and opening and closing are silent.
    pub(crate) fn drop_copies(&self, reads: &[(u32, u64)]) {
        let mut read = Vec::new();
        let mut covered = self.covered();
        for (number, reads) in reads {
            if let Some(noticed) = covered.get_mut(number).filter(|noticed| *noticed != reads) {
                *noticed = *reads;
                read.push(*number);
            }
        }
        drop(covered);
        for number in read {
            let path = self.mountpoint.join(data_name(number));
            // Pages that are being filled stay; the next time takes them.
            let dropped =
                File::open(path).and_then(|file| Ok(fadvise(file, 0, None, Advice::DontNeed)?));
            if let Err(error) = dropped {
                tracing::debug!(number, %error, "the kernel keeps two copies of what was read");
            }
        }
    }

    fn covered(&self) -> MutexGuard<'_, BTreeMap<u32, u64>> {
        self.covered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_off(target: &Path) {
    if let Err(error) = detach(target) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the mount of a layer that is gone stays"
        );
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
