//! Tables of contents, entry by entry.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pontoon_layer::{Digest, Hasher, Limits, Time};
use pontoon_unpack::{Entry, Kind};
use serde::Serialize;

use crate::encode::Frame;
use crate::error::{Error, Result};
use crate::options::{Dialect, Format};
use crate::time;

/// A chunk that was written.
#[derive(Debug, Clone)]
pub(crate) struct ChunkPlace {
    /// Where it begins in the blob.
    pub(crate) offset: u64,
    /// Where it ends there.
    pub(crate) end: u64,
    /// Where it begins in its file.
    pub(crate) file_offset: u64,
    /// Its decompressed bytes.
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
}

/// The table of contents of a layer that is being written. In memory it is compressed.
pub(crate) struct Toc {
    format: Format,
    frame: Frame,
    hasher: Hasher,
    limits: Limits,
    entries: u64,
    text: Vec<u8>,
}

/// A table of contents, complete.
pub(crate) struct Written {
    /// A zstd frame of JSON.
    pub(crate) frame: Vec<u8>,
    /// Bytes of the JSON.
    pub(crate) json_bytes: u64,
    /// The digest of the JSON.
    pub(crate) json_digest: Digest,
}

/// How hard a table is compressed that is only kept.
const KEPT_LEVEL: i32 = 1;

/// `TOCEntry` of stargz-snapshotter's estargz/types.go, and `FileMetadata` of containers/storage's
/// pkg/chunked/internal/minimal/compression.go. What is zero is left out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(rename = "modtime", skip_serializing_if = "Option::is_none")]
    modified: Option<String>,
    #[serde(rename = "accesstime", skip_serializing_if = "Option::is_none")]
    accessed: Option<String>,
    #[serde(rename = "changetime", skip_serializing_if = "Option::is_none")]
    changed: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    chunk_digest: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Toc {
    pub(crate) fn new(format: Format, level: i32) -> Result<Toc> {
        let level = match format {
            Format::Estargz => KEPT_LEVEL,
            Format::ZstdChunked(_) | Format::Nydus(_) => level,
        };
        let mut toc = Toc {
            format,
            frame: Frame::new(level)?,
            hasher: Hasher::new(pontoon_layer::Algorithm::Sha256),
            limits: Limits::default(),
            entries: 0,
            text: br#"{"version":1,"entries":["#.to_vec(),
        };
        toc.write()?;
        Ok(toc)
    }

    /// An entry whose data, if it has any, is in `chunks`; `whole` is the digest of all of it.
    pub(crate) fn entry(
        &mut self,
        entry: &Entry,
        chunks: &[ChunkPlace],
        whole: Option<&Digest>,
    ) -> Result<()> {
        let podman = self.format == Format::ZstdChunked(Dialect::Podman);
        let mut line = described(entry, podman, self.format.name())?;
        let several = chunks.len() > 1;
        if let Some(first) = chunks.first() {
            let digest = whole.unwrap_or(&first.digest);
            line.digest = digest.to_string();
            line.offset = first.offset;
            let last = chunks.last().unwrap_or(first);
            line.end_offset = if podman { last.end } else { 0 };
            if several || !podman {
                line.chunk_digest = first.digest.to_string();
            }
            if several {
                line.chunk_size = first.bytes;
            }
        } else if entry.kind == Kind::File && !podman {
            line.digest = Digest::of(b"").to_string();
        }
        let name = line.name;
        self.line(&line)?;
        for (index, chunk) in chunks.iter().enumerate().skip(1) {
            let is_last = index + 1 == chunks.len();
            self.line(&TocEntry {
                kind: "chunk",
                name,
                offset: chunk.offset,
                chunk_offset: chunk.file_offset,
                // stargz-snapshotter leaves it out where the file ends; containers/storage needs it.
                chunk_size: if is_last && !podman { 0 } else { chunk.bytes },
                chunk_digest: chunk.digest.to_string(),
                ..TocEntry::default()
            })?;
        }
        Ok(())
    }

    fn line(&mut self, line: &TocEntry<'_>) -> Result<()> {
        if self.entries > 0 {
            self.text.push(b',');
        }
        self.entries += 1;
        Error::check_limit(
            "the entries of the table of contents",
            self.entries,
            u64::from(self.limits.entries_max),
        )?;
        serde_json::to_writer(&mut self.text, line)
            .map_err(|error| Error::Compress(error.to_string()))?;
        self.write()
    }

    fn write(&mut self) -> Result<()> {
        self.hasher.update(&self.text);
        self.frame.push(&self.text)?;
        self.text.clear();
        Error::check_limit(
            "the bytes of the table of contents",
            self.frame.bytes,
            self.limits.toc_json_bytes_max,
        )?;
        Error::check_limit(
            "the compressed bytes of the table of contents",
            self.frame.compressed_bytes(),
            self.limits.toc_bytes_max,
        )
    }

    /// The table; `tar_split` is the digest of what containers/storage makes the archive again with.
    pub(crate) fn finish(mut self, tar_split: Option<&Digest>) -> Result<Written> {
        self.text.push(b']');
        if let Some(digest) = tar_split {
            let more = format!(",\"tarSplitDigest\":\"{digest}\"");
            self.text.extend_from_slice(more.as_bytes());
        }
        self.text.push(b'}');
        self.write()?;
        Ok(Written {
            json_bytes: self.frame.bytes,
            json_digest: self.hasher.finish(),
            frame: self.frame.finish()?,
        })
    }
}

