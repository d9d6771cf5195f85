//! Makes a layer of the entries of its table of contents, as they come.

use std::mem;

use super::data::Data;
use super::entry::TocEntry;
use super::stream::{TOC_NAME, WHAT};
use super::{Landmark, Layer, time};
use crate::chunk::ChunkTable;
use crate::error::FormatError;
use crate::inflate::Compression;
use crate::limits::Limits;
use crate::path::components;
use crate::tree::{Entry, EntryKind, OpaqueXattr, TreeBuilder};

/// The file behind what is to be fetched at once (stargz-snapshotter's docs/estargz.md, "Prioritized Files and Landmark
/// Files").
const PREFETCH_LANDMARK: &str = ".prefetch.landmark";

/// The file of a layer of which nothing is to be fetched at once.
const NO_PREFETCH_LANDMARK: &str = ".no.prefetch.landmark";

pub(super) struct Assembler<'l> {
    limits: &'l Limits,
    compression: Compression,
    payload_end: u64,
    builder: TreeBuilder,
    data: Data<'l>,
    landmark: FoundLandmark,
    entries: u32,
    /// Why an entry was refused.
    pub(super) failure: Option<FormatError>,
}

enum FoundLandmark {
    None,
    /// Where it is in the blob, and how many files came before it.
    Prefetch {
        blob_offset: u64,
        files: usize,
    },
    NoPrefetch,
}

impl<'l> Assembler<'l> {
    pub(super) fn new(
        compression: Compression,
        payload_end: u64,
        opaque: OpaqueXattr,
        limits: &'l Limits,
    ) -> Self {
        Assembler {
            limits,
            compression,
            payload_end,
            builder: TreeBuilder::new(opaque, limits),
            data: Data::new(compression, payload_end, limits),
            landmark: FoundLandmark::None,
            entries: 0,
            failure: None,
        }
    }

    /// Takes the next entry.
    pub(super) fn entry(&mut self, entry: TocEntry) -> Result<(), FormatError> {
        self.entries = self.entries.saturating_add(1);
        FormatError::check_limit(
            "the number of entries in the table of contents",
            u64::from(self.entries),
            u64::from(self.limits.entries_max),
        )?;
        if entry.kind == "chunk" {
            return self.data.chunk(&entry);
        }
        check_names(&entry)?;
        self.data.end_file()?;
        if self.is_special(&entry) {
            return self.data.ignore(&entry);
        }
        match entry.kind.as_str() {
            "reg" => self.file(entry),
            "hardlink" => self
                .builder
                .link(entry.name.as_bytes(), entry.link_name.as_bytes()),
            _ => self.other(entry),
        }
    }

    /// Whether the entry is not one of the image's files. Landmarks are noted.
    fn is_special(&mut self, entry: &TocEntry) -> bool {
        if !entry.name.ends_with(".landmark") && !entry.name.ends_with(TOC_NAME) {
            return false;
        }
        let Ok(names) = components(entry.name.as_bytes(), self.limits) else {
            return false;
        };
        let [name] = names[..] else {
            return false;
        };
        if name == PREFETCH_LANDMARK.as_bytes() {
            if !matches!(self.landmark, FoundLandmark::NoPrefetch) {
                self.landmark = FoundLandmark::Prefetch {
                    blob_offset: entry.offset.min(self.payload_end),
                    files: self.data.files(),
                };
            }
            return true;
        }
        if name == NO_PREFETCH_LANDMARK.as_bytes() {
            self.landmark = FoundLandmark::NoPrefetch;
            return true;
        }
        name == TOC_NAME.as_bytes()
    }

