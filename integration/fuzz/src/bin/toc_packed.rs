//! A table of contents as it is in a blob. The first byte says which kind it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::{compressed, limits, toc};
use pontoon_layer::TocKind;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, packed)) = bytes.split_first() else {
        return;
    };
    let kind = match kind % 2 {
        0 => TocKind::TarGzip,
        _ => TocKind::Zstd,
    };
    toc(kind, packed, &compressed(packed), &limits());
});
