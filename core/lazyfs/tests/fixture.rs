//! A layer made for a test, and a blob that counts, dawdles, fails and lies.

#![allow(dead_code, reason = "the tests of two crates use parts of it")]

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use pontoon_cache::{Cache, CachedLayer, Key, Meta};
use pontoon_layer::{
    Algorithm, Chunk, ChunkTable, Compression, Digest, Entry, EntryKind, Hasher, Limits,
    OpaqueXattr, Time, TreeBuilder,
};
use pontoon_lazyfs::tree::Nid;
use pontoon_lazyfs::{Config, Connect, Connected, Engine, LazyLayer, Read, Result};
use pontoon_linux::Map;
use pontoon_source::{Blob, BoxFuture, ByteStream, Error, Joined, Pace, Urgency};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Bytes that do not compress and tell where they are from.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(next());
    }
    bytes.truncate(length);
    bytes
}

/// Makes a layer: a tree, a chunk table, a blob of gzip members unless it is told otherwise.
pub(crate) struct Maker {
    pub(crate) compression: Compression,
    /// Compresses so.
    pub(crate) pack: fn(&[u8]) -> Vec<u8>,
    pub(crate) algorithm: Algorithm,
    /// Where blobs end, but for the last one.
    ends: Vec<u64>,
    tree: TreeBuilder,
    chunks: Vec<Chunk>,
    blob: Vec<u8>,
    data_end: u64,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

pub(crate) fn entry(kind: EntryKind<'_>, mode: u16) -> Entry<'_> {
    Entry {
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Time {
            seconds: 1_000_000_000,
            nanoseconds: 5,
        },
        size: 0,
        xattrs: Vec::new(),
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

impl Maker {
    pub(crate) fn new() -> Self {
        let mut tree = TreeBuilder::new(OpaqueXattr::Trusted, &Limits::default());
        tree.add(b"/", entry(EntryKind::Directory, 0o755)).unwrap();
        Maker {
            compression: Compression::Gzip,
            pack: gzip,
            algorithm: Algorithm::Sha256,
            ends: Vec::new(),
            tree,
            chunks: Vec::new(),
            blob: b"something before the first member".to_vec(),
            data_end: 0,
            files: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, path: &str, entry: Entry<'_>) {
        self.tree.add(path.as_bytes(), entry).unwrap();
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.tree.link(path.as_bytes(), target.as_bytes()).unwrap();
    }

    /// A file in chunks of `chunk` bytes, each a member of its own.
    pub(crate) fn file(&mut self, path: &str, mode: u16, bytes: &[u8], chunk: usize) {
        let data_offset = self.file_entry(path, mode, bytes);
        for (index, part) in bytes.chunks(chunk).enumerate() {
            let member = (self.pack)(part);
            let offset = data_offset + (index * chunk) as u64;
            self.chunk(offset, part, 0, member.len());
            self.blob.extend(member);
        }
    }

    /// Files of one chunk each that come out of one member.
    pub(crate) fn files_of_one_member(&mut self, files: &[(&str, &[u8])]) {
        let mut inner = Vec::new();
        let places: Vec<(u64, u64, &[u8])> = files
            .iter()
            .map(|(path, bytes)| {
                // Something that is nobody's data, like a tar header.
                inner.extend([7; 512]);
                let place = (
                    self.file_entry(path, 0o644, bytes),
                    inner.len() as u64,
                    *bytes,
                );
                inner.extend(*bytes);
                place
            })
            .collect();
        let member = gzip(&inner);
        for (data_offset, inner_offset, bytes) in places {
            self.chunk(data_offset, bytes, inner_offset, member.len());
        }
        self.blob.extend(member);
    }

    /// A file that has the same bytes as `original`, and the same bytes of the blob.
    pub(crate) fn again(&mut self, path: &str, original: &str) {
        let bytes = self.files[original].clone();
        let first = self
            .chunks
            .iter()
            .position(|chunk| chunk.digest == self.hash(&bytes[..chunk.length as usize]));
        let first = self.chunks[first.unwrap()].data_offset;
        let data_offset = self.file_entry(path, 0o644, &bytes);
        let inside = first..first + bytes.len() as u64;
        let chunks = self
            .chunks
            .iter()
            .filter(|chunk| inside.contains(&chunk.data_offset));
        let again: Vec<Chunk> = chunks
            .map(|chunk| Chunk {
                data_offset: chunk.data_offset - first + data_offset,
                ..*chunk
            })
            .collect();
        self.chunks.extend(again);
    }

    /// What follows is in another blob.
    pub(crate) fn end_blob(&mut self) {
        self.ends.push(self.blob_bytes());
    }

    fn hash(&self, bytes: &[u8]) -> [u8; 32] {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish().bytes().try_into().unwrap()
    }

    /// Bytes of the blob that are no chunk's.
    pub(crate) fn gap(&mut self, length: usize) {
        self.blob.extend(vec![0xee; length]);
    }

    pub(crate) fn zeros(&mut self, path: &str, length: u32) {
        let data_offset = self.file_entry(path, 0o644, &vec![0; length as usize]);
        self.chunks.push(Chunk {
            data_offset,
            length,
            blob_length: 0,
            blob_offset: 0,
            inner_offset: 0,
            compression: self.compression,
            algorithm: self.algorithm,
            digest: [0; 32],
        });
    }

    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blob.len() as u64
    }

    fn file_entry(&mut self, path: &str, mode: u16, bytes: &[u8]) -> u64 {
        let data_offset = self.data_end.next_multiple_of(4096);
        self.data_end = data_offset + bytes.len() as u64;
        let file = Entry {
            size: bytes.len() as u64,
            ..entry(EntryKind::File { data_offset }, mode)
        };
        self.tree.add(path.as_bytes(), file).unwrap();
        self.files.insert(path.to_owned(), bytes.to_vec());
        data_offset
    }

    fn chunk(&mut self, data_offset: u64, bytes: &[u8], inner_offset: u64, member: usize) {
        self.chunks.push(Chunk {
            data_offset,
            length: bytes.len() as u32,
            blob_length: member as u32,
            blob_offset: self.blob.len() as u64,
            inner_offset,
            compression: self.compression,
            algorithm: self.algorithm,
            digest: self.hash(bytes),
        });
    }

    pub(crate) fn make(self) -> Made {
        // Not up to the end of a block, which is the harder case.
        let data_size = self.data_end;
        let tree = self.tree.finish().unwrap();
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let ends = self.ends.iter().copied().chain([self.blob.len() as u64]);
        let parts = starts
            .zip(ends)
            .map(|(start, end)| FakeBlob::new(self.blob[start as usize..end as usize].to_vec()));
        Made {
            image: pontoon_erofs::write(&tree, data_size).unwrap(),
            table: ChunkTable::new(Compression::Gzip, data_size, self.chunks).unwrap(),
            parts: parts.collect(),
            blob: FakeBlob::new(self.blob),
            files: self.files,
        }
    }
}

/// A layer in pieces.
pub(crate) struct Made {
    pub(crate) image: Vec<u8>,
    pub(crate) table: ChunkTable,
    pub(crate) blob: Arc<FakeBlob>,
    /// The same in several blobs.
    pub(crate) parts: Vec<Arc<FakeBlob>>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

/// What goes wrong with a request, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Unavailable,
    NotFound,
    /// Every byte is wrong.
    Lie,
    /// It ends early.
    Short,
    /// A byte every 20 ms.
    Drip,
}

/// A blob in memory.
#[derive(Debug)]
pub(crate) struct FakeBlob {
    digest: Digest,
    bytes: Bytes,
    requests: Mutex<Vec<(Range<u64>, Urgency)>>,
    faults: Mutex<VecDeque<Fault>>,
    held: watch::Sender<Held>,
    pace: Mutex<Option<Pace>>,
    /// When others were served last.
    progress: Mutex<Option<Instant>>,
    /// What was reported as damaged, and how many others may be asked then.
    damaged: Mutex<Vec<Range<u64>>>,
    others: Mutex<usize>,
}

/// Requests that dawdle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// Pieces that have any of these bytes do not come.
    pub(crate) bytes: Range<u64>,
    /// Of requests of this urgency, or all.
    pub(crate) urgency: Option<Urgency>,
}

/// How many bytes come at once.
const PIECE: u64 = 10_000;

impl FakeBlob {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(FakeBlob {
            digest: Digest::of(&bytes),
            bytes: bytes.into(),
            requests: Mutex::default(),
            faults: Mutex::default(),
            held: watch::Sender::default(),
            pace: Mutex::default(),
            progress: Mutex::default(),
            damaged: Mutex::default(),
            others: Mutex::default(),
        })
    }

    /// Every request so far.
    pub(crate) fn requests(&self) -> Vec<(Range<u64>, Urgency)> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// The next requests fail so.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    pub(crate) fn fail_no_more(&self) {
        self.faults.lock().unwrap().clear();
    }

    pub(crate) fn hold(&self, bytes: Range<u64>, urgency: Option<Urgency>) {
        self.held.send_replace(Held { bytes, urgency });
    }

    /// The way to it is so fast.
    pub(crate) fn measure(&self, round_trip: Duration, bytes_per_second: u64) {
        *self.pace.lock().unwrap() = Some(Pace {
            round_trip,
            bytes_per_second,
        });
    }

    /// Somebody else is served.
    pub(crate) fn serve_others(&self) {
        *self.progress.lock().unwrap() = Some(Instant::now());
    }

    pub(crate) fn have_others(&self, others: usize) {
        *self.others.lock().unwrap() = others;
    }

    pub(crate) fn damaged(&self) -> Vec<Range<u64>> {
        self.damaged.lock().unwrap().clone()
    }

    pub(crate) fn hold_all(&self) {
        self.hold(0..u64::MAX, None);
    }

    pub(crate) fn release(&self) {
        self.hold(0..0, None);
    }

    fn unavailable(&self) -> Error {
        Error::Unavailable {
            host: "fake".to_owned(),
            object: self.digest.to_string(),
            reason: "told to fail".to_owned(),
            retry_after: None,
            source: None,
        }
    }
}

/// A blob for whoever needs a trait object of its own.
#[derive(Debug, Clone)]
pub(crate) struct Handle(pub Arc<FakeBlob>);

impl Blob for Handle {
    fn digest(&self) -> &Digest {
        &self.0.digest
    }

