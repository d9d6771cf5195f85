//! The blob that is written, and what is where in it.

use std::io::Write;

use pontoon_layer::{Algorithm, Digest, Hasher};
use pontoon_unpack::Entry;

use crate::error::{Error, Result};
use crate::toc::{ChunkPlace, Toc};
use crate::unit::{ChunkNote, Packed};

/// A blob, as far as it is written.
pub(crate) struct Blob<W> {
    writer: W,
    hasher: Hasher,
    /// Bytes so far.
    pub(crate) offset: u64,
    /// The file of which there are more chunks to come.
    file: Option<(Entry, Vec<ChunkPlace>)>,
}

impl<W: Write> Blob<W> {
    pub(crate) fn new(writer: W) -> Self {
        Blob {
            writer,
            hasher: Hasher::new(Algorithm::Sha256),
            offset: 0,
            file: None,
        }
    }

    /// Appends a unit, and tells `toc` where what is.
    pub(crate) fn unit(&mut self, unit: Packed, toc: &mut Toc) -> Result<()> {
        let start = self.offset;
        self.append(&unit.bytes)?;
        if let (Some(note), Some(digest)) = (unit.notes.chunk, unit.digest) {
            let place = ChunkPlace {
                offset: start,
                end: start + unit.chunk_end as u64,
                file_offset: note.offset,
                bytes: unit.chunk_bytes as u64,
                digest,
            };
            self.chunk(note, place, toc)?;
        }
        for entry in &unit.notes.entries {
            toc.entry(entry, &[], None)?;
        }
        Ok(())
    }

    fn chunk(&mut self, note: ChunkNote, place: ChunkPlace, toc: &mut Toc) -> Result<()> {
        if let Some(entry) = note.file {
            self.file = Some((entry, Vec::new()));
        }
        let Some((entry, chunks)) = &mut self.file else {
            return Ok(());
        };
        // A table of contents has no room for more, and memory perhaps neither.
        Error::check_limit(
            "the chunks of one file",
            chunks.len() as u64,
            u64::from(pontoon_layer::Limits::default().entries_max),
        )?;
        chunks.push(place);
        if note.last {
            toc.entry(entry, chunks, note.whole.as_ref())?;
            self.file = None;
        }
        Ok(())
    }

    /// Appends `bytes`.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(Error::Write)?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// The digest of the blob, complete, and its size.
    pub(crate) fn finish(mut self) -> Result<(Digest, u64)> {
        self.writer.flush().map_err(Error::Write)?;
        Ok((self.hasher.finish(), self.offset))
    }
}
