//! What is to come first of a layer, taken out of its archive.
//!
//! An entry is moved only where that changes nothing for whoever unpacks the archive: with the directories that it is in,
//! and a hard link behind its target. Where the archive has a name twice, hides it with a whiteout, or has anything else
//! than directories above it, it stays where it is.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Read, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use pontoon_layer::path_names;
use pontoon_unpack::{Archive, Entry, Expected, Kind, Limits, Source};

use crate::error::{Error, Result};
use crate::options::Options;
use crate::tail;

/// What hides a name of a lower layer begins so, and what hides everything in a directory has this name (OCI image
/// specification, `layer.md`).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How often a directory may be listed: more often, it stays where it is.
const LISTED_MAX: usize = 16;

/// Hard links to hard links, at most.
const LINKS_MAX: usize = 40;

/// How much of what was put aside is read at a time, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Entries that come first, put aside.
pub(crate) struct Gathered {
    aside: File,
    /// Where each is there, in their order.
    ranges: Vec<Range<u64>>,
    /// Their numbers in the archive that they are from.
    pub(crate) numbers: HashSet<u64>,
    /// How many of them are files that were asked for.
    pub(crate) files: u64,
    /// How many files that were asked for stay where they are.
    pub(crate) left: u64,
}

/// Takes out of the archive of the layer that `reader` gives what is at the paths `wanted`, in their order. `links` are more
/// names of the same files. `aside` is an empty file.
pub(crate) fn gather(
    reader: impl Read + Send,
    expected: &Expected,
    options: &Options<'_>,
    (wanted, links): (&[Vec<u8>], &[Vec<u8>]),
    aside: File,
) -> Result<Gathered> {
    let limits = &options.limits;
    let mut scan = Scan::new(wanted.iter().chain(links), aside);
    pontoon_unpack::stream(reader, expected, limits, |blocks| {
        scan.read(&mut Archive::recording(blocks, limits), options)
    })?;
    scan.arrange(wanted)
}

impl Gathered {
    /// The entries, as an archive without an end. `None` if there are none.
    pub(crate) fn archive(&self, limits: &Limits) -> Option<Archive<Aside<'_>>> {
        let aside = Aside {
            file: &self.aside,
            ranges: &self.ranges,
            current: 0..0,
            buffer: Vec::new(),
            position: 0,
        };
        (!self.ranges.is_empty()).then(|| Archive::recording(aside, limits))
    }
}

/// Reads what was put aside.
pub(crate) struct Aside<'a> {
    file: &'a File,
    ranges: &'a [Range<u64>],
    current: Range<u64>,
    buffer: Vec<u8>,
    position: usize,
}