    fn size(&self) -> u64 {
        self.0.bytes.len() as u64
    }

    fn read(
        &self,
        range: Range<u64>,
        urgency: Urgency,
    ) -> BoxFuture<'_, pontoon_source::Result<Bytes>> {
        Box::pin(async move {
            let mut stream = self.stream(range, urgency);
            let mut all = Vec::new();
            while let Some(piece) = stream.next().await? {
                all.extend_from_slice(&piece);
            }
            Ok(all.into())
        })
    }

    fn stream(&self, range: Range<u64>, urgency: Urgency) -> Box<dyn ByteStream> {
        assert!(
            range.start < range.end && range.end <= self.size(),
            "a request for {range:?}"
        );
        self.0
            .requests
            .lock()
            .unwrap()
            .push((range.clone(), urgency));
        Box::new(FakeStream {
            blob: self.0.clone(),
            fault: self.0.faults.lock().unwrap().pop_front(),
            range,
            urgency,
        })
    }

    fn report_damage(&self, range: Range<u64>) -> bool {
        self.0.damaged.lock().unwrap().push(range);
        let mut others = self.0.others.lock().unwrap();
        let is_elsewhere = *others > 0;
        *others = others.saturating_sub(1);
        is_elsewhere
    }

    fn last_progress(&self) -> Option<Instant> {
        *self.0.progress.lock().unwrap()
    }

