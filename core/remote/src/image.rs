//! An image whose manifest was fetched: what becomes of its layers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use pontoon_cache::Key;
use pontoon_layer::{Annotated, Digest, parse_annotations};
use pontoon_source::{Descriptor, Manifest, Reference};
use serde::Deserialize;
use serde_json::Value;

use crate::build;
use crate::download::Download;
use crate::nydus::{self, Role};
use crate::parents::Parents;
use crate::profile::Profile;
use crate::promise::Promise;
use crate::reason::{self, Refusal};
use crate::remote::Shared;
use crate::stock::Hold;
use crate::toc::{self, Table};
use crate::told::Start;

/// The largest image configuration, in bytes: what containerd takes.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Tables of contents are fetched for so many layers ahead of the one that is asked for: all that most images have, and
/// not more than memory has room for.
const AHEAD: usize = 16;

/// What to do about an image for another plugin.
pub(crate) const NYDUS_ADVICE: &str = "install pontoon-nydus and pull it with `--snapshotter pontoon-nydus`; it runs all other images too";

/// An image that the caller may read: its manifest was fetched with its credentials.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) reference: Reference,
    pub(crate) layers: Vec<Part>,
    /// What its configuration says.
    configuration: OnceLock<Promise<Arc<Configured>>>,
    /// What an earlier start has read, if that is known.
    pub(crate) profile: Option<Arc<Profile>>,
    manifest: Manifest,
}

/// A layer of an image.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) index: usize,
    pub(crate) descriptor: Descriptor,
    pub(crate) role: Role,
    annotated: OnceLock<Annotated>,
    /// Why it is not lazy, although its annotations say so.
    pub(crate) failed: OnceLock<Refusal>,
    toc: Mutex<Option<Promise<Arc<Fetched>>>>,
    /// What was made of it, by the layers that it lies on.
    built: Mutex<HashMap<String, Promise<Arc<Hold>>>>,
    download: Mutex<Option<Promise<Arc<Download>>>>,
}

/// A table of contents. The first layer that is made of it takes it.
#[derive(Debug)]
pub(crate) struct Fetched(Mutex<Option<Table>>);

/// What an image's configuration says.
#[derive(Debug)]
pub(crate) struct Configured {
    /// The digests of the decompressed layers.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) start: Start,
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFilesystem,
    config: Option<Value>,
}

#[derive(Deserialize)]
struct RootFilesystem {
    diff_ids: Vec<String>,
}

impl Image {
    /// The image of `manifest`. Whatever its layers will need is on its way when this returns, side by side: of `first`
    /// and those above it, since containerd asks for the lowest one that it does not have.
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        reference: Reference,
        manifest: Manifest,
        first: &Digest,
    ) -> Arc<Self> {
        let layers = 0..manifest.layers.len();
        let layers = layers.filter_map(|index| Part::new(shared, index, &manifest));
        let layers: Vec<Part> = layers.collect();
        let lazy: Vec<Key> = layers.iter().filter_map(Part::key).collect();
        let image = Arc::new(Image {
            reference,
            layers,
            configuration: OnceLock::new(),
            profile: shared.profiles.find(&lazy),
            manifest,
        });
        let lazy = image.can_be_lazy();
        let first = image.part(first).map_or(0, |part| part.index);
        image.expect(shared, first);
        if lazy && image.is_told_of(shared) {
            let _ = image.configuration(shared);
        }
        for part in image.layers.iter().skip(first) {
            if part.is_ordinary() && (lazy || shared.config.unpack.everything) {
                let _ = part.download(shared, &image);
            }
        }
        image
    }

    pub(crate) fn part(&self, layer: &Digest) -> Option<&Part> {
        self.layers
            .iter()
            .find(|part| part.descriptor.digest == *layer)
    }

    /// Whether any layer may be lazy, as far as is known.
    pub(crate) fn can_be_lazy(&self) -> bool {
        self.layers.iter().any(Part::is_candidate)
    }

    /// Why no layer is lazy: what was wrong with the first one that should have been, or that none should.
    pub(crate) fn ordinary(&self) -> Refusal {
        let mut failed = self.layers.iter().filter_map(|part| part.failed.get());
        let failed = failed.next().cloned();
        failed.unwrap_or_else(|| Refusal::new(reason::ORDINARY))
    }

    /// Fetches the tables of contents of the layers from `index` on, but for those that were fetched from this repository
    /// before and likely need none.
    pub(crate) fn expect(&self, shared: &Arc<Shared>, index: usize) {
        let ahead = self.layers.iter().skip(index);
        for part in ahead.filter(|part| part.is_candidate()).take(AHEAD) {
            let known = || {
                let key = part.key();
                key.is_some_and(|key| shared.stock.is_proven(&key, &self.reference))
            };
            if lock(&part.toc).is_none() && !known() {
                let _ = part.toc(shared, &self.reference);
            }
        }
    }

    /// Whether what it tells of its start is looked at: an earlier start has told more.
    pub(crate) fn is_told_of(&self, shared: &Shared) -> bool {
        self.profile.is_none() && shared.config.fetching.background.enabled
    }

    /// What the image's configuration says.
    pub(crate) fn configuration(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
    ) -> Promise<Arc<Configured>> {
        let begin = || {
            let (registry, image) = (shared.registry.clone(), Arc::clone(self));
            Promise::of(&shared.runtime, async move {
                let config = &image.manifest.config;
                let bytes = registry.fetch(&image.reference, config, CONFIG_BYTES_MAX);
                let bytes = bytes.await?;
                let malformed = |error: &dyn std::error::Error| {
                    Refusal::new(reason::UNPACK_FAILED).because(error)
                };
                let parsed: Configuration =
                    serde_json::from_slice(&bytes).map_err(|error| malformed(&error))?;
                let ids = parsed.rootfs.diff_ids.iter();
                let ids: Result<Vec<Digest>, _> = ids.map(|id| id.parse()).collect();
                Ok(Arc::new(Configured {
                    diff_ids: ids.map_err(|error| malformed(&error))?,
                    start: Start::read(parsed.config),
                }))
            })
        };
        self.configuration.get_or_init(begin).clone()
    }
}

