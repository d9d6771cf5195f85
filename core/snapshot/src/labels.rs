//! Labels: their limits, the ones Pontoon knows, and how Update changes them.

use std::collections::BTreeMap;

use crate::Error;
use crate::key::abridged;

/// The most that one label's key and value may take together, in bytes: containerd's limit.
pub const LABEL_BYTES_MAX: usize = 4096;

/// The most that all labels of a snapshot may take together, in bytes. Ours: containerd sends about ten labels.
pub const LABELS_BYTES_MAX: usize = 256 * 1024;

/// The chain ID that an unpack will commit: set by containerd's unpacker on Prepare and Commit.
pub const LABEL_SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

/// The user namespace's uid mapping for a container's snapshot, `container:host:length` and commas.
pub const LABEL_UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";

/// The user namespace's gid mapping, in the form of [`LABEL_UID_MAPPING`].
pub const LABEL_GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";

/// A limit for the writable layer, in bytes.
pub const LABEL_MAX_SIZE: &str = "containerd.io/snapshot/max-size";

/// A snapshot's labels: keys that are not empty, each pair and the whole within the limits.
///
/// A label with an empty value is not kept: in containerd's stores an empty value deletes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks `pairs` against the limits; pairs with an empty value are left out.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let mut labels = BTreeMap::new();
        for (key, value) in pairs {
            check_pair(&key, &value)?;
            if !value.is_empty() {
                labels.insert(key, value);
            }
        }
        check_total(&labels)?;
        Ok(Labels(labels))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All pairs, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The pairs themselves, for a boundary that converts them.
    pub fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }

    /// Sets one label that this process makes up for an answer, over what is stored.
    pub fn with(mut self, key: &str, value: String) -> Self {
        self.0.insert(key.to_owned(), value);
        self
    }
}

/// What Update does to the labels, the only part of a snapshot that it may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelChange {
    /// These labels instead of those that are there.
    Replace(Labels),
    /// Each of these set (`Some`) or deleted (`None`, or an empty value); the others stay.
    Set(BTreeMap<String, Option<String>>),
}

impl LabelChange {
    /// Reads a field mask: no path, or `labels`, replaces all labels; `labels.KEY` takes over KEY alone, and an
    /// absent or empty value deletes it. Any other path names a field that cannot change.
    pub fn from_mask(
        paths: &[String],
        given: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let given: BTreeMap<String, String> = given.into_iter().collect();
        let mut set = BTreeMap::new();
        let mut replace = paths.is_empty();
        for path in paths {
            if path == "labels" {
                replace = true;
            } else if let Some(key) = path.strip_prefix("labels.") {
                let value = given.get(key).filter(|value| !value.is_empty()).cloned();
                check_pair(key, value.as_deref().unwrap_or_default())?;
                set.insert(key.to_owned(), value);
            } else {
                return Err(Error::ImmutableField {
                    field: abridged(path),
                });
            }
        }
        if replace {
            Ok(LabelChange::Replace(Labels::new(given)?))
        } else {
            Ok(LabelChange::Set(set))
        }
    }

    /// The labels after this change; refused if they would pass the limits.
    pub fn apply(self, current: &Labels) -> Result<Labels, Error> {
        match self {
            LabelChange::Replace(labels) => Ok(labels),
            LabelChange::Set(changes) => {
                let mut labels = current.0.clone();
                for (key, value) in changes {
                    match value {
                        Some(value) if !value.is_empty() => labels.insert(key, value),
                        _ => labels.remove(&key),
                    };
                }
                check_total(&labels)?;
                Ok(Labels(labels))
            }
        }
    }
}

fn check_pair(key: &str, value: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::invalid(
            "label \"\"",
            "its key is empty; give it a key",
        ));
    }
    if key.len() + value.len() > LABEL_BYTES_MAX {
        return Err(Error::invalid(
            format!("label {}", abridged(key)),
            "key and value are longer than 4096 bytes together; shorten the value",
        ));
    }
    Ok(())
}

fn check_total(labels: &BTreeMap<String, String>) -> Result<(), Error> {
    let total: usize = labels
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if total > LABELS_BYTES_MAX {
        return Err(Error::invalid(
            format!("{} labels", labels.len()),
            "they are longer than 256 KiB together; set fewer",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &[(&str, &str)]) -> Vec<(String, String)> {
        text.iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn the_limit_counts_key_and_value() {
        assert!(Labels::new(pairs(&[("k", &"v".repeat(4095))])).is_ok());
        assert!(Labels::new(pairs(&[("k", &"v".repeat(4096))])).is_err());
        assert!(Labels::new(pairs(&[("", "v")])).is_err());
        let many = (0..100).map(|i| (format!("k{i}"), "v".repeat(4000)));
        assert!(Labels::new(many).is_err());
    }

    #[test]
    fn a_mask_sets_deletes_and_replaces() {
        let current = Labels::new(pairs(&[("a", "1"), ("b", "2"), ("c", "3")])).unwrap();
        let check = |paths: &[&str], given: &[(&str, &str)], want: &[(&str, &str)]| {
            let paths: Vec<String> = paths.iter().map(|path| path.to_string()).collect();
            let change = LabelChange::from_mask(&paths, pairs(given)).unwrap();
            assert_eq!(
                change.apply(&current).unwrap(),
                Labels::new(pairs(want)).unwrap()
            );
        };
        check(
            &["labels.a", "labels.b"],
            &[("a", "9"), ("d", "4")],
            &[("a", "9"), ("c", "3")],
        );
        check(&["labels.a"], &[("a", "")], &[("b", "2"), ("c", "3")]);
        check(&["labels"], &[("d", "4")], &[("d", "4")]);
        check(&[], &[("d", "4")], &[("d", "4")]);
        check(&[], &[], &[]);
    }

    #[test]
    fn an_empty_value_deletes() {
        let current = Labels::new(pairs(&[("a", "1"), ("b", "2")])).unwrap();
        let change = LabelChange::Set([("a".to_owned(), Some(String::new()))].into());
        assert_eq!(
            change.apply(&current).unwrap(),
            Labels::new(pairs(&[("b", "2")])).unwrap()
        );
    }

    #[test]
    fn a_mask_of_any_other_field_is_refused() {
        for path in ["parent", "kind", "name", "labelsx", "created_at", ""] {
            let error = LabelChange::from_mask(&[path.to_string()], pairs(&[])).unwrap_err();
            assert_eq!(error.class(), crate::Class::Invalid, "{path}");
        }
    }
}