    fn pace(&self) -> Option<Pace> {
        *self.0.pace.lock().unwrap()
    }
}

#[derive(Debug)]
struct FakeStream {
    blob: Arc<FakeBlob>,
    fault: Option<Fault>,
    range: Range<u64>,
    urgency: Urgency,
}

impl ByteStream for FakeStream {
    fn next(&mut self) -> BoxFuture<'_, pontoon_source::Result<Option<Bytes>>> {
        Box::pin(async move {
            if self.range.is_empty() {
                return Ok(None);
            }
            let piece = match self.fault {
                Some(Fault::Drip) => 1,
                _ => PIECE,
            };
            let end = self.range.end.min(self.range.start + piece);
            let piece = self.range.start..end;
            let mut held = self.blob.held.subscribe();
            let urgency = self.urgency;
            held.wait_for(|held| {
                let hit = held.bytes.start < piece.end && piece.start < held.bytes.end;
                !hit || held.urgency.is_some_and(|held| held != urgency)
            })
            .await
            .unwrap();
            let mut bytes = self
                .blob
                .bytes
                .slice(piece.start as usize..piece.end as usize);
            self.range.start = end;
            match self.fault {
                Some(Fault::Unavailable) => return Err(self.blob.unavailable()),
                Some(Fault::NotFound) => {
                    return Err(Error::NotFound {
                        host: "fake".to_owned(),
                        object: self.blob.digest.to_string(),
                    });
                }
                Some(Fault::Short) => {
                    self.fault = None;
                    self.range.start = self.range.end;
                }
                Some(Fault::Drip) => tokio::time::sleep(Duration::from_millis(20)).await,
                Some(Fault::Lie) => bytes = bytes.iter().map(|byte| !byte).collect(),
                None => {}
            }
            Ok(Some(bytes))
        })
    }
}

