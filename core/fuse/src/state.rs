//! The state of a layer as a file in it, as stargz-snapshotter has it (its `docs/overview.md`, "Filesystem state").

use pontoon_lazyfs::{LazyLayer, Status};
use serde_json::{Map, Value};

/// The directory, at the root of each layer. It is found by its name and not listed.
pub const STATE_DIRECTORY: &str = ".stargz-snapshotter";

pub(crate) const DIRECTORY_MODE: u16 = 0o500;
pub(crate) const FILE_MODE: u16 = 0o400;

/// The content has a multiple of this many bytes. Its length is what the kernel learns apart from the content, so it had
/// better not change in between.
const STEP: usize = 1024;

/// The name of the file.
pub(crate) fn file_name(layer: &LazyLayer) -> String {
    format!("{}.json", layer.digest())
}

/// What is in the file now.
pub(crate) fn content(layer: &LazyLayer) -> Vec<u8> {
    text(&layer.digest().to_string(), &layer.status()).into_bytes()
}

fn text(digest: &str, status: &Status) -> String {
    let fetched = match status.bytes {
        // A layer without data is complete.
        0 => status.blob_bytes.into(),
        bytes => u128::from(status.blob_bytes) * u128::from(status.local_bytes) / u128::from(bytes),
    };
    let mut fields = Map::new();
    if let Some(last) = &status.last_error {
        // Without its causes: containers read this, and those name hosts, secrets and what was tried.
        fields.insert("error".to_owned(), last.error.to_string().into());
        fields.insert("errorKind".to_owned(), last.error.kind().into());
    }
    fields.insert("digest".to_owned(), digest.into());
    fields.insert("size".to_owned(), status.blob_bytes.into());
    let fetched = u64::try_from(fetched).unwrap_or(u64::MAX);
    fields.insert("fetchedSize".to_owned(), fetched.into());
    fields.insert("fetchedPercent".to_owned(), status.percent.into());
    let mut text = Value::from(fields).to_string();
    let padding = (text.len() + 1).next_multiple_of(STEP) - text.len() - 1;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_lazyfs::{BackgroundState, Counted, LastError};

    #[test]
    fn the_file_tells_containers_nothing_about_the_node() {
        let refusal = pontoon_source::Error::Unauthorized {
            host: "registry.internal".to_owned(),
            object: "blob".to_owned(),
            reason: "with what Kubernetes secret kube-system/pull has, it says no".to_owned(),
        };
        let status = Status {
            last_error: Some(LastError {
                when: std::time::SystemTime::UNIX_EPOCH,
                error: pontoon_lazyfs::Error::Source {
                    layer: pontoon_layer::Digest::of(b""),
                    source: std::sync::Arc::new(refusal),
                },
            }),
            ..status()
        };
        let text = text("sha256:0", &status);
        assert!(text.contains("unauthorized") && text.contains("cannot be fetched"));
        for secret in ["kube-system", "registry.internal"] {
            assert!(!text.contains(secret), "{text}");
        }
    }

    fn status() -> Status {
        Status {
            bytes: 200,
            local_bytes: 50,
            percent: 25.0,
            blob_bytes: 100,
            background: BackgroundState::Idle,
            last_error: None,
            counted: Counted::default(),
        }
    }

    #[test]
    fn the_file_tells_what_is_here() {
        let status = status();
        let text = text("sha256:0", &status);
        assert_eq!(text.len(), STEP);
        let value: Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({"digest": "sha256:0", "size": 100, "fetchedSize": 25, "fetchedPercent": 25.0});
        assert_eq!(value, expected);
    }
}
