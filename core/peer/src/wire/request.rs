//! What is asked for, as a path.

use std::fmt;
use std::ops::Range;

use pontoon_cache::Key;

const START: &str = "/peer/v1/layers/";

/// The longest path: two SHA-512 and two numbers.
const BYTES_MAX: usize = 400;

/// A question of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Which chunks of the layer are there, if they are others than those of a generation.
    Have {
        /// The layer.
        key: Key,
        /// That generation.
        since: Option<u64>,
    },
    /// Some chunks, one after another; not none.
    Chunks {
        /// Of this layer.
        key: Key,
        /// Which ones.
        chunks: Range<usize>,
    },
}

impl Request {
    /// The question in path and query of an HTTP request. `None` if it is no question.
    pub fn parse(target: &str) -> Option<Request> {
        if target.len() > BYTES_MAX {
            return None;
        }
        let (layer, question) = target.strip_prefix(START)?.split_once('/')?;
        let (blob, toc) = layer.split_once('.')?;
        let key = Key::new(blob.parse().ok()?, toc.parse().ok()?);
        if let Some(query) = question.strip_prefix("have") {
            let since = match query {
                "" => None,
                query => Some(number(query.strip_prefix("?since=")?)?),
            };
            return Some(Request::Have { key, since });
        }
        let (first, last) = question.strip_prefix("chunks/")?.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let start = usize::try_from(first).ok()?;
        let end = usize::try_from(last).ok()?.checked_add(1)?;
        (start < end).then_some(Request::Chunks {
            key,
            chunks: start..end,
        })
    }
}

/// A number in digits, and nothing but digits.
fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Request::Have { key, .. } | Request::Chunks { key, .. }) = self;
        write!(f, "{START}{}.{}/", key.blob, key.toc)?;
        match self {
            Request::Have { since: None, .. } => f.write_str("have"),
            Request::Have {
                since: Some(generation),
                ..
            } => write!(f, "have?since={generation}"),
            Request::Chunks { chunks, .. } => {
                let last = chunks.end.saturating_sub(1);
                write!(f, "chunks/{}-{last}", chunks.start)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pontoon_layer::{Algorithm, Digest, Hasher};
    use proptest::prelude::*;

    use super::*;

    fn key() -> Key {
        let mut long = Hasher::new(Algorithm::Sha512);
        long.update(b"table");
        Key::new(Digest::of(b"blob"), long.finish())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(start in any::<u32>(), count in 1_u32..1000, since in any::<Option<u64>>()) {
            let chunks = start as usize..start as usize + count as usize;
            for request in [Request::Have { key: key(), since }, Request::Chunks { key: key(), chunks }] {
                prop_assert_eq!(Request::parse(&request.to_string()), Some(request));
            }
        }

        #[test]
        fn anything_else_is_no_question(text in "(/peer/v1/layers/)?[a-f0-9:./?=+-]{0,80}") {
            prop_assert_eq!(Request::parse(&text), None);
        }
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        let chunks = |text: &str| {
            Request::parse(&format!(
                "{START}{}.{}/chunks/{text}",
                key().blob,
                key().toc
            ))
        };
        assert!(chunks("3-3").is_some());
        for text in [
            "3-2",
            "3-",
            "-3",
            "+3-4",
            "3-+4",
            "3-4-5",
            " 3-4",
            "3-18446744073709551615",
            "3-99999999999999999999",
        ] {
            assert_eq!(chunks(text), None, "{text}");
        }
        let long = format!(
            "{START}{}.{}/have?since={}",
            key().blob,
            key().toc,
            "0".repeat(300)
        );
        assert_eq!(Request::parse(&long), None);
    }
}
