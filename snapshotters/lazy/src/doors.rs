//! The two doors to others on this node: the dfdaemon that is asked, and the mirror that answers.

use std::net::SocketAddr;
use std::path::PathBuf;

use pontoon_daemon::Number;
use pontoon_daemon::config::{DeValue, Setting};
use pontoon_daemon::section;
use pontoon_mirror::{Counts, Mirror};
use pontoon_source::{Dragonfly, DragonflyAddress, DragonflyCredentials, DragonflyMode};

section! {
    /// A dfdaemon of Dragonfly that is asked for blobs before their registry is. What it does not give comes from the
    /// registry; manifests and tags always do. `docs/dragonfly-and-spegel.md` says what it gets to see.
    pub struct DragonflySection {
        /// Where its proxy listens, like `http://127.0.0.1:4001`. Empty: only a dfdaemon that a `hosts.toml` has, with the header
        /// `X-Dragonfly-Registry`, is asked.
        pub address: DragonflyAddressSetting = DragonflyAddressSetting(None),
        /// `mirror`: every registry, named in a header; `proxy`: by its URL, which for registries with TLS needs `ca`.
        pub mode: DragonflyModeSetting = DragonflyModeSetting(DragonflyMode::Mirror),
        /// What it gets to see besides tokens that anybody gets: `none`, so that images that are not public go past it; `tokens`,
        /// which are good for minutes and one repository; `all`, passwords too. What it has fetched, it gives to whoever asks.
        pub credentials: DragonflyCredentialsSetting = DragonflyCredentialsSetting(DragonflyCredentials::None),
        /// Have it fetch the whole of a layer when a part is wanted. It asks its peers for no part below 4 MiB otherwise.
        pub prefetch: bool = true,
        /// The certificate (PEM) of the CA with which it opens TLS, for `proxy`. Empty: registries with TLS go past it.
        pub ca: String = String::new(),
        /// Only these registries, by host and port. Empty: all.
        pub registries: Vec<String> = Vec::new(),
    }
}

section! {
    /// A mirror for other clients on this node: what containerd has pulled, by digest. It asks nobody, and knows no tags.
    /// `docs/dragonfly-and-spegel.md` says who can read what.
    pub struct MirrorSection {
        /// A loopback address and a port, like `127.0.0.1:4001`. Empty: none. Whoever can connect gets every blob whose digest
        /// he knows.
        pub listen: MirrorAddressSetting = MirrorAddressSetting(None),
        /// containerd's socket.
        pub containerd: PathBuf = PathBuf::from("/run/containerd/containerd.sock"),
        /// The namespace of containerd whose content is given: `k8s.io` is Kubernetes', `moby` Docker's.
        pub namespace: String = "k8s.io".to_owned(),
        /// Only what was pulled from these registries, by host without a port. Empty: all.
        pub registries: Vec<String> = Vec::new(),
    }
}

impl DragonflySection {
    /// What it means for the registry client.
    pub(crate) fn provider(&self) -> Dragonfly {
        Dragonfly {
            address: self.address.0.clone(),
            mode: self.mode.0,
            credentials: self.credentials.0,
            prefetch: self.prefetch,
            ca: Some(PathBuf::from(&self.ca)).filter(|_| !self.ca.is_empty()),
            registries: self.registries.clone(),
        }
    }
}

impl MirrorSection {
    /// The mirror, if there is to be one. Without it the daemon does all else that it does, so a failure is logged only.
    pub(crate) fn open(&self) -> Option<Mirror> {
        let config = pontoon_mirror::Config {
            listen: self.listen.0?,
            containerd: self.containerd.clone(),
            namespace: self.namespace.clone(),
            registries: self.registries.clone(),
        };
        match Mirror::start(&config) {
            Ok(mirror) => {
                tracing::info!(
                    address = %mirror.address(),
                    namespace = config.namespace,
                    "other clients on this node can read what containerd has"
                );
                Some(mirror)
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "there is no mirror for other clients; correct [mirror] and restart"
                );
                None
            }
        }
    }
}

