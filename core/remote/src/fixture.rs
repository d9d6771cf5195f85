//! Layers for tests of parts of this crate.

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use pontoon_cache::Cache;
use pontoon_layer::{Digest, Layer, Limits, OpaqueXattr, TocDigest, TocKind, parse_toc};
use pontoon_lazyfs::Engine;
use pontoon_source::{Anonymous, Registry};
use tokio::runtime::Runtime;

use crate::erofs::Erofs;
use crate::profiles::Profiles;
use crate::stock::Stock;
use crate::{Config, FrontEnd};

/// A layer of empty files and, where a path ends with a slash, directories.
pub(crate) fn layer(paths: &[&str]) -> Layer {
    let entries = paths.iter().map(|path| match path.ends_with('/') {
        true => serde_json::json!({"name": path, "type": "dir", "mode": 0o755}),
        false => serde_json::json!({"name": path, "type": "reg", "mode": 0o644}),
    });
    layer_of(&entries.collect::<Vec<_>>())
}

/// A layer with these entries in its table of contents.
pub(crate) fn layer_of(entries: &[serde_json::Value]) -> Layer {
    let toc = serde_json::json!({"version": 1, "entries": entries}).to_string();
    let toc = toc.as_bytes();
    let mut header = tar::Header::new_gnu();
    header.set_size(toc.len() as u64);
    header.set_mode(0o444);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, "stargz.index.json", toc)
        .unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&archive.into_inner().unwrap()).unwrap();
    let bytes = gzip.finish().unwrap();
    let digest = TocDigest::Json(Digest::of(toc));
    let (opaque, limits) = (OpaqueXattr::Trusted, Limits::default());
    parse_toc(TocKind::TarGzip, &bytes, 0, &digest, opaque, &limits).unwrap()
}

/// A stock with nothing in it, and what it lives in.
pub(crate) struct Stocked {
    pub(crate) stock: Arc<Stock>,
    engine: Arc<Engine>,
    runtime: Runtime,
    directory: tempfile::TempDir,
}

impl Stocked {
    /// Profiles of its layers.
    pub(crate) fn profiles(&self) -> Arc<Profiles> {
        let (engine, handle) = (Arc::clone(&self.engine), self.runtime.handle().clone());
        let profiles = Profiles::open(self.directory.path().join("profiles"), engine, handle);
        Arc::new(profiles.unwrap())
    }
}

pub(crate) fn stock() -> Stocked {
    let directory = tempfile::tempdir().unwrap();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let inside = runtime.enter();
    let config = pontoon_cache::Config {
        max_bytes: 0,
        free_bytes_min: 0,
    };
    let cache = Arc::new(Cache::open(&directory.path().join("blobs"), config).unwrap());
    let engine = Engine::new(Default::default(), Arc::clone(&cache), handle.clone());
    let registry = Registry::new(Default::default(), Arc::new(Anonymous));
    let chosen = FrontEnd::Fuse.choose(directory.path(), directory.path());
    let erofs = Erofs::new(
        directory.path().join("mnt"),
        &Config::default().lazy,
        chosen.unwrap(),
    );
    let erofs = Arc::new(erofs);
    let of = Arc::clone(&engine);
    let stock = Stock::open(directory.path(), cache, of, registry, erofs, None, handle).unwrap();
    drop(inside);
    Stocked {
        stock,
        engine,
        runtime,
        directory,
    }
}

/// Waits until it is so.
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "it does not come to be");
        thread::sleep(Duration::from_millis(5));
    }
}
