//! What becomes of a new directory, by what came of its record.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon_linux::IdMap;
use pontoon_metastore::NewSnapshot;
use pontoon_snapshot::{LABEL_SNAPSHOT_REF, Labels};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::*;
use crate::{Chain, LayerRequest, NoLayers, Offer};

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

/// The disk of the metadata, which fails when a layer was offered.
#[derive(Debug, Clone)]
struct Disk {
    memory: Arc<InMemoryBackend>,
    /// Fails each write, else only each sync.
    writes_fail: bool,
    failing: Arc<AtomicBool>,
}

impl Disk {
    fn call(&self, fails: bool) -> io::Result<()> {
        match fails && self.failing.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::Other.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(self.writes_fail)?;
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(true)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(self.writes_fail)?;
        self.memory.write(offset, data)
    }
}

/// Offers a layer and makes the disk fail.
#[derive(Debug)]
struct Offering {
    disk: Disk,
    released: Mutex<Vec<SnapshotId>>,
}

impl LayerProvider for Offering {
    fn offer(&self, _: &LayerRequest<'_>) -> Offer {
        self.disk.failing.store(true, Ordering::Relaxed);
        Offer::Lazy(b"layer".to_vec())
    }

    fn lowerdirs(&self, _: &Chain<'_>, _: Option<&IdMap>) -> Result<Option<Vec<PathBuf>>> {
        Ok(None)
    }

    fn usage(&self, _: &[u8]) -> Result<Usage> {
        Ok(Usage::default())
    }

    fn release(&self, id: SnapshotId, record: &[u8]) -> Result<()> {
        assert_eq!(record, b"layer");
        self.released.lock().unwrap().push(id);
        Ok(())
    }
}

#[test]
fn a_layer_whose_record_is_uncertain_is_released_once_it_is_certain_that_there_is_none() {
    for writes_fail in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk {
            memory: Arc::default(),
            writes_fail,
            failing: Arc::default(),
        };
        let opener = disk.clone();
        let provider = Arc::new(Offering {
            disk: disk.clone(),
            released: Mutex::default(),
        });
        let released = || provider.released.lock().unwrap().len();
        let core = Arc::new(Core {
            root: Root::open(directory.path()).unwrap(),
            store: Store::with_backend(move || Ok(opener.clone())).unwrap(),
            features: Features::probe(&directory.path().join("probe")).unwrap(),
            overlay_options: Vec::new(),
            options: Options::default(),
            provider: Arc::clone(&provider) as _,
            lost: Lost::default(),
            declined: Declined::default(),
            reaper: Reaper::new(Vec::new(), false),
            measurer: Measurer::new(Vec::new()),
        });
        let snapshots = Keyspace::new(core.clone(), SnapshotterName::new("n").unwrap());
        let (label, value) = (LABEL_SNAPSHOT_REF.to_owned(), "layer".to_owned());
        let labels = Labels::new([(label, value)]).unwrap();
        let key = Key::new("default/1/x").unwrap();
        let error = snapshots.prepare(&key, None, labels).unwrap_err();
        assert!(matches!(error, Error::Uncertain { .. }), "{error}");
        assert_eq!(core.root.list().unwrap().len(), 1, "nobody knows");
        assert_eq!(released(), 0, "nobody knows");

        disk.failing.store(false, Ordering::Relaxed);
        core.reaper.sweep(&core).unwrap();
        let recorded = core.store.names().unwrap().len();
        assert_eq!(recorded, usize::from(!writes_fail));
        assert_eq!(core.root.list().unwrap().len(), recorded);
        assert_eq!(released(), 1 - recorded);
    }
}
