//! Which of the images of an index are wanted.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use pontoon_layer::Digest;
use serde_json::Value;

use crate::error::Error;

/// Machines that an image is for, in Go's words: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Architecture.
    pub architecture: String,
    /// Variant of the architecture. Without it, every one is meant.
    pub variant: Option<String>,
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_word = |word: &&str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
        };
        let words: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match words[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => ("", "", None),
        };
        if !words.iter().all(is_word) || os.is_empty() {
            return Err(Error::Option(format!(
                "{text:?} is no platform; write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64"
            )));
        }
        Ok(Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl Platform {
    /// What an entry of an index or a configuration says; `None` if it says nothing.
    pub(crate) fn of(value: &Value) -> Option<Platform> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Platform {
            os: text("os").filter(|os| !os.is_empty())?,
            architecture: text("architecture")?,
            variant: text("variant").filter(|variant| !variant.is_empty()),
        })
    }

    /// Whether an image for `other` is one for this.
    fn takes(&self, other: &Platform) -> bool {
        let variant = |platform: &Platform| {
            let usual = match platform.architecture.as_str() {
                "arm64" => "v8",
                "amd64" => "v1",
                _ => "",
            };
            platform.variant.clone().unwrap_or(usual.to_owned())
        };
        (&self.os, &self.architecture) == (&other.os, &other.architecture)
            && (self.variant.is_none() || variant(self) == variant(other))
    }
}

/// Which images of an index are wanted. The default is all that are there.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Those for any of these platforms; all if there are none.
    pub platforms: Vec<Platform>,
    /// Whether all that the index lists have to be there.
    pub complete: bool,
}

impl Selection {
    pub(crate) fn wants(&self, platform: &Platform) -> bool {
        self.platforms.is_empty() || self.platforms.iter().any(|wanted| wanted.takes(platform))
    }

    /// Whether what is wanted may be missing.
    pub(crate) fn is_lenient(&self) -> bool {
        self.platforms.is_empty() && !self.complete
    }
}

/// What became of a selection.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    /// Manifests and indexes that are not wanted, or not there.
    pub(crate) digests: HashSet<Digest>,
    /// What was not there.
    pub(crate) notes: Vec<String>,
    /// The platforms that were seen.
    pub(crate) platforms: Vec<Platform>,
}

impl LeftOut {
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn platforms_are_written_as_they_are_read() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64"] {
            assert_eq!(platform(text).to_string(), text);
        }
        for text in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "a/b/c/d",
            "linux/am d64",
            "linux//v7",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_variant_counts_if_it_is_asked_for() {
        for (wanted, there, is_taken) in [
            ("linux/arm", "linux/arm/v7", true),
            ("linux/arm/v7", "linux/arm/v6", false),
            ("linux/arm/v7", "linux/arm/v7", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64", "windows/amd64", false),
        ] {
            assert_eq!(
                platform(wanted).takes(&platform(there)),
                is_taken,
                "{wanted} {there}"
            );
        }
    }
}
