//! What another layer has is not fetched.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use pontoon_cache::{Cache, CachedLayer};
use pontoon_layer::{Algorithm, Compression};
use pontoon_lazyfs::{Config, Engine, Kin, LazyLayer, Prefetch, Read};
use tokio::runtime::Runtime;

use crate::blobs::zstd;
use crate::fixture::{
    FakeBlob, Maker, Rig, cached, exact, find, noise, open, open_cache, read, runtime, wait_until,
};

/// The other layers that are told of.
#[derive(Debug, Default)]
struct Family {
    layers: Mutex<Vec<Arc<CachedLayer>>>,
    asked: AtomicUsize,
}

impl Family {
    fn of(layers: &[&Arc<CachedLayer>]) -> Arc<Family> {
        Arc::new(Family {
            layers: Mutex::new(layers.iter().map(|layer| Arc::clone(layer)).collect()),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Kin for Family {
    fn layers(&self) -> Vec<Arc<CachedLayer>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.layers.lock().unwrap().clone()
    }
}

const FILES: u64 = 30;

/// The files of version 2 that version 1 does not have, or not so.
const NEW: [u64; 4] = [3, 4, 17, 30];

fn content(version: u64, number: u64) -> Vec<u8> {
    let version = if NEW.contains(&number) { version } else { 1 };
    noise(1000 * version + number, 3000 + 2500 * number as usize)
}

/// An eStargz layer.
fn version_1() -> Maker {
    let mut maker = Maker::new();
    for number in 0..FILES {
        maker.file(&format!("{number}"), 0o644, &content(1, number), 20_000);
    }
    maker
}

/// Its next version, in another order and compressed in another way. Which bytes of the blob are those of new chunks.
fn version_2() -> (Maker, Vec<Range<u64>>) {
    let mut maker = Maker::new();
    (maker.compression, maker.pack) = (Compression::Zstd, zstd);
    let mut new = Vec::new();
    for number in (0..=FILES).rev() {
        let start = maker.blob_bytes();
        maker.file(&format!("{number}"), 0o644, &content(2, number), 20_000);
        if NEW.contains(&number) {
            new.push(start..maker.blob_bytes());
        }
    }
    (maker, new)
}

/// Version 1, all of it here, and version 2, nothing of it. Version 1 is not mounted.
struct Pair {
    rig: Rig,
    second: Arc<LazyLayer>,
    blob: Arc<FakeBlob>,
    first: Arc<CachedLayer>,
    new: Vec<Range<u64>>,
    _directory: tempfile::TempDir,
}

impl Pair {
    fn new(config: Config) -> Pair {
        let rig = Rig::new(config, version_1());
        for number in 0..FILES {
            rig.check(&format!("{number}"));
        }
        let (second, new) = version_2();
        let made = second.make();
        let directory = tempfile::tempdir().unwrap();
        let second = open(&rig.engine, &rig.cache, directory.path(), &made);
        let first = Arc::clone(rig.layer.cached());
        Pair {
            rig,
            second,
            blob: made.blob,
            first,
            new,
            _directory: directory,
        }
    }

    fn related(config: Config) -> Pair {
        let pair = Pair::new(config);
        relate(&pair.second, &pair.first);
        pair
    }

    fn read(&self, number: u64) -> Vec<u8> {
        let nid = find(&self.second, &format!("{number}"));
        let read = read(&self.second, nid, 0, 1 << 20);
        self.rig.runtime.block_on(read).unwrap()
    }

    fn check(&self, number: u64) {
        assert!(self.read(number) == content(2, number), "{number}");
    }

    fn check_all(&self) {
        (0..=FILES).for_each(|number| self.check(number));
    }

    fn asked_bytes(&self) -> u64 {
        let requests = self.blob.requests();
        requests
            .iter()
            .map(|(range, _)| range.end - range.start)
            .sum()
    }

    fn new_bytes(&self) -> u64 {
        self.new.iter().map(|range| range.end - range.start).sum()
    }

    /// The bytes of the blob that were asked for.
    fn asked(&self) -> BTreeSet<u64> {
        let requests = self.blob.requests();
        requests.into_iter().flat_map(|(range, _)| range).collect()
    }

    fn new_places(&self) -> BTreeSet<u64> {
        self.new.iter().cloned().flatten().collect()
    }
}

/// Waits until it is known: who waits for bytes does not wait long for that, which would be too short on a busy machine.
fn relate(layer: &Arc<LazyLayer>, other: &Arc<CachedLayer>) {
    layer.set_kin(Family::of(&[other]));
    wait_until("the other one is known", || other.is_prepared_to_find());
}

fn data_file(rig: &Rig, layer: &CachedLayer) -> std::path::PathBuf {
    let name = layer.key().blob.hex();
    let layers = rig.directory().join("cache/sha256");
    let mut layers = std::fs::read_dir(layers)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let place = layers.find(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(&name)
    });
    place.unwrap().join("data")
}

fn damage(path: &Path, at: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Where the file `number` begins in the data of version 1.
fn first_chunk(pair: &Pair, number: u64) -> u64 {
    let nid = pair.rig.nid(&format!("{number}"));
    pair.rig.layer.tree().inode(nid).unwrap().data_offset
}

#[test]
fn the_next_version_fetches_exactly_what_is_new() {
    let pair = Pair::related(exact());
    pair.check_all();
    assert_eq!(pair.asked(), pair.new_places());
    assert_eq!(pair.asked_bytes(), pair.new_bytes(), "something came twice");
    let status = pair.second.status();
    assert_eq!((status.percent, status.counted.failed_reads), (100.0, 0));
    let old: u64 = (0..FILES)
        .filter(|number| !NEW.contains(number))
        .map(|number| content(1, number).len() as u64)
        .sum();
    assert_eq!(status.counted.taken_bytes, old);
    assert!(status.counted.taken_chunks >= FILES - NEW.len() as u64);
    // It is its own, whatever becomes of the other one.
    pair.rig.cache.flush().unwrap();
    assert!(pair.second.cached().is_complete());
}

#[test]
fn what_is_fetched_ahead_is_what_is_new() {
    let pair = Pair::related(Config::default());
    pair.second.prefetch(Prefetch::Everything);
    wait_until("all of it is here", || pair.second.cached().is_complete());
    assert!(pair.asked().is_superset(&pair.new_places()));
    let (asked, new) = (pair.asked_bytes(), pair.new_bytes());
    assert!(asked * 10 <= new * 11, "{asked} bytes for {new}");
    pair.check_all();
}

#[test]
fn who_reads_what_follows_has_it_fetched_along_only_if_nobody_has_it() {
    let config = Config {
        along_bytes: 1 << 20,
        ..Config::default()
    };
    let pair = Pair::related(config);
    pair.check_all();
    let (asked, new) = (pair.asked_bytes(), pair.new_bytes());
    assert!(asked * 10 <= new * 11, "{asked} bytes for {new}");
}

#[test]
fn any_number_of_readers_take_it_once() {
    let pair = Pair::related(exact());
    let nid = find(&pair.second, "20");
    let mut waiting = Vec::new();
    for reader in 0..50 {
        let mut buffer = vec![0; 1000];
        if let Read::Pending(pending) = pair.second.read(nid, reader * 900, &mut buffer).unwrap() {
            waiting.push((reader as usize * 900, pending));
        }
    }
    for (start, pending) in waiting {
        let bytes = pair.rig.runtime.block_on(pending).unwrap();
        assert!(bytes == content(2, 20)[start..start + 1000]);
    }
    assert_eq!(pair.blob.count(), 0);
    assert_eq!(pair.second.status().counted.taken_chunks, 3);
}

#[test]
fn who_is_no_kin_gives_nothing_and_no_index_is_made() {
    // Nobody is named, or only itself, a layer with other digests, one of which little is here.
    let other = |pair: &Pair, maker: Maker| cached(&pair.rig.cache, &maker.make());
    let mut blake3 = version_1();
    blake3.algorithm = Algorithm::Blake3;
    blake3.gap(1);
    let mut empty = version_1();
    empty.gap(2);
    let pair = Pair::new(exact());
    let (blake3, empty) = (other(&pair, blake3), other(&pair, empty));
    let family = Family::of(&[pair.second.cached(), &blake3, &empty]);
    pair.second.set_kin(family.clone());
    pair.check_all();
    assert!(family.asked.load(Ordering::SeqCst) > 0);
    assert_eq!(pair.second.status().counted.taken_chunks, 0);
    for layer in [&pair.first, pair.second.cached(), &blake3, &empty] {
        assert!(!layer.is_prepared_to_find());
    }
    let alone = Pair::new(exact());
    alone.check_all();
    assert_eq!(alone.asked(), pair.asked());
    assert!(!alone.second.cached().is_prepared_to_find());
}

#[test]
fn what_is_damaged_elsewhere_is_fetched() {
    let pair = Pair::related(exact());
    damage(
        &data_file(&pair.rig, &pair.first),
        first_chunk(&pair, 20) + 25_000,
    );
    pair.check_all();
    // The second chunk of three.
    let fetched = pair.asked_bytes() - pair.new_bytes();
    assert!((20_000..25_000).contains(&fetched), "{fetched}");
    let stats = pair.rig.cache.stats();
    assert_eq!((stats.damaged_chunks, stats.distrusted_chunks), (1, 1));
    assert_eq!(pair.second.status().counted.wrong_members, 0);
}

/// Version 2, nothing of it here, in whatever cache version 1 is.
struct Second {
    layer: Arc<LazyLayer>,
    blob: Arc<FakeBlob>,
    new_bytes: u64,
    runtime: Runtime,
    _directory: tempfile::TempDir,
}

impl Second {
    fn new(cache: &Arc<Cache>, first: &Arc<CachedLayer>) -> Second {
        let runtime = runtime();
        let engine = Engine::new(exact(), Arc::clone(cache), runtime.handle().clone());
        let (maker, new) = version_2();
        let made = maker.make();
        let directory = tempfile::tempdir().unwrap();
        let layer = open(&engine, cache, directory.path(), &made);
        relate(&layer, first);
        Second {
            layer,
            blob: made.blob,
            new_bytes: new.iter().map(|range| range.end - range.start).sum(),
            runtime,
            _directory: directory,
        }
    }

    fn check(&self, number: u64) {
        let nid = find(&self.layer, &format!("{number}"));
        let read = read(&self.layer, nid, 0, 1 << 20);
        let bytes = self.runtime.block_on(read).unwrap();
        assert!(bytes == content(2, number), "{number}");
    }
}

#[test]
fn what_a_power_cut_puts_in_doubt_is_checked_before_it_is_taken() {
    let rig = Rig::new(exact(), version_1());
    for number in 0..FILES {
        rig.check(&format!("{number}"));
    }
    let data = data_file(&rig, rig.layer.cached());
    let at = rig.layer.tree().inode(rig.nid("20")).unwrap().data_offset;
    let key = rig.layer.cached().key().clone();
    rig.cache.close();
    let directory = rig.into_directory();
    damage(&data, at);
    // As if it had not been closed.
    std::fs::remove_file(directory.path().join("cache/trust")).unwrap();
    let cache = open_cache(directory.path());
    let first = cache.layer(&key).unwrap().unwrap();
    let second = Second::new(&cache, &first);
    (0..=FILES).for_each(|number| second.check(number));
    assert_eq!(cache.stats().damaged_chunks, 1);
    let requests = second.blob.requests();
    let asked: u64 = requests
        .iter()
        .map(|(range, _)| range.end - range.start)
        .sum();
    let more = asked - second.new_bytes;
    assert!((20_000..25_000).contains(&more), "{more}");
}

#[test]
fn what_is_evicted_or_removed_meanwhile_is_fetched() {
    for is_evicted in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let config = pontoon_cache::Config {
            // Version 1 alone is more, and stays as long as it is pinned.
            max_bytes: if is_evicted { 1 << 20 } else { 0 },
            free_bytes_min: 0,
        };
        let cache = Cache::open(&directory.path().join("cache"), config).unwrap();
        let cache = Arc::new(cache);
        let made = version_1().make();
        let runtime = runtime();
        let engine = Engine::new(exact(), Arc::clone(&cache), runtime.handle().clone());
        let layer = open(&engine, &cache, directory.path(), &made);
        for number in 0..FILES {
            let nid = find(&layer, &format!("{number}"));
            runtime.block_on(read(&layer, nid, 0, 1 << 20)).unwrap();
        }
        let first = Arc::clone(layer.cached());
        let second = Second::new(&cache, &first);
        second.check(20);
        let taken = second.layer.status().counted.taken_chunks;
        assert_eq!(taken, 3);
        drop(layer);
        match is_evicted {
            true => wait_until("it is evicted", || first.ready_chunks() == 0),
            false => assert!(cache.remove(first.key()).unwrap()),
        }
        (0..=FILES).for_each(|number| second.check(number));
        assert_eq!(second.layer.status().counted.taken_chunks, taken);
    }
}

#[test]
fn on_a_disk_that_takes_nothing_it_is_answered_from_memory() {
    let pair = Pair::related(exact());
    pair.check(0);
    pair.rig.cache.close();
    for number in [1, 2, 20] {
        pair.check(number);
    }
    assert_eq!(pair.blob.count(), 0);
    assert!(pair.second.status().counted.unstored_chunks > 0);
}

/// Somebody who takes as long as he likes.
#[derive(Debug)]
struct Slow(Mutex<Receiver<()>>, Arc<CachedLayer>);

impl Kin for Slow {
    fn layers(&self) -> Vec<Arc<CachedLayer>> {
        let _ = self.0.lock().unwrap().recv();
        vec![Arc::clone(&self.1)]
    }
}

#[test]
fn nobody_waits_for_kin_that_cannot_be_told() {
    let pair = Pair::new(exact());
    let (go, wait) = channel::<()>();
    pair.second
        .set_kin(Arc::new(Slow(Mutex::new(wait), Arc::clone(&pair.first))));
    pair.check(20);
    assert!(pair.blob.count() > 0);
    assert_eq!(pair.second.status().counted.taken_chunks, 0);
    drop(go);
    wait_until("it is known", || {
        pair.first.is_prepared_to_find() && pair.second.cached().is_prepared_to_find()
    });
    pair.check(21);
    wait_until("it is taken", || {
        pair.second.status().counted.taken_chunks > 0
    });
}

#[test]
fn a_layer_has_what_it_has_elsewhere() {
    for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
        let mut maker = Maker::new();
        (maker.algorithm, maker.compression, maker.pack) = (algorithm, Compression::Zstd, zstd);
        maker.file("one", 0o644, &noise(1, 50_000), 20_000);
        maker.file("other", 0o644, &noise(2, 30_000), 20_000);
        maker.again("two", "one");
        // The same chunks, not of the same bytes of the blob: of another layer of the image.
        maker.end_blob();
        maker.file("three", 0o644, &noise(1, 50_000), 20_000);
        let rig = Rig::new(exact(), maker);
        rig.check("one");
        let requests = rig.parts[0].count();
        rig.check("two");
        rig.check("three");
        assert_eq!((rig.parts[0].count(), rig.parts[1].count()), (requests, 0));
        let counted = rig.layer.status().counted;
        assert_eq!((counted.taken_chunks, counted.taken_bytes), (6, 100_000));
    }
}
