//! The JSON of a table of contents in a zstd stream, as stargz-snapshotter verifies it, parsed as it is inflated.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::{limits, toc, zstd};
use pontoon_layer::{Digest, Limits, TocDigest, TocKind};

fuzz_target!(|json: &[u8]| {
    let digest = TocDigest::Json(Digest::of(json));
    let limits = Limits {
        toc_held_bytes_max: 0,
        string_bytes_max: 1000,
        ..limits()
    };
    toc(TocKind::Zstd, &zstd(json), &digest, &limits);
});
