//! The JSON of a table of contents in a gzipped tar.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::{limits, tar_gzip, toc};
use pontoon_layer::{Digest, TocDigest, TocKind};

fuzz_target!(|json: &[u8]| {
    let digest = TocDigest::Json(Digest::of(json));
    toc(TocKind::TarGzip, &tar_gzip(json), &digest, &limits());
});
