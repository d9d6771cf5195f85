//! The conformance cases on the engine in this process.

use std::sync::Arc;

use pontoon_overlay::{Engine, NoLayers, Options};
use pontoon_suite::{Harness, Oracle};

fn engine() -> Harness {
    let root = tempfile::tempdir().expect("a temporary directory can be made");
    let engine = Engine::open(root.path(), Options::default(), Arc::new(NoLayers));
    let engine = engine.expect("a new root can be opened");
    Harness {
        keyspaces: Arc::clone(&engine) as _,
        root: root.path().to_owned(),
        oracle: Oracle::No,
        keep: Box::new((engine, root)),
    }
}

pontoon_suite::conformance!(crate::engine);
