//! The file `chunks`.

use pontoon_layer::ChunkTableRef;
use pontoon_linux::Map;

/// A chunk table that was checked once, where it lies in the file.
#[derive(Debug)]
pub(crate) struct Table(Map);

impl Table {
    /// The reason, if it is none.
    pub(crate) fn new(map: Map) -> Result<Self, String> {
        ChunkTableRef::open(&map).map_err(|error| error.to_string())?;
        Ok(Table(map))
    }

    pub(crate) fn get(&self) -> ChunkTableRef<'_> {
        // Nobody changes the file, and `new` has checked it.
        ChunkTableRef::reopen(&self.0)
    }
}
