//! A disk that remembers every write, so that a test can ask what a crash at any moment would leave.

use std::io;
use std::sync::{Arc, Mutex};

use pontoon_metastore::Store;
use redb::StorageBackend;

/// What happened to the disk, and what was promised meanwhile.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    SetLen(u64),
    Sync,
    /// The caller was answered: this many operations are acknowledged.
    Acknowledged(usize),
}

/// The disk of a running store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder {
    state: Arc<Mutex<Recording>>,
}

#[derive(Debug, Default)]
struct Recording {
    image: Vec<u8>,
    events: Vec<Event>,
}

impl Recorder {
    /// A disk with this content.
    pub(crate) fn of(image: Vec<u8>) -> Self {
        let recorder = Recorder::default();
        recorder.state.lock().unwrap().image = image;
        recorder
    }

    pub(crate) fn store(&self) -> pontoon_snapshot::Result<Store> {
        let disk = self.clone();
        Store::with_backend(move || Ok(disk.clone()))
    }

    pub(crate) fn acknowledge(&self, operations: usize) {
        self.record(Event::Acknowledged(operations));
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        self.state.lock().unwrap().image.clone()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.state.lock().unwrap().events.clone()
    }

    fn record(&self, event: Event) {
        let mut state = self.state.lock().unwrap();
        event.apply(&mut state.image);
        state.events.push(event);
    }
}

impl Event {
    pub(crate) fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Event::Write { offset, data } => {
                let start = *offset as usize;
                let end = start + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[start..end].copy_from_slice(data);
            }
            Event::SetLen(len) => image.resize(*len as usize, 0),
            Event::Sync | Event::Acknowledged(_) => {}
        }
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().unwrap().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock().unwrap();
        let start = offset as usize;
        let bytes = state.image.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(Event::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Event::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let data = data.to_vec();
        self.record(Event::Write { offset, data });
        Ok(())
    }
}
