//! Archives into units.

use std::collections::HashSet;

use crc::Digest as Sum;
use pontoon_layer::{Algorithm, Digest, Hasher};
use pontoon_unpack::{Archive, Entry, Source};

use crate::error::{Error, Result};
use crate::options::{Dialect, Format, Options};
use crate::tail;
use crate::tarsplit::{self, TarSplit};
use crate::unit::{ChunkNote, Unit};

/// How much of headers a unit takes before another one begins.
const HEADERS_BYTES_MAX: usize = 1 << 20;

/// How many entries without data a unit takes: they cost more memory than their headers.
const ENTRIES_MAX: usize = 4096;

/// The most bytes behind the end of an archive that are kept.
const REST_BYTES_MAX: u64 = 64 << 20;

/// How much of the rest makes a unit.
const REST_UNIT_BYTES: usize = 1 << 20;

/// The archive that comes out, where that is not the one that was read.
pub(crate) struct Seen {
    hasher: Hasher,
    bytes: u64,
}

impl Seen {
    /// Goes on with `bytes`.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Its digest and its size.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.bytes)
    }
}

/// What was found out while an archive was cut.
pub(crate) struct Cut {
    /// The archive so far, if it is not the one that was read.
    pub(crate) seen: Option<Seen>,
    /// What containers/storage makes the archive again with.
    pub(crate) tar_split: Option<tarsplit::Written>,
}

/// What comes first of an archive that is written in another order.
pub(crate) struct First<'f, S> {
    /// Entries, in an archive of their own without an end. Nothing, if nothing comes first.
    pub(crate) entries: Option<&'f mut Archive<S>>,
    /// Their numbers in the archive that they are from.
    pub(crate) numbers: &'f HashSet<u64>,
}

/// Cuts an archive.
pub(crate) struct Cutter<'a, P> {
    options: &'a Options<'a>,
    put: P,
    unit: Unit,
    seen: Option<Seen>,
    tar_split: Option<TarSplit>,
}

impl<'a, P: FnMut(Unit) -> Result<()>> Cutter<'a, P> {
    /// Units go to `put`. What comes out is another archive if it is `reordered`, or an eStargz one.
    pub(crate) fn new(options: &'a Options<'a>, reordered: bool, put: P) -> Result<Self> {
        let is_podman = options.format == Format::ZstdChunked(Dialect::Podman);
        let is_other = reordered || options.format == Format::Estargz;
        Ok(Cutter {
            options,
            put,
            unit: Unit::default(),
            seen: is_other.then(|| Seen {
                hasher: Hasher::new(Algorithm::Sha256),
                bytes: 0,
            }),
            tar_split: match is_podman {
                true => Some(TarSplit::new(options.level)?),
                false => None,
            },
        })
    }

    /// Cuts `archive`, in its order.
    pub(crate) fn cut<S: Source>(mut self, archive: &mut Archive<S>) -> Result<Cut> {
        if self.options.format == Format::Estargz {
            self.landmark(tail::NO_PREFETCH_LANDMARK)?;
        }
        self.entries(archive, &HashSet::new())?;
        self.finish(archive)
    }

    /// Cuts `first`, then a landmark behind it, then the rest of `archive`.
    pub(crate) fn cut_in_order<S: Source, F: Source>(
        mut self,
        first: First<'_, F>,
        archive: &mut Archive<S>,
    ) -> Result<Cut> {
        let name = match first.entries {
            Some(entries) => {
                self.entries(entries, &HashSet::new())?;
                tail::PREFETCH_LANDMARK
            }
            None => tail::NO_PREFETCH_LANDMARK,
        };
        self.landmark(name)?;
        self.entries(archive, first.numbers)?;
        self.finish(archive)
    }

    /// The entries of `archive`, but for those with these numbers.
    fn entries<S: Source>(
        &mut self,
        archive: &mut Archive<S>,
        without: &HashSet<u64>,
    ) -> Result<()> {
        let mut number = 0;
        while let Some(entry) = archive.next()? {
            self.options.check_cancelled()?;
            let headers = archive.take_raw();
            self.check(archive)?;
            let is_left_out = without.contains(&number);
            number += 1;
            if is_left_out || self.seen.is_some() && tail::is_special(&entry.path) {
                archive.skip()?;
                archive.take_raw();
                continue;
            }
            self.entry(entry, &headers, archive)?;
        }
        self.check(archive)
    }

    /// The current entry of `archive`.
    fn entry<S: Source>(
        &mut self,
        entry: Entry,
        headers: &[u8],
        archive: &mut Archive<S>,
    ) -> Result<()> {
        self.raw(headers)?;
        let data = archive.data_bytes();
        if data > 0 {
            self.file(entry, archive)?;
        } else {
            if let Some(tar_split) = &mut self.tar_split {
                // Go takes the sum of nothing for data that is announced and cannot be.
                let sum = (entry.stored.size > 0).then_some(0);
                tar_split.file(&entry.path, entry.stored.size, sum)?;
            }
            self.unit.notes.entries.push(entry);
        }
        archive.skip()?;
        self.padding(archive.take_raw(), data)?;
        if self.unit.notes.entries.len() >= ENTRIES_MAX {
            self.next(Unit::default())?;
        }
        Ok(())
    }

