//! Verifies the text of a table of contents, then parses it.

use std::io::{BufReader, Read};

use super::assemble::Assembler;
use super::entry::Toc;
use super::stream::{JsonStream, ShortStrings, WHAT};
use super::{TocDigest, TocKind};
use crate::digest::{Digest, Hasher};
use crate::error::FormatError;
use crate::limits::Limits;
use crate::verified::{DigestMismatch, Verified};

/// How much is inflated at a time.
const STEP_BYTES: usize = 64 << 10;

/// The JSON of a table of contents that is what it must be.
pub(super) enum Text<'a> {
    /// All of it.
    Held(Vec<u8>),
    /// Where it comes from: bytes that do not change.
    Packed(TocKind, &'a [u8], &'a Limits),
}

/// Verifies the table of contents `toc`.
pub(super) fn verify<'a>(
    kind: TocKind,
    toc: &'a [u8],
    expected: &TocDigest,
    limits: &'a Limits,
) -> Result<Text<'a>, FormatError> {
    check_packed(toc, limits)?;
    let expected = match expected {
        TocDigest::Json(digest) => Some(digest),
        TocDigest::Compressed(digest) => {
            Verified::check(toc, digest)?;
            None
        }
    };
    let mut json = JsonStream::open(kind, toc, limits)?;
    let mut hasher = expected.map(|digest| Hasher::new(digest.algorithm()));
    let mut held = Some(Vec::new());
    let mut step = vec![0; STEP_BYTES];
    while held.is_some() || hasher.is_some() {
        let read = json
            .read(&mut step)
            .map_err(|error| FormatError::malformed(WHAT, error.to_string()))?;
        if read == 0 {
            break;
        }
        let bytes = &step[..read];
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
        held = held.filter(|held| held.len() + bytes.len() <= limits.toc_held_bytes_max);
        if let Some(held) = &mut held {
            held.extend_from_slice(bytes);
        }
    }
    if let (Some(hasher), Some(expected)) = (hasher, expected) {
        require(&hasher.finish(), expected)?;
    }
    Ok(match held {
        Some(json) => Text::Held(json),
        None => Text::Packed(kind, toc, limits),
    })
}

/// Refuses a table that is too large before it is inflated.
pub(super) fn check_packed(toc: &[u8], limits: &Limits) -> Result<(), FormatError> {
    FormatError::check_limit(
        "the compressed size of the table of contents in bytes",
        toc.len() as u64,
        limits.toc_bytes_max,
    )
}

fn require(actual: &Digest, expected: &Digest) -> Result<(), DigestMismatch> {
    if actual == expected {
        return Ok(());
    }
    Err(DigestMismatch {
        expected: expected.clone(),
        actual: actual.clone(),
    })
}

impl Text<'_> {
    /// Gives `assembler` all entries, one after another.
    pub(super) fn parse(self, assembler: &mut Assembler<'_>) -> Result<(), FormatError> {
        match self {
            Text::Held(json) => {
                Toc::parse(&mut serde_json::Deserializer::from_slice(&json), assembler)
            }
            Text::Packed(kind, toc, limits) => {
                let json = JsonStream::open(kind, toc, limits)?;
                let json = ShortStrings::new(json, limits.string_bytes_max);
                let json = BufReader::with_capacity(STEP_BYTES, json);
                Toc::parse(&mut serde_json::Deserializer::from_reader(json), assembler)
            }
        }
    }
}
