//! The files of a cached layer from a disk. The first byte says which of them the rest is, the second whether their
//! digests are made right, without which nothing would get past them.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pontoon_cache::{Cache, Config, Key, Meta, Read};
use pontoon_layer::{Algorithm, Chunk, ChunkTable, Compression, Digest, Verified};

/// In memory.
const DIRECTORY: &str = "/dev/shm/pontoon-fuzz-cache";

const CHUNK: u32 = 4096;

/// A layer as it is written, and where.
struct Sound {
    layer: PathBuf,
    table: Vec<u8>,
    files: Vec<(&'static str, Vec<u8>)>,
}

static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let _ = fs::remove_dir_all(DIRECTORY);
    let cache = open();
    let content = |index: u64| vec![index as u8 | 1; CHUNK as usize];
    let chunks = (0..20).map(|index| Chunk {
        data_offset: index * u64::from(CHUNK),
        length: CHUNK,
        blob_length: 100,
        blob_offset: index * 100,
        inner_offset: 0,
        compression: Compression::Gzip,
        algorithm: Algorithm::Sha256,
        digest: *Digest::of(&content(index)).as_sha256().expect("it is one"),
    });
    let size = 20 * u64::from(CHUNK);
    let table = ChunkTable::new(Compression::Gzip, size, chunks.collect()).expect("it is one");
    let layer = cache
        .create(&key(), &table, Meta::default())
        .expect("there is memory");
    for index in [0, 3, 19] {
        let digest = table.chunks()[index].digest();
        let bytes = Verified::check(content(index as u64), &digest).expect("it is right");
        layer.put(index, bytes);
    }
    cache.flush().expect("there is memory");
    drop((layer, cache));
    let directory = Path::new(DIRECTORY).join("sha256");
    let layer = fs::read_dir(directory).expect("it is there").next();
    let layer = layer
        .expect("there is a layer")
        .expect("it can be read")
        .path();
    let files = ["chunks", "meta", "ready", "data"].map(|name| {
        let bytes = fs::read(layer.join(name)).expect("it is there");
        (name, bytes)
    });
    Sound {
        layer,
        table: files[0].1.clone(),
        files: files.to_vec(),
    }
});

fn open() -> Cache {
    Cache::open(Path::new(DIRECTORY), Config::default()).expect("the cache can be opened")
}

fn key() -> Key {
    Key::new(Digest::of(b"blob"), Digest::of(b"table of contents"))
}

fuzz_target!(|bytes: &[u8]| {
    let sound = &*SOUND;
    let Some(([file, seal], rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let mut files = sound.files.clone();
    let (name, bytes) = &mut files[usize::from(*file) % 3];
    *bytes = match (*name, seal % 2) {
        ("meta", 1) => sealed_meta(rest),
        ("ready", 1) => sealed_ready(rest, &sound.table),
        ("chunks", 1) => sealed_table(rest),
        _ => rest.to_vec(),
    };
    if *name == "chunks" && seal % 2 == 1 {
        let table = Digest::of(bytes);
        // As if the writer had meant it.
        let chunks = bytes.len().saturating_sub(64) / 64;
        let size = bytes.get(24..32).map_or(0, |size| {
            u64::from_le_bytes(size.try_into().unwrap_or_default())
        });
        let meta = String::from_utf8_lossy(&files[1].1).into_owned();
        files[1].1 = sealed_meta(described(&meta, &table, chunks, size).as_bytes());
    }
    fs::create_dir_all(&sound.layer).expect("there is memory");
    for (name, bytes) in &files {
        fs::write(sound.layer.join(name), bytes).expect("there is memory");
    }
    let cache = open();
    if let Ok(Some(layer)) = cache.layer(&key()) {
        let table = layer.chunks();
        let mut ready = 0;
        for index in 0..table.len().min(100) {
            ready += usize::from(layer.is_ready(index));
            let Some(chunk) = table.get(index) else {
                continue;
            };
            let mut buffer = vec![0; chunk.length.min(1 << 16) as usize];
            match layer.read_at(chunk.data_offset, &mut buffer) {
                Ok(Read::Missing(missing)) => assert!(!layer.is_ready(missing)),
                Ok(Read::Done) | Err(_) => {}
            }
        }
        assert!(ready <= layer.ready_chunks());
        let _ = layer.read_at(u64::MAX - 10, &mut [0; 20]).is_ok();
        let _ = (
            layer.first_missing(0..u64::MAX),
            layer.missing(0..usize::MAX).count(),
        );
    }
});

/// Lines whose last one is their digest, whatever the last one was.
fn sealed_meta(lines: &[u8]) -> Vec<u8> {
    let end = lines.windows(6).rposition(|part| part == b"check ");
    let mut lines = lines[..end.unwrap_or(lines.len())].to_vec();
    let check = format!("check {}\n", Digest::of(&lines));
    lines.extend_from_slice(check.as_bytes());
    lines
}

/// Blocks of bits, each with its check.
fn sealed_ready(bits: &[u8], table: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    for (number, bits) in bits.chunks(496).enumerate() {
        let mut block = bits.to_vec();
        block.resize(496, 0);
        let number = (number as u64).to_le_bytes();
        let check = Digest::of(&[Digest::of(table).bytes(), &number, &block].concat());
        block.extend_from_slice(&check.bytes()[..16]);
        sealed.extend_from_slice(&block);
    }
    sealed
}

fn sealed_table(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 36 {
        sealed[32..36].fill(0);
        let checksum = pontoon_fuzz::crc32(&sealed);
        sealed[32..36].copy_from_slice(&checksum.to_le_bytes());
    }
    sealed
}

/// A meta file with another table in it.
fn described(meta: &str, table: &Digest, chunks: usize, size: u64) -> String {
    let lines = meta.lines().map(|line| match line.split_once(' ') {
        Some(("table", _)) => format!("table {table}\n"),
        Some(("chunks", _)) => format!("chunks {chunks}\n"),
        Some(("data-size", _)) => format!("data-size {size}\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}
