//! The registry from which everything is pulled, and the link to it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use pontoon_rig::gate::Link;
use pontoon_rig::image::{Layout, Workload};
use pontoon_rig::registry::Registry;
use pontoon_rig::sandbox::Sandbox;
use pontoon_rig::wire::Wire;

/// In which form an image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// As it was built: gzip.
    Plain,
    /// Converted to eStargz.
    Estargz,
    /// Only what a start opens.
    Floor,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Plain => "plain",
            Form::Estargz => "estargz",
            Form::Floor => "floor",
        }
    }
}

/// A registry behind a link.
#[derive(Debug)]
pub(super) struct Store {
    /// The link. It goes before the registry.
    pub(super) wire: Wire,
    registry: Registry,
    images: BTreeMap<(Workload, Form), Stored>,
    sandbox: Sandbox,
}

/// An image in the registry.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// The name by which clients behind the link know it.
    pub(super) reference: String,
    /// Its compressed size, in bytes.
    pub(super) bytes: u64,
    files: Vec<PathBuf>,
}

impl Store {
    pub(super) fn start() -> Result<Self, Box<dyn Error>> {
        let sandbox = Sandbox::new()?;
        let registry = Registry::start(&sandbox)?;
        let wire = Wire::start(registry.host(), Link::default())?;
        Ok(Store {
            wire,
            registry,
            images: BTreeMap::new(),
            sandbox,
        })
    }

    /// Stores `image`, around the link.
    pub(super) fn push(
        &mut self,
        workload: Workload,
        form: Form,
        image: &Layout,
    ) -> Result<(), Box<dyn Error>> {
        let repository = format!("{}/{}", workload.name(), form.name());
        self.registry.push(image, &repository, "1")?;
        let (config, layers) = image.parts()?;
        let manifest = image.manifest_digest()?;
        let digests = layers.iter().chain([&config, &manifest]);
        let files = digests.filter_map(|digest| self.file(digest)).collect();
        let stored = Stored {
            reference: format!("{}/{repository}:1", self.wire.host()),
            bytes: image.size()?,
            files,
        };
        self.images.insert((workload, form), stored);
        Ok(())
    }

    /// An image that was pushed before.
    pub(super) fn image(&self, workload: Workload, form: Form) -> Result<&Stored, Box<dyn Error>> {
        let found = self.images.get(&(workload, form));
        found.ok_or_else(|| format!("no image of {} as {}", workload.name(), form.name()).into())
    }

    /// Where the registry keeps a blob.
    fn file(&self, digest: &str) -> Option<PathBuf> {
        let (algorithm, hex) = digest.split_once(':')?;
        let two = hex.get(..2)?;
        let path = format!("registry/docker/registry/v2/blobs/{algorithm}/{two}/{hex}/data");
        Some(self.sandbox.path(&path))
    }
}

impl Stored {
    /// Has the registry's files in the page cache: its disk is not what is measured.
    pub(super) fn warm(&self) -> Result<(), Box<dyn Error>> {
        for file in &self.files {
            std::io::copy(&mut fs::File::open(file)?, &mut std::io::sink())?;
        }
        Ok(())
    }
}
