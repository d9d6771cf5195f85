//! How a layer's directory is made.

use std::io;
use std::path::Path;

use pontoon_layer::{BLOCK_BYTES, ChunkTable, Digest};

use crate::cache::Shared;
use crate::meta::StoredMeta;
use crate::slot::{CHUNKS, DATA, META, READY};
use crate::{Error, Key, Meta, Result};

/// A layer that is to be made.
pub(crate) struct Made {
    pub(crate) stored: StoredMeta,
    table: Vec<u8>,
}

impl Made {
    pub(crate) fn new(key: &Key, chunks: &ChunkTable, meta: Meta) -> Self {
        let table = chunks.encode();
        Made {
            stored: StoredMeta {
                key: key.clone(),
                table: Digest::of(&table),
                chunks: chunks.len() as u64,
                data_size: chunks.data_size(),
                meta,
            },
            table,
        }
    }
}

/// Writes a whole layer to `dir`, durably, but for the name of `dir` itself.
pub(crate) fn build(shared: &Shared, dir: &Path, made: &Made) -> Result<()> {
    let disk = &*shared.disk;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| {
            if crate::disk::is_full(&error) {
                shared.note_full(&error);
            }
            Error::io("writing", &path, error)
        }
    };
    disk.make_dir(dir).map_err(failed(dir))?;
    for (name, content) in [(CHUNKS, &made.table), (META, &made.stored.encode())] {
        let path = dir.join(name);
        let file = disk.create(&path).map_err(failed(&path))?;
        disk.write_at(&file, content, 0).map_err(failed(&path))?;
        disk.sync_data(&file).map_err(failed(&path))?;
    }
    // Neither has anything in it that could be lost.
    let path = dir.join(READY);
    disk.create(&path).map_err(failed(&path))?;
    let path = dir.join(DATA);
    let data = disk.create(&path).map_err(failed(&path))?;
    let data_bytes = file_bytes(made.stored.data_size);
    disk.set_len(&data, data_bytes).map_err(failed(&path))?;
    disk.sync_dir(dir).map_err(failed(dir))
}

/// Moves a layer that was built to its place, durably. What is there, and is no layer's, is moved to `away`.
pub(crate) fn rename(shared: &Shared, from: &Path, to: &Path, away: &Path) -> Result<()> {
    let disk = &*shared.disk;
    let failed = |error| Error::io("making", to, error);
    if to.symlink_metadata().is_ok() {
        disk.rename(to, away).map_err(failed)?;
    }
    disk.rename(from, to).map_err(failed)?;
    let parent = to.parent().unwrap_or(to);
    disk.sync_dir(parent).map_err(|error| {
        // If it stays there the next one moves it away.
        let _ = disk.rename(to, from);
        Error::io("syncing", parent, error)
    })
}

/// The data file ends with a whole block, so that all of it can be mapped.
pub(crate) fn file_bytes(data_size: u64) -> u64 {
    data_size
        .checked_next_multiple_of(BLOCK_BYTES)
        .unwrap_or(data_size)
}
