//! The learned orders of this node: recorded at every start, kept on disk, followed at the next cold one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use pontoon_cache::Key;
use pontoon_lazyfs::{Engine, LazyLayer};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::durable;
use crate::profile::{self, Profile};

/// So many are kept, and so many bytes of them. Those that were written longest ago go first.
const PROFILES_MAX: usize = 256;
const BYTES_MAX: u64 = 32 << 20;

/// A start is over when nothing was read for the first time for so long, or after so long.
const QUIET: Duration = Duration::from_secs(10);
const START_MAX: Duration = Duration::from_secs(60);

/// How long a mount waits for somebody to read in it, and how often that is looked at.
const IDLE_MAX: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(1);

/// The ending of their files.
const ENDING: &str = ".json";

/// See the module.
#[derive(Debug)]
pub(crate) struct Profiles {
    directory: PathBuf,
    engine: Arc<Engine>,
    runtime: Handle,
    /// Starts that are going on, by the names of their profiles.
    recordings: Mutex<BTreeMap<String, Arc<Recording>>>,
    /// One file is changed at a time.
    files: Mutex<()>,
}

/// A start that is going on.
#[derive(Debug)]
struct Recording {
    image: String,
    layers: Vec<(Key, Weak<LazyLayer>)>,
    /// First uses from this number on are its.
    since: u64,
}

/// A profile that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) name: String,
    pub(crate) profile: Profile,
    pub(crate) written: SystemTime,
}