    fn finish<S: Source>(mut self, archive: &mut Archive<S>) -> Result<Cut> {
        self.end(archive)?;
        self.next(Unit::default())?;
        Ok(Cut {
            seen: self.seen,
            tar_split: self.tar_split.map(TarSplit::finish).transpose()?,
        })
    }

    /// Says that what came before is to be fetched before anybody asks, or nothing.
    fn landmark(&mut self, name: &[u8]) -> Result<()> {
        let content = [tail::LANDMARK_CONTENT];
        let mut bytes = tail::own_header(name, b'0', 0, content.len() as u64).to_vec();
        bytes.extend(content);
        let mut archive = Archive::recording(&bytes[..], &self.options.limits);
        while let Some(entry) = archive.next()? {
            let headers = archive.take_raw();
            self.entry(entry, &headers, &mut archive)?;
        }
        Ok(())
    }

    /// containers/storage knows no global headers, and refuses what it cannot have written.
    fn check<S: Source>(&self, archive: &Archive<S>) -> Result<()> {
        if self.tar_split.is_some() && archive.has_global() {
            let format = self.options.format.name();
            return Err(Error::unsupported(b"", "a global header", format));
        }
        Ok(())
    }

    /// The data of `entry`, chunk by chunk.
    fn file<S: Source>(&mut self, entry: Entry, archive: &mut Archive<S>) -> Result<()> {
        let size = archive.data_bytes();
        let chunk_bytes = self.options.chunk_bytes as usize;
        let several = size > u64::from(self.options.chunk_bytes);
        let mut whole = several.then(|| Hasher::new(Algorithm::Sha256));
        let mut sum: Option<Sum<'_, u64, crc::Table<16>>> =
            (self.tar_split.is_some()).then(|| tarsplit::CRC.digest());
        let path = entry.path.clone();
        let mut file = Some(entry);
        let mut offset = 0;
        while archive.data_bytes() > 0 {
            self.options.check_cancelled()?;
            let mut bytes = Vec::new();
            archive.read(&mut bytes, chunk_bytes)?;
            self.see(&bytes);
            if let Some(whole) = &mut whole {
                whole.update(&bytes);
            }
            if let Some(sum) = &mut sum {
                sum.update(&bytes);
            }
            let last = archive.data_bytes() == 0;
            let count = bytes.len();
            let mut unit = Unit {
                bytes,
                chunk_bytes: count,
                ..Unit::default()
            };
            unit.notes.chunk = Some(ChunkNote {
                file: file.take(),
                offset,
                last,
                whole: whole.take_if(|_| last).map(Hasher::finish),
            });
            offset += count as u64;
            self.next(unit)?;
        }
        if let Some(tar_split) = &mut self.tar_split {
            tar_split.file(&path, size, sum.map(|sum| sum.finalize()))?;
        }
        Ok(())
    }

    /// What fills the last block of `data` bytes; all of it, if what follows is ours.
    fn padding(&mut self, mut padding: Vec<u8>, data: u64) -> Result<()> {
        if self.seen.is_some() {
            let due = data.wrapping_neg() % tail::BLOCK_BYTES as u64;
            padding.resize(usize::try_from(due).unwrap_or_default(), 0);
        }
        self.raw(&padding)
    }

    /// What is behind the last entry: of no use where a table of contents comes behind it.
    fn end<S: Source>(&mut self, archive: &mut Archive<S>) -> Result<()> {
        let end = archive.take_raw();
        if self.options.format == Format::Estargz {
            return Ok(archive.drain()?);
        }
        self.raw(&end)?;
        let mut total = 0;
        loop {
            let mut bytes = Vec::new();
            archive.rest(&mut bytes, REST_UNIT_BYTES)?;
            if bytes.is_empty() {
                return Ok(());
            }
            self.options.check_cancelled()?;
            total += bytes.len() as u64;
            Error::check_limit(
                "the bytes behind the end of the layer's archive",
                total,
                REST_BYTES_MAX,
            )?;
            self.raw(&bytes)?;
        }
    }

    /// Bytes that are no file's data.
    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.see(bytes);
        if let Some(tar_split) = &mut self.tar_split {
            tar_split.raw(bytes)?;
        }
        let headers = self.unit.bytes.len() - self.unit.chunk_bytes;
        if headers + bytes.len() > HEADERS_BYTES_MAX && headers > 0 {
            self.next(Unit::default())?;
        }
        self.unit.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn see(&mut self, bytes: &[u8]) {
        if let Some(seen) = &mut self.seen {
            seen.see(bytes);
        }
    }

    /// Begins `unit`: the one before is complete.
    fn next(&mut self, unit: Unit) -> Result<()> {
        let unit = std::mem::replace(&mut self.unit, unit);
        if unit.bytes.is_empty() && unit.notes.entries.is_empty() {
            return Ok(());
        }
        (self.put)(unit)
    }
}