/// The parts of a blob.
#[derive(Debug)]
pub(crate) struct Parts(pub Vec<Arc<FakeBlob>>);

impl Parts {
    fn joined(&self) -> Joined {
        let blobs = self
            .0
            .iter()
            .map(|part| Arc::new(Handle(part.clone())) as Arc<dyn Blob>);
        Joined::new(Digest::of(b"all of them"), blobs.collect()).unwrap()
    }
}

impl Connect for Parts {
    fn connect(&self) -> BoxFuture<'_, pontoon_source::Result<Arc<dyn Blob>>> {
        Box::pin(async move { Ok(Arc::new(self.joined()) as Arc<dyn Blob>) })
    }

    fn ends(&self) -> Vec<u64> {
        self.joined().ends()
    }
}

/// A layer that nobody may connect.
#[derive(Debug)]
pub(crate) struct Unreachable;

impl Connect for Unreachable {
    fn connect(&self) -> BoxFuture<'_, pontoon_source::Result<Arc<dyn Blob>>> {
        panic!("nothing is missing, so there is nothing to connect for")
    }
}

/// Everything that a lazy layer needs, in a directory of its own.
pub(crate) struct Rig {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) blob: Arc<FakeBlob>,
    /// If it is in several blobs, these are asked and not `blob`.
    pub(crate) parts: Vec<Arc<FakeBlob>>,
    pub(crate) layer: Arc<LazyLayer>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) runtime: Runtime,
    image: Vec<u8>,
    table: ChunkTable,
    directory: tempfile::TempDir,
}

pub(crate) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().unwrap()
}

pub(crate) fn open_cache(directory: &Path) -> Arc<Cache> {
    open_cache_of(directory, 0)
}

/// A cache that may take so many bytes.
pub(crate) fn open_cache_of(directory: &Path, max_bytes: u64) -> Arc<Cache> {
    let config = pontoon_cache::Config {
        max_bytes,
        free_bytes_min: 0,
    };
    Arc::new(Cache::open(&directory.join("cache"), config).unwrap())
}

/// The layer `made` in `cache`.
pub(crate) fn cached(cache: &Cache, made: &Made) -> Arc<CachedLayer> {
    let key = Key::new(made.blob.digest.clone(), Digest::of(b"toc"));
    let meta = Meta {
        blob_bytes: made.blob.bytes.len() as u64,
        ..Meta::default()
    };
    cache.create(&key, &made.table, meta).unwrap()
}

pub(crate) fn map(directory: &Path, image: &[u8]) -> Map {
    let path = directory.join("tree");
    std::fs::write(&path, image).unwrap();
    Map::open(&path).unwrap()
}

pub(crate) fn open(
    engine: &Arc<Engine>,
    cache: &Cache,
    directory: &Path,
    made: &Made,
) -> Arc<LazyLayer> {
    let connect: Arc<dyn Connect> = match &*made.parts {
        [_] => Arc::new(Connected(Arc::new(Handle(made.blob.clone())))),
        parts => Arc::new(Parts(parts.to_vec())),
    };
    let tree = map(directory, &made.image);
    LazyLayer::open(engine, tree, &cached(cache, made), connect).unwrap()
}

