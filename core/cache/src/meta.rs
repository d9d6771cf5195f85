//! The file `meta`: what a cached layer is.

use std::collections::BTreeMap;
use std::fmt::Write;

use pontoon_layer::Digest;

use crate::Key;

/// The first line of every meta file.
const FIRST_LINE: &str = "pontoon-cached-layer 1";

/// The longest meta file, in bytes.
pub(crate) const META_BYTES_MAX: usize = 64 * 1024;

/// What its caller wants to know of a layer when it comes back after a restart, without its registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// The size of the layer's blob, in bytes.
    pub blob_bytes: u64,
    /// Whatever else, by names of lower-case letters, digits, dots and dashes. Values are one line. 32 KiB in all.
    pub notes: BTreeMap<String, String>,
}

impl Meta {
    /// Why this cannot be stored.
    pub(crate) fn flaw(&self) -> Option<String> {
        let named = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
        };
        for (name, value) in &self.notes {
            if !named(name) {
                return Some(format!(
                    "the note {name:?} needs a name of a-z, 0-9, dot and dash"
                ));
            }
            if value.chars().any(char::is_control) {
                return Some(format!("the note {name} is not one line"));
            }
        }
        let bytes: usize = self
            .notes
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        (bytes > META_BYTES_MAX / 2).then(|| format!("its notes have {bytes} bytes"))
    }
}

/// All that the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredMeta {
    pub(crate) key: Key,
    /// The digest of the file `chunks`.
    pub(crate) table: Digest,
    pub(crate) chunks: u64,
    pub(crate) data_size: u64,
    pub(crate) meta: Meta,
}

impl StoredMeta {
    /// Lines of a word and its value, and last the digest of the lines before.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "{FIRST_LINE}\nblob {}\ntoc {}\ntable {}\nchunks {}\ndata-size {}\nblob-size {}\n",
            self.key.blob,
            self.key.toc,
            self.table,
            self.chunks,
            self.data_size,
            self.meta.blob_bytes
        );
        for (name, value) in &self.meta.notes {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "note {name} {value}");
        }
        let _ = writeln!(text, "check {}", Digest::of(text.as_bytes()));
        text.into_bytes()
    }

    /// The reason, if it is not what [`StoredMeta::encode`] writes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
        let body = checked(text).ok_or("its check does not match")?;
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err("it is of another version".to_owned());
        }
        let mut field = |name: &str| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .ok_or_else(|| format!("it has no {name}"))
        };
        let digest = |text: &str| text.parse::<Digest>().map_err(|error| error.to_string());
        let number = |text: &str| text.parse::<u64>().map_err(|error| error.to_string());
        let key = Key::new(digest(field("blob")?)?, digest(field("toc")?)?);
        let table = digest(field("table")?)?;
        let chunks = number(field("chunks")?)?;
        let data_size = number(field("data-size")?)?;
        let blob_bytes = number(field("blob-size")?)?;
        let mut notes = BTreeMap::new();
        for line in lines {
            let note = line
                .strip_prefix("note ")
                .and_then(|note| note.split_once(' '));
            let (name, value) = note.ok_or("it has an unknown line")?;
            notes.insert(name.to_owned(), value.to_owned());
        }
        Ok(StoredMeta {
            key,
            table,
            chunks,
            data_size,
            meta: Meta { blob_bytes, notes },
        })
    }
}

/// The lines before the last one, if that is their digest.
pub(crate) fn checked(text: &str) -> Option<&str> {
    let body = text.strip_suffix('\n')?;
    let start = body.rfind('\n')? + 1;
    let check = text
        .get(start..)?
        .strip_prefix("check ")?
        .strip_suffix('\n')?;
    let body = text.get(..start)?;
    (check == Digest::of(body.as_bytes()).to_string()).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> StoredMeta {
        StoredMeta {
            key: Key::new(Digest::of(b"blob"), Digest::of(b"toc")),
            table: Digest::of(b"table"),
            chunks: 12,
            data_size: 49_152,
            meta: Meta {
                blob_bytes: 1 << 40,
                notes: BTreeMap::from([
                    ("landmark".to_owned(), "prefetch 4096".to_owned()),
                    ("empty".to_owned(), String::new()),
                ]),
            },
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = stored().encode();
        assert_eq!(StoredMeta::decode(&bytes), Ok(stored()));
    }

    #[test]
    fn no_changed_and_no_shortened_file_is_believed() {
        let bytes = stored().encode();
        for cut in 0..bytes.len() {
            assert!(StoredMeta::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            for flip in [0x01, 0x80] {
                let mut changed = bytes.clone();
                changed[cut] ^= flip;
                assert!(StoredMeta::decode(&changed).is_err(), "changed at {cut}");
            }
        }
    }

    #[test]
    fn a_note_that_would_not_come_back_is_refused() {
        let flaw = |name: &str, value: &str| {
            let notes = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            Meta {
                blob_bytes: 0,
                notes,
            }
            .flaw()
        };
        assert_eq!(flaw("a.b-1", "any thing"), None);
        assert!(flaw("", "x").is_some());
        assert!(flaw("a b", "x").is_some());
        assert!(flaw("a", "x\ny").is_some());
        assert!(flaw("a", &"x".repeat(META_BYTES_MAX)).is_some());
    }
}