impl Part {
    fn new(shared: &Shared, index: usize, manifest: &Manifest) -> Option<Self> {
        let descriptor = manifest.layers.get(index)?;
        let part = Part {
            index,
            descriptor: descriptor.clone(),
            role: nydus::role(manifest, descriptor),
            annotated: OnceLock::new(),
            failed: OnceLock::new(),
            toc: Mutex::default(),
            built: Mutex::default(),
            download: Mutex::default(),
        };
        match part.role {
            Role::Layer => part.learn(shared, &part.descriptor.annotations),
            Role::Data | Role::Bootstrap(_) => {
                let checked = match shared.config.nydus {
                    true => nydus::check(descriptor),
                    false => Err(Refusal::new(reason::OTHER_PLUGIN).with(NYDUS_ADVICE)),
                };
                if let Err(refusal) = checked {
                    let _ = part.failed.set(refusal.and_final());
                }
            }
        }
        Some(part)
    }

    /// Takes note of what annotations, or the labels that containerd makes of them, say.
    pub(crate) fn learn(&self, shared: &Shared, annotations: &BTreeMap<String, String>) {
        if self.annotated.get().is_some() || !matches!(self.role, Role::Layer) {
            return;
        }
        match parse_annotations(annotations, self.descriptor.size, &shared.config.limits) {
            Ok(annotated) if annotated.digest.is_some() => {
                let _ = self.annotated.set(annotated);
            }
            Ok(_) => {}
            Err(error) => {
                let _ = self.failed.set(error.into());
            }
        }
    }

    /// Whether it may be lazy, as far as is known.
    pub(crate) fn is_candidate(&self) -> bool {
        let may_be = match self.role {
            Role::Layer => self.annotated.get().is_some(),
            Role::Data => false,
            Role::Bootstrap(_) => true,
        };
        may_be && self.failed.get().is_none()
    }

    /// Whether it is an archive of files that is not lazy.
    fn is_ordinary(&self) -> bool {
        matches!(self.role, Role::Layer) && !self.is_candidate()
    }

    /// Under which its data is cached; `None` if nothing vouches for it.
    pub(crate) fn key(&self) -> Option<Key> {
        if let Role::Bootstrap(bootstrap) = &self.role {
            return Some(bootstrap.key.clone());
        }
        let expected = self.annotated.get()?.digest.as_ref()?;
        let toc = toc::digest_of(expected).clone();
        Some(Key::new(self.descriptor.digest.clone(), toc))
    }