/// What a mirror did, as metrics.
pub(crate) fn numbers(counts: Counts) -> Vec<Number> {
    let results = [
        ("given", counts.given),
        ("absent", counts.absent),
        ("refused", counts.refused),
        ("failed", counts.failed),
    ];
    vec![
        Number {
            label: Some("result"),
            samples: results
                .into_iter()
                .map(|(result, count)| (result.to_owned(), count))
                .collect(),
            ..Number::new(
                "mirror_requests",
                "Requests of other clients to the mirror, by what became of them",
                true,
                0,
            )
        },
        Number::new(
            "mirror_bytes",
            "Bytes that the mirror gave to other clients",
            true,
            counts.bytes,
        ),
    ]
}

/// The value of the word that stands there.
fn read_word<T: Copy>(words: &[(&str, T)], value: &DeValue<'_>) -> Option<T> {
    let word = value.as_str()?;
    let found = words.iter().find(|(known, _)| *known == word)?;
    Some(found.1)
}

/// The word of a value.
fn write_word<T: PartialEq>(words: &[(&str, T)], value: &T) -> String {
    let word = words.iter().find(|(_, known)| known == value);
    word.map_or_else(String::new, |(word, _)| format!("{word:?}"))
}

/// Where a dfdaemon listens.
#[derive(Debug, Clone, PartialEq)]
pub struct DragonflyAddressSetting(Option<DragonflyAddress>);

impl Setting for DragonflyAddressSetting {
    fn allowed() -> String {
        "\"\" (off), or a URL of the form http://HOST:PORT".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str()? {
            "" => Some(DragonflyAddressSetting(None)),
            url => {
                let address = DragonflyAddress::parse(url)?;
                Some(DragonflyAddressSetting(Some(address)))
            }
        }
    }

    fn write(&self) -> String {
        let url = self.0.as_ref().map_or("", DragonflyAddress::as_str);
        format!("{url:?}")
    }
}

/// How a dfdaemon is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DragonflyModeSetting(DragonflyMode);

impl DragonflyModeSetting {
    const WORDS: [(&'static str, DragonflyMode); 2] = [
        ("mirror", DragonflyMode::Mirror),
        ("proxy", DragonflyMode::Proxy),
    ];
}

impl Setting for DragonflyModeSetting {
    fn allowed() -> String {
        "\"mirror\" or \"proxy\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        read_word(&Self::WORDS, value).map(DragonflyModeSetting)
    }

    fn write(&self) -> String {
        write_word(&Self::WORDS, &self.0)
    }
}

/// What a dfdaemon gets to see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DragonflyCredentialsSetting(DragonflyCredentials);

impl DragonflyCredentialsSetting {
    const WORDS: [(&'static str, DragonflyCredentials); 3] = [
        ("none", DragonflyCredentials::None),
        ("tokens", DragonflyCredentials::Tokens),
        ("all", DragonflyCredentials::All),
    ];
}

impl Setting for DragonflyCredentialsSetting {
    fn allowed() -> String {
        "\"none\", \"tokens\" or \"all\"".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        read_word(&Self::WORDS, value).map(DragonflyCredentialsSetting)
    }

    fn write(&self) -> String {
        write_word(&Self::WORDS, &self.0)
    }
}

/// Where the mirror listens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MirrorAddressSetting(Option<SocketAddr>);

impl Setting for MirrorAddressSetting {
    fn allowed() -> String {
        "\"\" (off), or ADDRESS:PORT with a loopback address like 127.0.0.1".to_owned()
    }

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match value.as_str()? {
            "" => Some(MirrorAddressSetting(None)),
            address => {
                let address: SocketAddr = address.parse().ok()?;
                let is_loopback = address.ip().is_loopback();
                is_loopback.then_some(MirrorAddressSetting(Some(address)))
            }
        }
    }

    fn write(&self) -> String {
        let address = self.0.map(|address| address.to_string());
        format!("{:?}", address.unwrap_or_default())
    }
}
