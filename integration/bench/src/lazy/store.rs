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
use serde_json::Value;

/// In which form an image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// As it was built: gzip.
    Plain,
    /// Converted to eStargz.
    Estargz,
    /// Converted to RAFS v6.
    Nydus,
    /// With zTOCs beside it.
    Soci,
    /// Only what a start opens.
    Floor,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Form::Plain => "plain",
            Form::Estargz => "estargz",
            Form::Nydus => "nydus",
            Form::Soci => "soci",
            Form::Floor => "floor",
        }
    }
}

/// The tag of every image.
const TAG: &str = "1";

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
        self.registry
            .push(image, &repository(workload, form), TAG)?;
        self.adopt(workload, form).map(drop)
    }

    /// Takes up an image that others have pushed to [`reference`](Self::reference), and returns its size in bytes.
    pub(super) fn adopt(&mut self, workload: Workload, form: Form) -> Result<u64, Box<dyn Error>> {
        let repository = repository(workload, form);
        let mut manifest = self.document(&repository, TAG)?;
        if let Some(first) = manifest["manifests"][0]["digest"].as_str() {
            manifest = self.document(&repository, first)?;
        }
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let mut stored = Stored {
            reference: self.reference(workload, form),
            bytes: 0,
            files: Vec::new(),
        };
        for descriptor in layers.chain([&manifest["config"]]) {
            stored.bytes += descriptor["size"].as_u64().unwrap_or_default();
            stored
                .files
                .extend(descriptor["digest"].as_str().and_then(|d| self.file(d)));
        }
        let bytes = stored.bytes;
        self.images.insert((workload, form), stored);
        Ok(bytes)
    }

    /// The name by which clients behind the link know an image.
    pub(super) fn reference(&self, workload: Workload, form: Form) -> String {
        format!("{}/{}:{TAG}", self.wire.host(), repository(workload, form))
    }

    fn document(&self, repository: &str, name: &str) -> Result<Value, Box<dyn Error>> {
        Ok(serde_json::from_slice(
            &self.registry.manifest(repository, name)?,
        )?)
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

fn repository(workload: Workload, form: Form) -> String {
    format!("{}/{}", workload.name(), form.name())
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
