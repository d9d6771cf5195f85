//! The JSON of a table of contents, one entry at a time.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::assemble::Assembler;
use super::stream::WHAT;
use crate::error::FormatError;

/// More extended attributes than any limit allows.
const XATTRS_MAX: usize = 4096;

/// An entry of a table of contents: `TOCEntry` of stargz-snapshotter's estargz/types.go, and `FileMetadata` of
/// containers/storage's pkg/chunked/internal/minimal/compression.go. What is not there is zero.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TocEntry {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) size: u64,
    #[serde(rename = "modtime")]
    pub(super) modified: Option<String>,
    pub(super) link_name: String,
    pub(super) mode: u64,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) dev_major: u64,
    pub(super) dev_minor: u64,
    pub(super) xattrs: Option<Xattrs>,
    /// Of the whole file.
    pub(super) digest: String,
    pub(super) offset: u64,
    pub(super) inner_offset: u64,
    /// Only in containers/storage's: where the data of the whole file ends in the blob.
    pub(super) end_offset: u64,
    pub(super) chunk_offset: u64,
    pub(super) chunk_size: u64,
    pub(super) chunk_digest: String,
    /// Only in containers/storage's: empty or `zeros`.
    pub(super) chunk_type: String,
}

/// Extended attributes; values are base64.
#[derive(Debug, Default)]
pub(super) struct Xattrs(pub(super) Vec<(Vec<u8>, Vec<u8>)>);

impl<'de> Deserialize<'de> for Xattrs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct XattrsVisitor;
        impl<'de> Visitor<'de> for XattrsVisitor {
            type Value = Xattrs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("extended attributes in base64")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Xattrs, A::Error> {
                let mut xattrs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
                    if xattrs.len() == XATTRS_MAX {
                        return Err(A::Error::custom("a file with too many extended attributes"));
                    }
                    let value = STANDARD
                        .decode(value.unwrap_or_default())
                        .map_err(|error| A::Error::custom(format!("no base64: {error}")))?;
                    xattrs.push((name.into_bytes(), value));
                }
                Ok(Xattrs(xattrs))
            }
        }
        deserializer.deserialize_map(XattrsVisitor)
    }
}

/// The table of contents as a whole, whose entries go to an assembler as they come.
pub(super) struct Toc<'a, 'l>(&'a mut Assembler<'l>);

impl Toc<'_, '_> {
    /// Parses all that `deserializer` has.
    pub(super) fn parse<'de, R: serde_json::de::Read<'de>>(
        deserializer: &mut serde_json::Deserializer<R>,
        assembler: &mut Assembler<'_>,
    ) -> Result<(), FormatError> {
        let parsed = deserializer
            .deserialize_map(Toc(assembler))
            .and_then(|()| deserializer.end());
        match (assembler.failure.take(), parsed) {
            (Some(failure), _) => Err(failure),
            (None, Err(error)) => Err(FormatError::malformed(WHAT, error.to_string())),
            (None, Ok(())) => Ok(()),
        }
    }
}

impl<'de> Visitor<'de> for Toc<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the list \"entries\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => {
                    let version: u64 = map.next_value()?;
                    if version != 1 {
                        return Err(A::Error::custom(format!(
                            "it has version {version}, and only 1 is known"
                        )));
                    }
                }
                "entries" if seen => return Err(A::Error::custom("it has two lists of entries")),
                "entries" => {
                    seen = true;
                    map.next_value_seed(Entries(self.0))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Entries<'a, 'l>(&'a mut Assembler<'l>);

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    /// Go writes `null` for an empty list.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element::<TocEntry>()? {
            if let Err(failure) = self.0.entry(entry) {
                self.0.failure = Some(failure);
                return Err(A::Error::custom("an entry makes no sense"));
            }
        }
        Ok(())
    }
}
