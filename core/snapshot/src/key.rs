//! Names that come from outside: keys of snapshots and names of snapshotters.

use std::fmt;

use crate::Error;

/// The longest key, in bytes. containerd's own are its namespace, a number and a client's key, about 200 bytes.
pub const KEY_BYTES_MAX: usize = 4096;

/// The longest snapshotter name, in bytes: containerd's limit for identifiers.
pub const NAME_BYTES_MAX: usize = 76;

/// The key of an active or view snapshot, or the name of a committed one.
///
/// Opaque text: never empty, at most [`KEY_BYTES_MAX`] bytes, no control characters. It may hold `/` and `..`;
/// nothing derives a path from it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Checks `text` against the limits of a key.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        let reason = if text.is_empty() {
            "it is empty; give the snapshot a key"
        } else if text.len() > KEY_BYTES_MAX {
            "it is longer than 4096 bytes; use a shorter one"
        } else if text.chars().any(char::is_control) {
            "it holds a control character; use printable text"
        } else {
            return Ok(Key(text));
        };
        Err(Error::invalid(format!("key {}", abridged(&text)), reason))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How this key was built: by containerd's metadata layer, or by a client of ours directly.
    pub fn style(&self) -> KeyStyle {
        let mut parts = self.0.splitn(3, '/');
        let namespace = parts.next().unwrap_or_default();
        let sequence = parts.next().unwrap_or_default();
        let rest = parts.next().unwrap_or_default();
        let numbered = !sequence.is_empty() && sequence.bytes().all(|b| b.is_ascii_digit());
        if is_identifier(namespace) && numbered && !rest.is_empty() {
            KeyStyle::Namespaced
        } else {
            KeyStyle::Raw
        }
    }

    /// The containerd namespace in a namespaced key (`<namespace>/<sequence>/<key>`).
    pub fn namespace(&self) -> Option<&str> {
        match self.style() {
            KeyStyle::Namespaced => self.0.split('/').next(),
            KeyStyle::Raw => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who made a key. One snapshotter name holds keys of one style only, because the two kinds of caller
/// collect each other's snapshots as garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStyle {
    /// `<namespace>/<sequence>/<key>`: containerd's metadata layer.
    Namespaced,
    /// Anything else: a direct client such as BuildKit's OCI worker.
    Raw,
}

impl fmt::Display for KeyStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyStyle::Namespaced => "containerd's (<namespace>/<number>/<key>)",
            KeyStyle::Raw => "raw",
        })
    }
}

/// The name under which containerd loads a snapshotter: `X` of `[proxy_plugins.X]`. One name, one keyspace.
///
/// containerd's grammar of identifiers: letters and digits, in parts joined by single `.`, `_` or `-`;
/// at most [`NAME_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotterName(String);

impl SnapshotterName {
    /// Checks `text` against the grammar of identifiers.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        if is_identifier(&text) {
            return Ok(SnapshotterName(text));
        }
        Err(Error::invalid(
            format!("snapshotter name {}", abridged(&text)),
            "use letters and digits, joined by single '.', '_' or '-', at most 76 bytes, as in [proxy_plugins.NAME]",
        ))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_identifier(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
        && text
            .split(['.', '_', '-'])
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// `text` quoted for a message, cut where a hostile client would flood the log.
pub(crate) fn abridged(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return format!("{text:?}");
    }
    let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{shown:?}… ({} bytes)", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_opaque_but_limited() {
        for good in [
            "a",
            "default/4/sha256:52",
            "../..",
            "/tmp/x",
            "extract-1-C sha256:1",
            "ключ",
        ] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        assert!(Key::new("k".repeat(KEY_BYTES_MAX)).is_ok());
        for bad in ["", "a\0b", "a\nb", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_style_tells_containerds_keys_from_raw_ones() {
        for namespaced in ["default/4/sha256:52", "k8s.io/12/a/b", "moby/1/x"] {
            assert_eq!(Key::new(namespaced).unwrap().style(), KeyStyle::Namespaced);
        }
        for raw in [
            "x",
            "/tmp/1/x",
            "a/b/c",
            "a/1",
            "a/1/",
            "a b/1/c",
            "sha256:5/2",
        ] {
            assert_eq!(Key::new(raw).unwrap().style(), KeyStyle::Raw, "{raw}");
        }
        assert_eq!(Key::new("k8s.io/1/x").unwrap().namespace(), Some("k8s.io"));
    }

    #[test]
    fn snapshotter_names_are_identifiers() {
        for good in ["overlayfs", "pontoon-overlayfs", "a.b_c-d", "X1"] {
            assert!(SnapshotterName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a/b",
            "..",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a\0",
            &"n".repeat(77),
        ] {
            assert!(SnapshotterName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn messages_do_not_repeat_huge_input() {
        let error = Key::new("k".repeat(10_000)).unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
    }
}