    fn other(&mut self, mut entry: TocEntry) -> Result<(), FormatError> {
        let device = || {
            let major = u32::try_from(entry.dev_major).unwrap_or(u32::MAX);
            let minor = u32::try_from(entry.dev_minor).unwrap_or(u32::MAX);
            (major, minor)
        };
        let link_name = mem::take(&mut entry.link_name);
        let kind = match entry.kind.as_str() {
            "dir" => EntryKind::Directory,
            "symlink" => EntryKind::Symlink(link_name.as_bytes()),
            "char" => {
                let (major, minor) = device();
                EntryKind::CharDevice { major, minor }
            }
            "block" => {
                let (major, minor) = device();
                EntryKind::BlockDevice { major, minor }
            }
            "fifo" => EntryKind::Fifo,
            other => {
                let other: String = other.chars().take(40).collect();
                let reason = format!("is of the type {other:?}, which no layer can hold");
                return Err(FormatError::entry(&entry.name, reason));
            }
        };
        let name = mem::take(&mut entry.name);
        let attributes = self.attributes(&name, kind, &mut entry)?;
        self.builder.add(name.as_bytes(), attributes).map(drop)
    }

    fn attributes<'a>(
        &self,
        name: &str,
        kind: EntryKind<'a>,
        entry: &mut TocEntry,
    ) -> Result<Entry<'a>, FormatError> {
        let owner = |id: u64, what: &str| {
            // The last one means "nobody" to the kernel.
            let known = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
            known.ok_or_else(|| {
                FormatError::entry(
                    name,
                    format!("has the {what} {id}, which is none of Linux'"),
                )
            })
        };
        let xattrs = entry.xattrs.take().unwrap_or_default().0;
        let count = xattrs.len();
        let bytes: usize = xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if count > self.limits.xattrs_max || bytes > self.limits.xattr_bytes_max {
            let reason = format!("has {count} extended attributes of {bytes} bytes, too many");
            return Err(FormatError::entry(name, reason));
        }
        let bad = |name: &[u8]| name.is_empty() || name.len() > 255 || name.contains(&0);
        if xattrs.iter().any(|(name, _)| bad(name)) {
            let reason = "has an extended attribute with a name that Linux does not allow";
            return Err(FormatError::entry(name, reason));
        }
        Ok(Entry {
            kind,
            mode: (entry.mode & 0o7777) as u16,
            uid: owner(entry.uid, "owner")?,
            gid: owner(entry.gid, "group")?,
            mtime: time::parse(entry.modified.as_deref().unwrap_or_default()),
            size: entry.size,
            xattrs,
        })
    }

    fn file(&mut self, mut entry: TocEntry) -> Result<(), FormatError> {
        let name = mem::take(&mut entry.name);
        let kind = EntryKind::File { data_offset: 0 };
        self.data.check_total(entry.size)?;
        let attributes = self.attributes(&name, kind, &mut entry)?;
        match self.builder.add(name.as_bytes(), attributes)? {
            Some(node) => self.data.begin(name, node, &entry),
            None => self.data.ignore(&entry),
        }
    }

    /// The layer, after the last entry.
    pub(super) fn finish(self) -> Result<Layer, FormatError> {
        let (mut tree, numbers) = self.builder.finish_with_numbers()?;
        let laid_out = self.data.finish(&mut tree, &numbers)?;
        let chunks = ChunkTable::new(self.compression, laid_out.size, laid_out.chunks)
            .map_err(|error| FormatError::malformed(WHAT, error.to_string()))?;
        let landmark = match self.landmark {
            FoundLandmark::None => Landmark::None,
            FoundLandmark::NoPrefetch => Landmark::NoPrefetch,
            FoundLandmark::Prefetch { blob_offset, files } => Landmark::Prefetch {
                blob_offset,
                data_offset: laid_out.starts.get(files).copied().unwrap_or(laid_out.size),
            },
        };
        Ok(Layer {
            tree,
            chunks,
            landmark,
            entries: self.entries,
        })
    }
}

/// Refuses an entry whose names are not those in the archive. JSON holds only UTF-8, and Go's encoder writes U+FFFD in
/// place of every other byte: which one is lost, and two files may have become one.
fn check_names(entry: &TocEntry) -> Result<(), FormatError> {
    match entry.name.contains('\u{fffd}') || entry.link_name.contains('\u{fffd}') {
        true => Err(FormatError::entry(
            &entry.name,
            "has a name or a target that is not UTF-8, which a table of contents cannot hold",
        )),
        false => Ok(()),
    }
}
