//! What is kept with the snapshot of a lazy layer: all that it takes to bring it back after a restart.

use pontoon_cache::Key;
use pontoon_snapshot::{Error, Result, Usage};
use serde::{Deserialize, Serialize};

use crate::anywhere::Place;

/// The newest form of a record. A daemon refuses those that it does not know.
const VERSION: u32 = 2;
/// The form of a layer that has its bytes in its own blob.
const VERSION_OWN: u32 = 1;

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
    /// Where its bytes are, if not in its own blob. Form 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blobs: Vec<Place>,
    /// It has no files and is not mounted: its bytes belong to another layer. Form 2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    data: bool,
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
        blobs: Vec<Place>,
    ) -> Self {
        Record {
            version: match blobs.is_empty() {
                true => VERSION_OWN,
                false => VERSION,
            },
            blob: key.blob.to_string(),
            toc: key.toc.to_string(),
            tree: tree.to_owned(),
            number,
            image: image.to_owned(),
            blob_bytes,
            facts,
            blobs,
            data: false,
        }
    }

    /// The record of a layer that has nothing but bytes of another one.
    pub(crate) fn of_data(blob: &Place, image: &str) -> Vec<u8> {
        let record = Record {
            version: VERSION,
            blob: blob.digest.to_string(),
            toc: blob.digest.to_string(),
            tree: String::new(),
            number: 0,
            image: image.to_owned(),
            blob_bytes: blob.size,
            facts: Facts {
                bytes: 0,
                inodes: 0,
                data_bytes: 0,
                landmark: None,
            },
            blobs: Vec::new(),
            data: true,
        };
        record.encode()
    }

    /// Whether that is what these bytes are.
    pub(crate) fn is_data(bytes: &[u8]) -> bool {
        serde_json::from_slice(bytes).is_ok_and(|record: Record| record.data)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // A struct of numbers and texts can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `None` for a layer of which nothing is mounted.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        let corrupt = |reason: String| Error::Corrupt {
            what: "the record of a lazy layer".to_owned(),
            reason,
        };
        let record: Record =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        if !(VERSION_OWN..=VERSION).contains(&record.version) {
            return Err(Error::Refused {
                what: "the record of a lazy layer".to_owned(),
                reason: format!(
                    "it has form {}, and this Pontoon knows {VERSION}; run the one that made it",
                    record.version
                ),
            });
        }
        record.checked_key().map_err(corrupt)?;
        if record.data {
            return Ok(None);
        }
        // It becomes a file's name.
        if record.tree.is_empty() || !record.tree.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(corrupt(format!("{:?} is no tree", record.tree)));
        }
        Ok(Some(record))
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

    /// Where its bytes are.
    pub(crate) fn places(&self) -> Result<Vec<Place>> {
        if !self.blobs.is_empty() {
            return Ok(self.blobs.clone());
        }
        Ok(vec![Place {
            digest: self.key()?.blob,
            size: self.blob_bytes,
        }])
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
        Record::new(&key, "0a1b", 7, "localhost:5000/a:1", 99, facts, Vec::new())
    }

    fn place(name: &str) -> Place {
        Place {
            digest: Digest::of(name.as_bytes()),
            size: 7,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let own = record();
        let read = Record::decode(&own.encode()).unwrap().unwrap();
        assert_eq!(read, own);
        let (blob, size) = (Digest::of(b"blob"), 99);
        assert_eq!(read.places().unwrap(), [Place { digest: blob, size }]);
        let elsewhere = Record {
            version: 2,
            blobs: vec![place("a"), place("b")],
            ..record()
        };
        let read = Record::decode(&elsewhere.encode()).unwrap().unwrap();
        assert_eq!(read, elsewhere);
        assert_eq!(read.places().unwrap(), elsewhere.blobs);
        assert_eq!(
            Record::decode(&Record::of_data(&place("a"), "image")).unwrap(),
            None
        );
    }

    /// What an older daemon wrote, and what it makes of what this one writes.
    #[test]
    fn only_what_an_older_daemon_cannot_serve_has_another_form() {
        let old = br#"{"version":1,"blob":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","toc":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","tree":"0a","number":3,"image":"a","blob_bytes":9,"bytes":1,"inodes":2,"data_bytes":3,"landmark":null}"#;
        let record = Record::decode(old).unwrap().unwrap();
        assert_eq!(record.encode(), old);
        for newer in [
            Record::of_data(&place("a"), "image"),
            Record::new(
                &record.key().unwrap(),
                "0a",
                3,
                "a",
                9,
                record.facts,
                vec![place("a")],
            )
            .encode(),
        ] {
            let written: serde_json::Value = serde_json::from_slice(&newer).unwrap();
            assert_eq!(written["version"], 2);
            // It looks at the form once all that it knows is there.
            for name in serde_json::from_slice::<serde_json::Value>(old)
                .unwrap()
                .as_object()
                .unwrap()
                .keys()
            {
                assert!(written.get(name).is_some(), "{name}");
            }
        }
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
