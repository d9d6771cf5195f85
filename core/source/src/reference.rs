//! Image references, as Docker and containerd write them.

use std::fmt;
use std::str::FromStr;

use pontoon_layer::Digest;

use crate::error::{Error, Result};

/// As in the distribution project's `reference` package: bytes of the repository without its host, once it is complete.
/// The host has a limit of ours.
const NAME_BYTES_MAX: usize = 255;

/// Bytes of a tag.
const TAG_BYTES_MAX: usize = 128;

/// The host of references that name none.
const DEFAULT_HOST: &str = "docker.io";

/// `host/repository[:tag][@digest]`. What Docker leaves out is filled in: `nginx` is
/// `docker.io/library/nginx:latest`.
///
/// The grammar is that of the distribution project's `reference` package.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference; [`Error::Reference`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |reason| Error::Reference {
            text: text.chars().take(NAME_BYTES_MAX).collect(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| wrong("what follows @ is no digest"))?;
                (rest, Some(digest))
            }
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if !tag.is_none_or(is_tag) {
            return Err(wrong("what follows : is no tag"));
        }
        let (host, repository) = split_host(name);
        if !is_host(host) {
            return Err(wrong("its host is no host name with an optional port"));
        }
        let repository = match host == DEFAULT_HOST && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        if host.len().max(repository.len()) > NAME_BYTES_MAX {
            return Err(wrong("its name is longer than 255 bytes"));
        }
        if !repository.split('/').all(is_component) {
            return Err(wrong(
                "its repository is not of lowercase letters and digits",
            ));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        Ok(Reference {
            host: host.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Registry with its port, if it is not the default one: `docker.io`, `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository without the host: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of a manifest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Reference::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Docker's rule: the first component is a host if it has a dot, a port or an uppercase letter, or is `localhost`.
fn split_host(name: &str) -> (&str, &str) {
    let (host, repository) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_HOST, name),
    };
    match host {
        "index.docker.io" => (DEFAULT_HOST, repository),
        host => (host, repository),
    }
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                None => return rest.is_empty(),
                Some(port) => return is_port(port),
            }
        }
        None => match text.split_once(':') {
            None => (text, None),
            Some((name, port)) => (name, Some(port)),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// Lowercase letters and digits, separated by `.`, `_`, `__` or dashes.
fn is_component(text: &str) -> bool {
    let is_alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends_well = |text: &str| {
        text.bytes().next().is_some_and(is_alphanumeric)
            && text.bytes().last().is_some_and(is_alphanumeric)
    };
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends_well(text)
        && separators
            .filter(|separator| !separator.is_empty())
            .all(|separator| {
                matches!(separator, "." | "_" | "__") || separator.bytes().all(|c| c == b'-')
            })
}

fn is_tag(text: &str) -> bool {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|c| is_word(c) || c == b'.' || c == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_docker_leaves_out_is_filled_in() {
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
            ("r.example/a/b-c__d.e:T_1", "r.example/a/b-c__d.e:T_1"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), full);
        }
        let pinned = format!("r.example/a@{SHA}");
        let reference = Reference::parse(&pinned).unwrap();
        assert_eq!(reference.to_string(), pinned);
        assert_eq!(reference.tag(), None);
        let both = format!("r.example/a:t@{SHA}");
        assert_eq!(Reference::parse(&both).unwrap().to_string(), both);
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "A",
            "a//b",
            "r.example/A",
            "r.example/../a",
            "r.example/a?x",
            "r.example/a:",
            "r.example/a:.t",
            "r.example/a@sha256:abc",
            "r.example:port/a",
            "r.example:99999/a",
            "-r.example/a",
            "r..example/a",
            "r.example/a___b",
            "user@r.example/a",
            "[::1/a",
            "[x]:1/a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_is_as_long_as_it_is_when_complete() {
        for (before, longest) in [("r.example/", 255), ("docker.io/", 247), ("", 247)] {
            let text = |length: usize| format!("{before}{}", "a".repeat(length));
            let reference = Reference::parse(&text(longest)).unwrap();
            assert_eq!(reference.repository().len(), NAME_BYTES_MAX);
            assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            assert!(Reference::parse(&text(longest + 1)).is_err(), "{before}");
        }
        assert!(Reference::parse(&format!("{}/a", "r.".repeat(128) + "r")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_written_so(text in "[a-zA-Z0-9.:/@_\\-\\[\\]]{0,60}", any in ".{0,60}") {
            for text in [&text, &any] {
                if let Ok(reference) = Reference::parse(text) {
                    proptest::prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                }
            }
        }
    }
}