impl Source for Aside<'_> {
    fn fill(&mut self) -> pontoon_unpack::Result<&[u8]> {
        if self.position == self.buffer.len() {
            while let (true, Some((next, rest))) =
                (self.current.is_empty(), self.ranges.split_first())
            {
                self.current = next.clone();
                self.ranges = rest;
            }
            let left = self.current.end - self.current.start;
            let count = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
            self.buffer.resize(count, 0);
            self.position = 0;
            let read = (self.file).read_exact_at(&mut self.buffer, self.current.start);
            read.map_err(pontoon_unpack::Error::Read)?;
            self.current.start += count as u64;
        }
        Ok(&self.buffer[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

/// What an archive has at a path.
#[derive(Debug, Default)]
struct Place {
    items: Vec<Item>,
    /// Whether the order of its entries and others matters.
    is_fixed: bool,
}

/// An entry that was put aside.
#[derive(Debug)]
struct Item {
    number: u64,
    range: Range<u64>,
    kind: Kind,
    target: Vec<u8>,
}

/// An archive, as far as it is of interest.
struct Scan {
    /// By path: what is wanted, and the directories that it is in.
    places: HashMap<Vec<u8>, Place>,
    aside: BufWriter<File>,
    /// Bytes put aside.
    bytes: u64,
    /// Whether the place of a header says whom it is for.
    has_global: bool,
}

impl Scan {
    fn new<'a>(wanted: impl Iterator<Item = &'a Vec<u8>>, aside: File) -> Scan {
        let mut places = HashMap::new();
        for path in wanted {
            for above in parents(path).chain([&path[..]]) {
                if !places.contains_key(above) {
                    places.insert(above.to_vec(), Place::default());
                }
            }
        }
        Scan {
            places,
            aside: BufWriter::with_capacity(BUFFER_BYTES, aside),
            bytes: 0,
            has_global: false,
        }
    }

    fn read<S: Source>(&mut self, archive: &mut Archive<S>, options: &Options<'_>) -> Result<()> {
        let mut number = 0;
        while let Some(entry) = archive.next()? {
            options.check_cancelled()?;
            let headers = archive.take_raw();
            if !tail::is_special(&entry.path) {
                self.entry(entry, number, &headers, archive)?;
            }
            archive.skip()?;
            archive.take_raw();
            number += 1;
        }
        self.has_global = archive.has_global();
        Ok(archive.drain()?)
    }

    fn entry<S: Source>(
        &mut self,
        entry: Entry,
        number: u64,
        headers: &[u8],
        archive: &mut Archive<S>,
    ) -> Result<()> {
        let names = path_names(&entry.path);
        if let Some((name, above)) = names.split_last()
            && *name != OPAQUE
            && let Some(hidden) = name.strip_prefix(WHITEOUT)
        {
            let hidden = [above, &[hidden]].concat().join(&b'/');
            if let Some(place) = self.places.get_mut(&hidden) {
                place.is_fixed = true;
            }
            return Ok(());
        }
        let Some(place) = self.places.get_mut(&names.join(&b'/')) else {
            return Ok(());
        };
        let is_again = !place.items.is_empty();
        let all_directories = (place.items.iter().map(|item| item.kind))
            .chain([entry.kind])
            .all(|kind| kind == Kind::Directory);
        if place.is_fixed
            || is_again && !all_directories
            || place.items.len() >= LISTED_MAX
            || !matches!(entry.kind, Kind::Directory | Kind::File | Kind::HardLink)
        {
            place.is_fixed = true;
            return Ok(());
        }
        let start = self.bytes;
        self.bytes += headers.len() as u64;
        self.aside.write_all(headers).map_err(Error::Write)?;
        let mut data = 0;
        let (aside, mut failed) = (&mut self.aside, None);
        archive.data(|piece| {
            data += piece.len() as u64;
            // The rest is read all the same.
            failed = failed.take().or(aside.write_all(piece).err());
            Ok(())
        })?;
        let padding = data.next_multiple_of(tail::BLOCK_BYTES as u64) - data;
        let zeros = [0; tail::BLOCK_BYTES];
        let zeros = &zeros[..usize::try_from(padding).unwrap_or_default()];
        failed = failed.or(aside.write_all(zeros).err());
        if let Some(error) = failed {
            return Err(Error::Write(error));
        }
        self.bytes += data + padding;
        place.items.push(Item {
            number,
            range: start..self.bytes,
            kind: entry.kind,
            target: entry.target,
        });
        Ok(())
    }

    fn arrange(self, wanted: &[Vec<u8>]) -> Result<Gathered> {
        let mut arranged = Arranged {
            places: &self.places,
            paths: HashSet::new(),
            items: Vec::new(),
        };
        let mut files = 0;
        for path in wanted {
            if !self.has_global && arranged.put(path, 0) {
                files += 1;
            }
        }
        let ranges = arranged.items.iter().map(|item| item.range.clone());
        let (ranges, numbers) = (
            ranges.collect(),
            arranged.items.iter().map(|item| item.number).collect(),
        );
        let aside = self.aside.into_inner();
        Ok(Gathered {
            aside: aside.map_err(|error| Error::Write(error.into_error()))?,
            ranges,
            numbers,
            files,
            left: wanted.len() as u64 - files,
        })
    }
}

/// Entries in their new order.
struct Arranged<'a> {
    places: &'a HashMap<Vec<u8>, Place>,
    /// What is there already.
    paths: HashSet<&'a [u8]>,
    items: Vec<&'a Item>,
}

impl Arranged<'_> {
    /// Puts the file at `path` behind what is there, with all that it needs before it. False if it cannot be moved.
    fn put(&mut self, path: &[u8], depth: usize) -> bool {
        if self.paths.contains(path) {
            return true;
        }
        let places = self.places;
        let found = places.get_key_value(path).filter(|_| depth < LINKS_MAX);
        let Some((path, place)) = found else {
            return false;
        };
        let ([item], false) = (&place.items[..], place.is_fixed) else {
            return false;
        };
        let is_directory = |above: &[u8]| {
            let place = places.get(above);
            place.is_some_and(|place| {
                !place.is_fixed && (place.items.iter()).all(|item| item.kind == Kind::Directory)
            })
        };
        if item.kind == Kind::Directory || !parents(path).all(is_directory) {
            return false;
        }
        if item.kind == Kind::HardLink {
            let target = path_names(&item.target).join(&b'/');
            if !self.put(&target, depth + 1) {
                return false;
            }
        }
        for above in parents(path) {
            if let Some(place) = places.get(above)
                && self.paths.insert(above)
            {
                self.items.extend(&place.items);
            }
        }
        self.paths.insert(path);
        self.items.push(item);
        true
    }
}

/// The directories that `path` is in, the uppermost first.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let separators = (path.iter().enumerate()).filter(|(_, byte)| **byte == b'/');
    separators.map(|(at, _)| &path[..at])
}
