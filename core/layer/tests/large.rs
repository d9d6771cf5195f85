//! What a layer with very many files costs. In a process of its own, because it looks at the memory of the process.

#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

use std::io::Write;

use pontoon_layer::{Digest, Hasher, Limits, OpaqueXattr, TocDigest, TocKind, parse_toc};

/// Bytes that may be taken for an entry: what is kept, which is about half of it, and what growing lists leave behind.
const BYTES_PER_ENTRY: u64 = 600;

/// Writes a table of contents of `count` files, as stargz-snapshotter's tools do, without having it in memory.
fn table(count: u64) -> (Vec<u8>, Digest) {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let entry = |number: u64| {
        format!(
            "\t\t{{\n\t\t\t\"name\": \"usr/share/directory-{:04}/a-file-{number:07}\",\n\t\t\t\"type\": \"reg\",\n\
             \t\t\t\"size\": 3000,\n\t\t\t\"modtime\": \"2026-11-24T00:00:00Z\",\n\t\t\t\"mode\": 33188,\n\
             \t\t\t\"offset\": {},\n\t\t\t\"NumLink\": 0,\n\t\t\t\"digest\": \"sha256:{number:064x}\",\n\
             \t\t\t\"chunkDigest\": \"sha256:{number:064x}\"\n\t\t}}",
            number / 250,
            1000 + number * 900,
        )
    };
    let size: usize = (0..count).map(|number| entry(number).len() + 2).sum();
    let (head, tail) = ("{\n\t\"version\": 1,\n\t\"entries\": [\n", "\t]\n}");
    let size = size - 1 + head.len() + tail.len();
    gzip.write_all(&header(size)).unwrap();
    let mut hasher = Hasher::new(pontoon_layer::Algorithm::Sha256);
    let mut write = |text: &str| {
        hasher.update(text.as_bytes());
        gzip.write_all(text.as_bytes()).unwrap();
    };
    write(head);
    for number in 0..count {
        write(&entry(number));
        write(if number + 1 < count { ",\n" } else { "\n" });
    }
    write(tail);
    (gzip.finish().unwrap(), hasher.finish())
}

fn header(size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    header[..17].copy_from_slice(b"stargz.index.json");
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A line of this process' status, in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status
        .lines()
        .find_map(|text| text.strip_prefix(line))
        .unwrap();
    let kibibytes: u64 = value.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes * 1024
}

/// A million files with `PONTOON_FULL=1`, else a tenth of it.
#[test]
fn memory_stays_within_a_budget() {
    let full = std::env::var_os("PONTOON_FULL").is_some_and(|full| full == "1");
    let count = if full { 1_000_000 } else { 100_000 };
    let (toc, digest) = table(count);
    let before = memory("VmRSS:");
    // Starts to count the most that is in memory anew (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let layer = parse_toc(
        TocKind::TarGzip,
        &toc,
        2000 + count * 900,
        &TocDigest::Json(digest),
        OpaqueXattr::Trusted,
        &Limits::default(),
    )
    .unwrap();
    let most = memory("VmHWM:").saturating_sub(before);
    let kept = memory("VmRSS:").saturating_sub(before);
    println!(
        "{count} entries: {} bytes each, {} at most",
        kept / count,
        most / count
    );
    assert_eq!(layer.chunks.len() as u64, count);
    assert!(
        most < count * BYTES_PER_ENTRY,
        "{most} bytes for {count} entries"
    );
}