/// Patient enough for a busy machine, and fetches only what is missing, so that tests can tell what was fetched why.
pub(crate) fn exact() -> Config {
    Config {
        along_bytes: 0,
        gap_bytes_max: 0,
        ..Config::default()
    }
}

impl Rig {
    pub(crate) fn new(config: Config, maker: Maker) -> Self {
        Rig::in_directory(tempfile::tempdir().unwrap(), config, maker)
    }

    pub(crate) fn in_directory(directory: tempfile::TempDir, config: Config, maker: Maker) -> Self {
        let cache = open_cache(directory.path());
        Rig::in_cache(directory, cache, config, maker)
    }

    pub(crate) fn of(directory: tempfile::TempDir, config: Config, made: Made) -> Self {
        let cache = open_cache(directory.path());
        Rig::with(directory, cache, config, made)
    }

    pub(crate) fn in_cache(
        directory: tempfile::TempDir,
        cache: Arc<Cache>,
        config: Config,
        maker: Maker,
    ) -> Self {
        Rig::with(directory, cache, config, maker.make())
    }

    fn with(directory: tempfile::TempDir, cache: Arc<Cache>, config: Config, made: Made) -> Self {
        let runtime = runtime();
        let engine = Engine::new(config, cache.clone(), runtime.handle().clone());
        let layer = open(&engine, &cache, directory.path(), &made);
        Rig {
            files: made.files,
            blob: made.blob,
            parts: made.parts,
            image: made.image,
            table: made.table,
            layer,
            engine,
            cache,
            runtime,
            directory,
        }
    }

    /// Everything anew, as after a restart, with nobody to ask for bytes.
    pub(crate) fn restart(self) -> Self {
        let config = Config::default();
        let digest = self.layer.digest().clone();
        drop((self.layer, self.engine));
        drop(self.runtime);
        drop(self.cache);
        let runtime = runtime();
        let cache = open_cache(self.directory.path());
        let engine = Engine::new(config, cache.clone(), runtime.handle().clone());
        let cached = cache
            .layer(&Key::new(digest, Digest::of(b"toc")))
            .unwrap()
            .unwrap();
        let tree = map(self.directory.path(), &self.image);
        let layer = LazyLayer::open(&engine, tree, &cached, Arc::new(Unreachable)).unwrap();
        Rig {
            layer,
            engine,
            cache,
            runtime,
            ..self
        }
    }

    /// What it leaves on the disk.
    pub(crate) fn into_directory(self) -> tempfile::TempDir {
        self.directory
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn nid(&self, path: &str) -> Nid {
        find(&self.layer, path)
    }

    /// Starts a read.
    pub(crate) fn start(&self, path: &str, offset: u64, length: usize) -> Read {
        let mut buffer = vec![0; length];
        self.layer
            .read(self.nid(path), offset, &mut buffer)
            .unwrap()
    }

    pub(crate) fn read(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.runtime
            .block_on(read(&self.layer, self.nid(path), offset, length))
    }

    /// Reads a whole file and compares.
    pub(crate) fn check(&self, path: &str) {
        let expected = &self.files[path];
        let actual = self.read(path, 0, expected.len() + 1).unwrap();
        assert!(actual == *expected, "{path} has other bytes");
    }

    /// The same once a registry works again: a trial in half a second finds that out, and reads may fail until then.
    pub(crate) fn check_soon(&self, path: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = self.read(path, 0, 1) {
            assert!(Instant::now() < deadline, "{path} cannot be read: {error}");
        }
        self.check(path);
    }
}

pub(crate) fn find(layer: &LazyLayer, path: &str) -> Nid {
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.fold(layer.tree().root(), |nid, name| {
        layer.tree().lookup(nid, name.as_bytes()).unwrap().unwrap()
    })
}

pub(crate) async fn read(
    layer: &Arc<LazyLayer>,
    nid: Nid,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    match layer.read(nid, offset, &mut buffer)? {
        Read::Ready(bytes) => {
            buffer.truncate(bytes);
            Ok(buffer)
        }
        Read::Pending(pending) => Ok(pending.await?.to_vec()),
    }
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