impl Profiles {
    pub(crate) fn open(
        directory: PathBuf,
        engine: Arc<Engine>,
        runtime: Handle,
    ) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        // What a crash has cut off is deleted.
        durable::names(&directory)?;
        Ok(Profiles {
            directory,
            engine,
            runtime,
            recordings: Mutex::default(),
            files: Mutex::default(),
        })
    }

    /// The profile of an image with these lazy layers, the lowest first, if there is one.
    pub(crate) fn find(&self, layers: &[Key]) -> Option<Arc<Profile>> {
        let name = profile::name(layers);
        // One that somebody put there under another's name is not of these layers.
        let profile = self.read(&name).filter(|profile| profile.name() == name)?;
        Some(Arc::new(profile))
    }

    /// The profile `name`, if there is one that can be used.
    fn read(&self, name: &str) -> Option<Profile> {
        let path = self.path(name)?;
        match read_bounded(&path).and_then(|bytes| {
            Profile::decode(&bytes)
                .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
        }) {
            Ok(profile) => Some(profile),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the learned order of an image cannot be used; the next start learns it again");
                None
            }
        }
    }

    /// A container is about to start on these layers, the lowest first: what it reads first is recorded.
    pub(crate) fn begin(self: &Arc<Self>, image: &str, layers: &[Arc<LazyLayer>]) {
        let keys: Vec<Key> = layers
            .iter()
            .map(|layer| layer.cached().key().clone())
            .collect();
        let name = profile::name(&keys);
        let recording = {
            let mut recordings = self.lock();
            if layers.is_empty() || recordings.contains_key(&name) {
                return;
            }
            let weak = layers.iter().map(Arc::downgrade);
            let recording = Arc::new(Recording {
                image: image.to_owned(),
                layers: keys.into_iter().zip(weak).collect(),
                since: self.engine.uses(),
            });
            recordings.insert(name.clone(), Arc::clone(&recording));
            recording
        };
        let profiles = Arc::downgrade(self);
        self.runtime.spawn(async move {
            recording.over().await;
            if let Some(profiles) = profiles.upgrade() {
                // It writes.
                tokio::task::spawn_blocking(move || profiles.end_this(&name, &recording));
            }
        });
    }

    /// Ends `recording`, unless that was done and another start of the same image goes on.
    fn end_this(&self, name: &str, recording: &Arc<Recording>) {
        let goes_on = self.lock().get(name).cloned();
        if goes_on.is_some_and(|other| Arc::ptr_eq(&other, recording)) {
            self.end(name);
        }
    }

    /// Ends the recordings that have the layer `key`, which is about to go.
    pub(crate) fn end_of(&self, key: &Key) {
        let has = |recording: &Recording| recording.layers.iter().any(|(layer, _)| layer == key);
        let names: Vec<String> = {
            let recordings = self.lock();
            let ended = recordings.iter().filter(|(_, recording)| has(recording));
            ended.map(|(name, _)| name.clone()).collect()
        };
        names.iter().for_each(|name| self.end(name));
    }

    /// Ends all.
    pub(crate) fn end_all(&self) {
        let names: Vec<String> = self.lock().keys().cloned().collect();
        names.iter().for_each(|name| self.end(name));
    }

    fn end(&self, name: &str) {
        let recording = self.lock().remove(name);
        let Some(profile) = recording.and_then(|recording| recording.profile()) else {
            return;
        };
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let profile = match self.read(name) {
            Some(old) => profile.after(old),
            None => profile,
        };
        if let Err(error) = self.write(&profile) {
            tracing::warn!(image = profile.image, %error, "what a start has read is not kept; the next one is learned from");
        }
    }

    /// Takes a profile from elsewhere, in place of what is here. Answers what it is called.
    pub(crate) fn add(&self, profile: &Profile) -> io::Result<String> {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(profile)
    }

    fn write(&self, profile: &Profile) -> io::Result<String> {
        let name = profile.name();
        let path = self.directory.join(format!("{name}{ENDING}"));
        durable::write(&path, &profile.encode())?;
        self.trim()?;
        Ok(name)
    }

    /// Deletes those that are too many.
    fn trim(&self) -> io::Result<()> {
        let (mut count, mut bytes) = (0, 0_u64);
        for (path, written) in self.files()? {
            count += 1;
            bytes = bytes.saturating_add(written.len());
            if count > PROFILES_MAX || bytes > BYTES_MAX {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// All files, those that were written last first.
    fn files(&self) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(ENDING) {
                files.push((entry.path(), entry.metadata()?));
            }
        }
        files.sort_by_key(|(_, of)| std::cmp::Reverse(of.modified().ok()));
        Ok(files)
    }

    /// All that are kept, those that were written last first.
    pub(crate) fn all(&self) -> io::Result<Vec<Kept>> {
        let files = self.files()?;
        let kept = files.into_iter().filter_map(|(path, of)| {
            let name = path.file_stem()?.to_str()?.to_owned();
            Some(Kept {
                profile: self.read(&name)?,
                written: of.modified().ok()?,
                name,
            })
        });
        Ok(kept.collect())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_name.then(|| self.directory.join(format!("{name}{ENDING}")))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Recording>>> {
        self.recordings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording {
    /// What was read so far; `None` if that is nothing.
    fn profile(&self) -> Option<Profile> {
        let mut uses = HashMap::new();
        for (number, (_, layer)) in (0..).zip(&self.layers) {
            if let Some(layer) = layer.upgrade() {
                uses.insert(number, layer.uses_since(self.since));
            }
        }
        let chunks = profile::merge(uses);
        let keys: Vec<Key> = self.layers.iter().map(|(key, _)| key.clone()).collect();
        (!chunks.is_empty()).then(|| Profile::new(&self.image, &keys, chunks))
    }

    fn count(&self) -> usize {
        let layers = self.layers.iter().filter_map(|(_, layer)| layer.upgrade());
        layers.map(|layer| layer.uses_since(self.since).len()).sum()
    }

    /// Returns when the start is over.
    async fn over(&self) {
        let begun = Instant::now();
        // When the first use was seen, and when the last.
        let (mut first, mut last, mut count) = (None, begun, 0);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = Instant::now();
            let counted = self.count();
            if counted > count {
                (count, last) = (counted, now);
                first.get_or_insert(now);
            }
            let is_over = match first {
                None => now - begun >= IDLE_MAX,
                Some(first) => now - last >= QUIET || now - first >= START_MAX,
            };
            if is_over {
                return;
            }
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = profile::BYTES_MAX as u64 + 1;
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How many entries of a profile are fetched in any order, so that neighbours in a layer are one request.
const STEPS_AT_ONCE: u64 = 32;

/// Has what `profile` says of `layer` fetched, before all else.
pub(crate) fn follow(profile: &Profile, layer: &Arc<LazyLayer>) {
    let cached = layer.cached();
    let chunks = u32::try_from(cached.chunks().len()).unwrap_or(u32::MAX);
    let mut groups: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (place, chunk) in profile.steps(cached.key(), chunks) {
        if !cached.is_ready(chunk as usize) {
            groups.entry(place / STEPS_AT_ONCE).or_default().push(chunk);
        }
    }
    for (place, mut chunks) in groups {
        chunks.sort_unstable();
        layer.follow(place, chunks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parents::Parents;
    use crate::{build, fixture};
    use pontoon_layer::Digest;

    #[test]
    fn the_end_of_one_start_is_not_that_of_the_next() {
        let fixture = fixture::stock();
        let key = Key::new(Digest::of(b"blob"), Digest::of(b"toc"));
        let layer = fixture::layer(&["etc/", "etc/name"]);
        let hold = build::build(
            &fixture.stock,
            &key,
            1,
            layer.into(),
            &Parents::ordinary(&[]),
        )
        .unwrap();
        let opened = fixture.stock.open_layer(&hold.item.record).unwrap();
        let profiles = fixture.profiles();
        let begin = || {
            profiles.begin("image", std::slice::from_ref(&opened.layer));
            let recordings = profiles.lock();
            let (name, recording) = recordings.first_key_value().unwrap();
            (name.clone(), Arc::clone(recording))
        };
        let (name, first) = begin();
        profiles.end_of(&key);
        let (_, second) = begin();
        profiles.end_this(&name, &first);
        assert_eq!(profiles.lock().len(), 1);
        profiles.end_this(&name, &second);
        assert!(profiles.lock().is_empty());
    }
}
