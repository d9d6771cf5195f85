//! What a crash leaves: at every write and every sync, with the unsynced writes lost in several ways.

use std::os::unix::fs::PermissionsExt;

use pontoon_metastore::Store;

use crate::fixture::name;
use crate::model::{Model, observe, perform, script};
use crate::random::Random;
use crate::recorded::{Event, Recorder};

/// What the disk does with the writes since the last sync when the power goes.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// The process was killed: the page cache has them all.
    Nothing,
    Everything,
    /// Each write survives or not, by this seed.
    Some(u64),
    /// Each 512-byte sector survives or not, by this seed.
    Sectors(u64),
}

const LOSSES: [Loss; 6] = [
    Loss::Nothing,
    Loss::Everything,
    Loss::Some(1),
    Loss::Some(2),
    Loss::Sectors(3),
    Loss::Sectors(4),
];

/// The disk of a store without snapshots. A new file gets its name when it is as far as this.
fn empty_store() -> Vec<u8> {
    let disk = Recorder::default();
    drop(disk.store().unwrap());
    disk.image()
}

/// What happened to a disk, and the model after each operation.
struct Recorded {
    start: Vec<u8>,
    events: Vec<Event>,
    models: Vec<Model>,
}

/// Runs the script on a recorded disk.
fn record() -> Recorded {
    let start = empty_store();
    let disk = Recorder::of(start.clone());
    let store = disk.store().unwrap();
    let mut models = vec![Model::default()];
    for (index, op) in script().iter().enumerate() {
        let mut model = models[index].clone();
        assert_eq!(perform(&store, &name(), op), model.apply(op), "{op:?}");
        models.push(model);
        disk.acknowledge(index + 1);
    }
    drop(store);
    Recorded {
        start,
        events: disk.events(),
        models,
    }
}

/// The disk after a crash that lets only `events` happen.
fn image_after(start: &[u8], events: &[Event], loss: Loss) -> Vec<u8> {
    let synced = events
        .iter()
        .rposition(|event| matches!(event, Event::Sync))
        .map_or(0, |last| last + 1);
    let mut image = start.to_vec();
    for event in &events[..synced] {
        event.apply(&mut image);
    }
    let mut random = match loss {
        Loss::Some(seed) | Loss::Sectors(seed) => Random::new(seed * 10_000 + events.len() as u64),
        Loss::Nothing | Loss::Everything => Random::new(0),
    };
    for event in &events[synced..] {
        match (loss, event) {
            (Loss::Everything, _) => {}
            (Loss::Some(_), _) if random.coin() => {}
            (Loss::Sectors(_), Event::Write { offset, data }) => {
                for (index, sector) in data.chunks(512).enumerate() {
                    if random.coin() {
                        let offset = offset + 512 * index as u64;
                        let data = sector.to_vec();
                        Event::Write { offset, data }.apply(&mut image);
                    }
                }
            }
            _ => event.apply(&mut image),
        }
    }
    image
}

impl Recorded {
    /// Every cut in the run but those that only add an acknowledgement.
    fn cuts(&self) -> impl Iterator<Item = &[Event]> {
        (0..=self.events.len())
            .filter(|end| !matches!(self.events.get(*end), Some(Event::Acknowledged(_))))
            .map(|end| &self.events[..end])
    }

    /// What may be there after a crash that let only `events` happen: all that was acknowledged, and the operation
    /// in progress wholly or not.
    fn possible(&self, events: &[Event]) -> &[Model] {
        let mut answers = events.iter().rev().filter_map(|event| match event {
            Event::Acknowledged(operations) => Some(*operations),
            _ => None,
        });
        let done = answers.next().unwrap_or(0);
        &self.models[done..self.models.len().min(done + 2)]
    }
}

/// Opens the store on `disk` and checks that it holds one of `possible`.
fn check(disk: &Recorder, possible: &[Model], at: &str) {
    let store = disk.store().unwrap_or_else(|error| panic!("{at}: {error}"));
    let found = observe(&store, &name());
    assert!(
        possible.contains(&found),
        "{at}: {found:?} is none of {possible:?}"
    );
}

#[test]
fn a_crash_at_any_write_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    let run = record();
    let mut cuts = 0;
    for events in run.cuts() {
        for loss in LOSSES {
            let disk = Recorder::of(image_after(&run.start, events, loss));
            let at = format!("cut after {} events, {loss:?}", events.len());
            check(&disk, run.possible(events), &at);
            cuts += 1;
        }
    }
    assert!(cuts > 500, "only {cuts}: the script is too short");
}

#[test]
fn a_crash_while_recovering_from_a_crash_loses_nothing_either() {
    let run = record();
    let mut cuts = 0;
    for events in run.cuts().step_by(23) {
        let start = image_after(&run.start, events, Loss::Sectors(5));
        let disk = Recorder::of(start.clone());
        drop(disk.store().unwrap());
        let recovery = disk.events();
        for end in 0..recovery.len() {
            for loss in [Loss::Everything, Loss::Sectors(6)] {
                let disk = Recorder::of(image_after(&start, &recovery[..end], loss));
                let at = format!("cut after {} events and {end} of recovery", events.len());
                check(&disk, run.possible(events), &at);
                cuts += 1;
            }
        }
    }
    assert!(cuts > 50, "only {cuts}: recovery writes too little");
}

#[test]
fn a_store_goes_on_after_a_crash() {
    let Recorded {
        start,
        events,
        models,
    } = record();
    let ops = script();
    for end in (0..events.len()).step_by(7) {
        let disk = Recorder::of(image_after(&start, &events[..end], Loss::Sectors(9)));
        let store = disk.store().unwrap();
        let found = observe(&store, &name());
        let next = models.iter().position(|model| *model == found).unwrap();
        let mut model = found;
        for op in &ops[next..] {
            assert_eq!(perform(&store, &name(), op), model.apply(op), "{op:?}");
        }
        assert_eq!(observe(&store, &name()), model);
        drop(store);
        assert_eq!(observe(&disk.store().unwrap(), &name()), model);
    }
}

#[test]
fn a_crash_while_the_file_is_made_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metadata.redb");
    std::fs::write(directory.path().join("metadata.redb.new"), "half a file").unwrap();
    Store::open(&path).unwrap();
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}
