//! How a layer is opened, whatever became of its files.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use pontoon_layer::{Algorithm, Digest, Hasher};
use pontoon_linux::Map;

use crate::build::file_bytes;
use crate::cache::Shared;
use crate::dir::{is_damage, open_file, read_file};
use crate::layer::CachedLayer;
use crate::ready::{self, Ready};
use crate::slot::{CHUNKS, DATA, READY, Slot, lock};
use crate::table::Table;
use crate::{Error, Result};

/// What a layer is opened with.
pub(crate) struct Files {
    pub(crate) table: Table,
    /// What the file `ready` says.
    pub(crate) ready: Ready,
    pub(crate) data: Option<File>,
}

/// Opens the layer of `slot`, or says what is wrong with it. Its state is locked by the caller.
pub(crate) fn open_layer(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
) -> Result<Result<Arc<CachedLayer>, String>> {
    let table = match open_table(slot)? {
        Ok(table) => table,
        Err(reason) => return Ok(Err(format!("its chunk table: {reason}"))),
    };
    let data = open_data(shared, slot);
    let opened = data.and_then(|data| Ok((open_ready(shared, slot, &table, data.as_ref())?, data)));
    let (ready, data) = match opened {
        Ok(opened) => opened,
        Err(error) if is_damage(&error) => return Ok(Err(error.to_string())),
        Err(error) => return Err(Error::io("opening", &slot.dir, error)),
    };
    let is_doubted = lock(&shared.doubted).contains(&slot.key);
    let files = Files { table, ready, data };
    let layer = CachedLayer::new(shared.clone(), slot.clone(), files, is_doubted);
    Ok(Ok(layer))
}

fn open_table(slot: &Slot) -> Result<Result<Table, String>> {
    let path = slot.path(CHUNKS);
    let opened = open_file(&path).and_then(|file| {
        // Read before it is mapped: a bad sector is an error here, and a signal there.
        let digest = digest_of(&file)?;
        Ok((Map::of(&file).map_err(|error| error.source)?, digest))
    });
    let (map, digest) = match opened {
        Ok(opened) => opened,
        Err(error) if is_damage(&error) => return Ok(Err(error.to_string())),
        Err(error) => return Err(Error::io("opening", &path, error)),
    };
    if digest != slot.stored.table {
        return Ok(Err("it has another digest than its meta says".to_owned()));
    }
    Ok(Table::new(map).and_then(|table| {
        let same = table.get().len() as u64 == slot.stored.chunks
            && table.get().data_size() == slot.stored.data_size;
        same.then_some(table)
            .ok_or_else(|| "it is not the one that its meta describes".to_owned())
    }))
}

fn digest_of(mut file: &File) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut step = vec![0; 256 << 10];
    loop {
        match file.read(&mut step) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(step.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The data file. None if it was evicted; it is made when it is needed.
fn open_data(shared: &Shared, slot: &Slot) -> io::Result<Option<File>> {
    match shared.disk.open(&slot.path(DATA)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is ready, after nothing is that the data file cannot hold.
fn open_ready(
    shared: &Shared,
    slot: &Slot,
    table: &Table,
    data: Option<&File>,
) -> io::Result<Ready> {
    let disk = &*shared.disk;
    let path = slot.path(READY);
    let table = table.get();
    let digest = slot.stored.table.clone();
    let bytes = match open_file(&path) {
        Ok(file) => read_file(file, Ready::file_bytes(table.len()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.create(&path)?;
            disk.sync_dir(&slot.dir)?;
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let (mut ready, damaged) = Ready::decode(&bytes, digest, table.len());
    if damaged > 0 {
        tracing::warn!(layer = %slot.key, damaged, "a cached layer has forgotten which of its chunks are ready; fetching them again");
    }
    let Some(data) = data else {
        if ready.iter().next().is_some() {
            ready::clear_file(disk, &path)?;
            ready.clear_all();
        }
        return Ok(ready);
    };
    let length = data.metadata()?.len();
    let beyond = |index: &usize| {
        let chunk = table.get(*index);
        chunk.is_none_or(|chunk| chunk.data_end() > length)
    };
    let lost: Vec<usize> = ready.iter().filter(beyond).collect();
    lost.iter().for_each(|index| ready.clear(*index));
    if ready.is_dirty() {
        // Before the file is long enough again for the bits to be believed.
        ready.write(disk, &disk.open(&path)?)?;
    }
    if length != file_bytes(slot.stored.data_size) {
        disk.set_len(data, file_bytes(slot.stored.data_size))?;
    }
    Ok(ready)
}

/// Makes the data file of a layer after it was evicted.
pub(crate) fn make_data(shared: &Shared, slot: &Slot) -> io::Result<File> {
    let disk = &*shared.disk;
    let path = slot.path(DATA);
    // A try that failed may have left one; nothing was put into it.
    match disk.remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let file = disk.create(&path)?;
    disk.set_len(&file, file_bytes(slot.stored.data_size))?;
    // Before a bit can be set: else the old file could come back under the new one's bits.
    disk.sync_dir(&slot.dir)?;
    Ok(file)
}
