//! What is kept with the snapshot of a lazy layer: all that it takes to bring it back after a restart.

use pontoon_cache::Key;
use pontoon_snapshot::{Error, Result, Usage};
use serde::{Deserialize, Serialize};

/// The form of a record. A daemon refuses those that it does not know.
const VERSION: u32 = 1;

/// A lazy layer, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The digest of its blob.
    blob: String,
    /// The digest of its table of contents.
    toc: String,
    /// The name of its tree.
    pub(crate) tree: String,
    /// The number of its directory below the mount.
    pub(crate) number: u32,
    /// The image that it was pulled with: where its bytes are.
    pub(crate) image: String,
    /// The size of its blob, in bytes.
    pub(crate) blob_bytes: u64,
    #[serde(flatten)]
    pub(crate) facts: Facts,
}

/// What is known of a layer once its table of contents was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// What it would take unpacked, in bytes.
    pub(crate) bytes: u64,
    /// Its inodes.
    pub(crate) inodes: u64,
    /// Bytes of all chunks.
    pub(crate) data_bytes: u64,
    /// Up to which offset of the blob its landmark asks for prefetch. 0: it asks for none; `None`: it does not say.
    pub(crate) landmark: Option<u64>,
}

impl Record {
    pub(crate) fn new(
        key: &Key,
        tree: &str,
        number: u32,
        image: &str,
        blob_bytes: u64,
        facts: Facts,
    ) -> Self {
        Record {
            version: VERSION,
            blob: key.blob.to_string(),
            toc: key.toc.to_string(),
            tree: tree.to_owned(),
            number,
            image: image.to_owned(),
            blob_bytes,
            facts,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // A struct of numbers and texts can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |reason: String| Error::Corrupt {
            what: "the record of a lazy layer".to_owned(),
            reason,
        };
        let record: Record =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        if record.version != VERSION {
            return Err(Error::Refused {
                what: "the record of a lazy layer".to_owned(),
                reason: format!(
                    "it has form {}, and this Pontoon knows {VERSION}; run the one that made it",
                    record.version
                ),
            });
        }
        record.checked_key().map_err(corrupt)?;
        // It becomes a file's name.
        if record.tree.is_empty() || !record.tree.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(corrupt(format!("{:?} is no tree", record.tree)));
        }
        Ok(record)
    }

    fn checked_key(&self) -> Result<Key, String> {
        let digest = |text: &str| text.parse().map_err(|error| format!("{text:?}: {error}"));
        Ok(Key::new(digest(&self.blob)?, digest(&self.toc)?))
    }

    /// Under which its data is cached.
    pub(crate) fn key(&self) -> Result<Key> {
        self.checked_key().map_err(|reason| Error::Corrupt {
            what: "the record of a lazy layer".to_owned(),
            reason,
        })
    }

    /// The digest of its blob, for people.
    pub(crate) fn blob(&self) -> &str {
        &self.blob
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            size_bytes: self.facts.bytes,
            inodes: self.facts.inodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_layer::Digest;
    use pontoon_snapshot::Class;

    fn record() -> Record {
        let facts = Facts {
            bytes: 4096,
            inodes: 3,
            data_bytes: 5,
            landmark: Some(0),
        };
        let key = Key::new(Digest::of(b"blob"), Digest::of(b"toc"));
        Record::new(&key, "0a1b", 7, "localhost:5000/a:1", 99, facts)
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = record();
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bytes in [&b""[..], b"{}", b"lazy-1", &[0xff]] {
            assert_eq!(Record::decode(bytes).unwrap_err().class(), Class::Corrupt);
        }
        let outside = Record {
            tree: "../../x".to_owned(),
            ..record()
        };
        let error = Record::decode(&outside.encode()).unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
        let newer = Record {
            version: VERSION + 1,
            ..record()
        };
        let error = Record::decode(&newer.encode()).unwrap_err();
        assert_eq!(error.class(), Class::FailedPrecondition);
    }
}