/// What a table says of an entry whatever its data is. containers/storage compares it with the archive's headers, so
/// `literally` everything is as it is there.
fn described<'a>(entry: &'a Entry, literally: bool, format: &'static str) -> Result<TocEntry<'a>> {
    let path = &entry.path;
    let unsupported = |what: &str| Error::unsupported(path, what, format);
    let utf8 = |bytes: &'a [u8], what| {
        // Go's encoder writes U+FFFD for what is no UTF-8, so readers cannot tell the two.
        (std::str::from_utf8(bytes).ok())
            .filter(|text| !text.contains('\u{fffd}'))
            .ok_or_else(|| unsupported(what))
    };
    let is_link = matches!(entry.kind, Kind::Symlink | Kind::HardLink);
    let stored = &entry.stored;
    let moment = |time: Time| match time::text(time) {
        Some(text) => Ok(Some(text)),
        None if literally => Err(unsupported("a time of no year that has four digits")),
        None => Ok(None),
    };
    let device = match entry.kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            (u64::from(major), u64::from(minor))
        }
        _ if literally => stored.device,
        _ => (0, 0),
    };
    let mut xattrs = BTreeMap::new();
    for (name, value) in &entry.xattrs {
        let name = utf8(name, "an extended attribute whose name is not UTF-8")?;
        xattrs.insert(name, STANDARD.encode(value));
    }
    let optional = |time: Option<Time>| match time.filter(|_| literally) {
        Some(time) => moment(time),
        None => Ok(None),
    };
    Ok(TocEntry {
        kind: kind(entry.kind),
        name: utf8(path, "a name that is not UTF-8")?,
        link_name: match is_link || literally {
            true => utf8(&entry.target, "a target that is not UTF-8")?,
            false => "",
        },
        mode: stored.mode,
        size: match entry.kind {
            Kind::File => stored.size,
            _ if literally => stored.size,
            _ => 0,
        },
        uid: u64::from(entry.uid),
        gid: u64::from(entry.gid),
        modified: moment(stored.mtime)?,
        accessed: optional(stored.atime)?,
        changed: optional(stored.ctime)?,
        dev_major: device.0,
        dev_minor: device.1,
        xattrs,
        ..TocEntry::default()
    })
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "dir",
        Kind::File => "reg",
        Kind::Symlink => "symlink",
        Kind::HardLink => "hardlink",
        Kind::CharDevice { .. } => "char",
        Kind::BlockDevice { .. } => "block",
        Kind::Fifo => "fifo",
    }
}
