//! What becomes of a new directory, by what came of its record.

use pontoon_metastore::NewSnapshot;
use pontoon_snapshot::Labels;

use super::*;
use crate::NoLayers;

fn uncertain<T>() -> Result<T> {
    Err(Error::Uncertain {
        operation: "testing".to_owned(),
        source: "the disk is gone".into(),
    })
}

#[test]
fn a_directory_is_deleted_only_where_it_is_certain_that_it_has_no_record() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(directory.path(), Options::default(), Arc::new(NoLayers)).unwrap();
    let core = &*engine.core;
    let make = || core.new_directory(Kind::Active, Owner::ROOT).unwrap();
    let is_there = |id| core.root.list().unwrap().contains(&format!("{id}"));

    let failed = make();
    let id = failed.id;
    let error = Error::io("testing", std::io::ErrorKind::Other.into());
    failed.recorded::<()>(Err(error)).unwrap_err();
    assert!(!is_there(id), "it failed");

    let (done, not_done) = (make(), make());
    let (id, no_record) = (done.id, not_done.id);
    let new = NewSnapshot {
        id,
        key: Key::new("k").unwrap(),
        kind: Kind::Active,
        parent: None,
        labels: Labels::default(),
    };
    let name = SnapshotterName::new("n").unwrap();
    core.store.create(&name, new).unwrap();
    done.recorded(uncertain::<()>()).unwrap_err();
    not_done.recorded(uncertain::<()>()).unwrap_err();
    assert!(is_there(id) && is_there(no_record), "nobody knows");
    core.reaper.sweep(core).unwrap();
    assert!(is_there(id), "its record was there");
    assert!(!is_there(no_record), "there is no record");
}