    fn toc(&self, shared: &Arc<Shared>, reference: &Reference) -> Promise<Arc<Fetched>> {
        let mut toc = lock(&self.toc);
        let usable = toc.take().filter(|toc| match toc.get() {
            None => true,
            Some(Ok(fetched)) => lock(&fetched.0).is_some(),
            Some(Err(refusal)) => !refusal.transient,
        });
        let promise = usable.unwrap_or_else(|| {
            let (shared, reference) = (Arc::clone(shared), reference.clone());
            let descriptor = self.descriptor.clone();
            let annotated = self.annotated.get().cloned().unwrap_or_default();
            let role = self.role.clone();
            Promise::of(&Arc::clone(&shared).runtime, async move {
                let reading = &shared.reading;
                let table = match &role {
                    Role::Bootstrap(bootstrap) => reading.bootstrap(&reference, bootstrap).await?,
                    _ => reading.table(&reference, &descriptor, &annotated).await?,
                };
                Ok(Arc::new(Fetched(Mutex::new(Some(table)))))
            })
        });
        toc.insert(promise).clone()
    }

    /// The layer on `parents`: found or made, or being made.
    pub(crate) fn lazy(
        &self,
        shared: &Arc<Shared>,
        reference: &Reference,
        key: &Key,
        parents: &Parents,
    ) -> Promise<Arc<Hold>> {
        let mut built = lock(&self.built);
        let identity = parents.identity();
        let usable = built.get(&identity).filter(|built| match built.get() {
            None | Some(Ok(_)) => true,
            Some(Err(refusal)) => !refusal.transient,
        });
        if let Some(promise) = usable {
            return promise.clone();
        }
        let find = |shared: &Arc<Shared>, key: &Key, parents: &Parents| {
            build::find(&shared.stock, key, shared.config.opaque, parents)
        };
        let found = match shared.stock.is_proven(key, reference) {
            true => find(shared, key, parents),
            false => None,
        };
        let promise = match found {
            Some(hold) => Promise::of(&shared.runtime, async { Ok(Arc::new(hold)) }),
            None => {
                let toc = self.toc(shared, reference);
                let (shared, parents) = (Arc::clone(shared), parents.clone());
                let (key, size) = (key.clone(), self.descriptor.size);
                Promise::of(&Arc::clone(&shared).runtime, async move {
                    let fetched = toc.wait().await?;
                    let table = lock(&fetched.0).take();
                    // Somebody else was quicker; the next try fetches it again.
                    let table = table.ok_or_else(|| Refusal::for_now(reason::SLOW_TOC))?;
                    let (layer, memory) = shared.reading.take(table).await?;
                    let made = tokio::task::spawn_blocking(move || {
                        // Until the layer is gone.
                        let _memory = memory;
                        match find(&shared, &key, &parents) {
                            // Another image has it, and this one has now shown that it may.
                            Some(hold) => Ok(hold),
                            None => build::build(&shared.stock, &key, size, layer, &parents),
                        }
                    });
                    let made = made.await.map_err(|_| Refusal::new(reason::BUG))?;
                    Ok(Arc::new(made?))
                })
            }
        };
        built.insert(identity, promise.clone());
        promise
    }

    /// The download of the layer; begun, if there is space.
    pub(crate) fn download(&self, shared: &Arc<Shared>, image: &Image) -> Promise<Arc<Download>> {
        let mut download = lock(&self.download);
        let usable = download.take().filter(|download| match download.get() {
            None => true,
            Some(Ok(download)) => download.failure().is_none(),
            Some(Err(_)) => false,
        });
        let promise = usable.unwrap_or_else(|| self.begin_download(shared, image));
        // A layer that is found to be ordinary late has not asked for these.
        download.insert(promise).clone()
    }

    fn begin_download(&self, shared: &Arc<Shared>, image: &Image) -> Promise<Arc<Download>> {
        let size = self.descriptor.size;
        let unpack = &shared.config.unpack;
        let (everything, too_large) = (unpack.everything, size > unpack.layer_bytes_max);
        let blob = shared
            .registry
            .blob(&image.reference, self.descriptor.digest.clone(), size);
        let shared = Arc::clone(shared);
        Promise::of(&Arc::clone(&shared).runtime, async move {
            let space = match everything {
                true => shared.space.take(size).await,
                false if too_large => None,
                false => shared.space.try_take(size),
            };
            let space = space.ok_or_else(|| Refusal::for_now(reason::LARGE_LAYER))?;
            Download::start(&shared.runtime, &shared.temporary, blob, Some(space))
                .map_err(|error| Refusal::store(&error))
        })
    }

    /// Nobody will want its bytes.
    pub(crate) fn stop_download(&self) {
        *lock(&self.download) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
