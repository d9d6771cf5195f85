//! The JSON of a table of contents in a zstd stream, as containers/storage verifies it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::{compressed, limits, toc, zstd};
use pontoon_layer::TocKind;

fuzz_target!(|json: &[u8]| {
    let packed = zstd(json);
    toc(TocKind::Zstd, &packed, &compressed(&packed), &limits());
});
