//! What containers/storage makes an archive of a tree again with, byte by byte: JSON lines of what is no file's data, and
//! of files (github.com/vbatts/tar-split, tar/storage/entry.go).

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pontoon_layer::Digest;
use serde::Serialize;

use crate::encode::Frame;
use crate::error::{Error, Result};
use crate::options::{Dialect, Format};

/// Types of lines.
const FILE: u8 = 1;
const SEGMENT: u8 = 2;

/// The sum of a file's data: ISO 3309's polynomial, as Go's `hash/crc64` has it.
pub(crate) static CRC: crc::Crc<u64, crc::Table<16>> =
    crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_GO_ISO);

/// The most compressed bytes of it: more than any table of contents may have.
const COMPRESSED_BYTES_MAX: u64 = 128 << 20;

/// Lines, as they come. In memory they are compressed.
pub(crate) struct TarSplit {
    frame: Frame,
    position: u64,
    /// What came since the last file and is no file's data.
    segment: Vec<u8>,
    /// The first half of the SHA-256 of each name: the same name twice cannot be.
    names: HashSet<[u8; 16]>,
    text: Vec<u8>,
}

/// Lines, complete.
pub(crate) struct Written {
    /// A zstd frame.
    pub(crate) frame: Vec<u8>,
    /// Bytes of the lines.
    pub(crate) bytes: u64,
    /// The digest of the frame.
    pub(crate) digest: Digest,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How much of a segment is kept before it becomes a line. Readers put segments together again.
const SEGMENT_BYTES: usize = 64 << 10;

impl TarSplit {
    pub(crate) fn new(level: i32) -> Result<TarSplit> {
        Ok(TarSplit {
            frame: Frame::new(level)?,
            position: 0,
            segment: Vec::new(),
            names: HashSet::new(),
            text: Vec::new(),
        })
    }

    /// Bytes that are no file's data.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.segment.extend_from_slice(bytes);
        match self.segment.len() >= SEGMENT_BYTES {
            true => self.end_segment(),
            false => Ok(()),
        }
    }

    /// An entry, after its headers, with the sum of its data if there is any.
    pub(crate) fn file(&mut self, path: &[u8], size: u64, sum: Option<u64>) -> Result<()> {
        let format = Format::ZstdChunked(Dialect::Podman).name();
        if !self.names.insert(key(path)) {
            let what = "a second entry of the same name";
            return Err(Error::unsupported(path, what, format));
        }
        let name = std::str::from_utf8(path)
            .map_err(|_| Error::unsupported(path, "a name that is not UTF-8", format))?;
        self.end_segment()?;
        self.line(
            FILE,
            name,
            size,
            sum.map(|sum| STANDARD.encode(sum.to_be_bytes())),
        )
    }

    fn end_segment(&mut self) -> Result<()> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let payload = STANDARD.encode(&self.segment);
        self.segment.clear();
        self.line(SEGMENT, "", 0, Some(payload))
    }

    fn line(&mut self, kind: u8, name: &str, size: u64, payload: Option<String>) -> Result<()> {
        let line = Line {
            kind,
            name,
            size,
            payload,
            position: self.position,
        };
        self.position += 1;
        self.text.clear();
        serde_json::to_writer(&mut self.text, &line)
            .map_err(|error| Error::Compress(error.to_string()))?;
        self.text.push(b'\n');
        self.frame.push(&self.text)?;
        Error::check_limit(
            "the compressed bytes of all headers",
            self.frame.compressed_bytes(),
            COMPRESSED_BYTES_MAX,
        )
    }

    pub(crate) fn finish(mut self) -> Result<Written> {
        self.end_segment()?;
        let bytes = self.frame.bytes;
        let frame = self.frame.finish()?;
        Ok(Written {
            digest: Digest::of(&frame),
            bytes,
            frame,
        })
    }
}

/// What the names have in common that Go's `filepath.Clean` makes the same.
fn key(path: &[u8]) -> [u8; 16] {
    let mut names: Vec<&[u8]> = Vec::new();
    let rooted = path.starts_with(b"/");
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => match names.last() {
                Some(last) if *last != b".." => drop(names.pop()),
                _ if rooted => {}
                _ => names.push(name),
            },
            name => names.push(name),
        }
    }
    let mut cleaned = if rooted { b"/".to_vec() } else { Vec::new() };
    cleaned.extend(names.join(&b'/'));
    let digest = Digest::of(&cleaned);
    let mut key = [0; 16];
    key.copy_from_slice(&digest.bytes()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_go() {
        // crc64.Checksum([]byte("123456789"), crc64.MakeTable(crc64.ISO))
        assert_eq!(CRC.checksum(b"123456789"), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn names_are_the_same_as_in_go() {
        for (one, other) in [
            ("a/", "a"),
            ("./a//b", "a/b"),
            ("a/../b", "b"),
            ("/..", "/"),
        ] {
            assert_eq!(key(one.as_bytes()), key(other.as_bytes()), "{one} {other}");
        }
        for (one, other) in [("a", "/a"), ("../a", "a"), ("a", "b")] {
            assert_ne!(key(one.as_bytes()), key(other.as_bytes()), "{one} {other}");
        }
    }
}
