//! A dfdaemon of Dragonfly, through which blobs may be fetched, as operators describe it.
//!
//! Its HTTP door is that of `dragonfly-client/src/proxy` in <https://github.com/dragonflyoss/client>, read as of August 2026.
//! What is sent through it, and what its answers mean, is in `registry/dfdaemon.rs`.

use std::path::PathBuf;

use reqwest::Url;

use crate::hosts::{Settings, TlsSettings, authority};

/// The header with which a dfdaemon is told whose content is meant, as a scheme and a host. A host in a hosts.toml that
/// has it is a dfdaemon.
pub(crate) const REGISTRY: &str = "X-Dragonfly-Registry";

/// A dfdaemon that is asked for blobs before the registry is. What it does not give comes from the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dragonfly {
    /// Where it listens: `http://127.0.0.1:4001`. `None`: only those that a hosts.toml names are used.
    pub address: Option<DragonflyAddress>,
    /// How it is asked.
    pub mode: DragonflyMode,
    /// Which credentials it gets to see.
    pub credentials: DragonflyCredentials,
    /// Whether it is told to fetch the whole of a blob of which a part is wanted. A dfdaemon since 1.4.1 fetches parts of
    /// up to 4 MiB from the registry itself, without its peers, unless it has them.
    pub prefetch: bool,
    /// The certificate with which it signs those that it shows in the name of registries, to read registries with TLS
    /// through it in [`DragonflyMode::Proxy`].
    pub ca: Option<PathBuf>,
    /// Registries whose blobs are asked of it, by host and port as in references. Empty: all.
    pub registries: Vec<String>,
}

impl Default for Dragonfly {
    fn default() -> Self {
        Dragonfly {
            address: None,
            mode: DragonflyMode::Mirror,
            credentials: DragonflyCredentials::None,
            prefetch: true,
            ca: None,
            registries: Vec::new(),
        }
    }
}

/// Where a dfdaemon listens: plain HTTP, a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DragonflyAddress(Url);

impl DragonflyAddress {
    /// Reads `http://HOST:PORT`; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        let is_plain = url.scheme() == "http" && url.has_host() && url.port().is_some();
        (is_bare && is_plain).then_some(DragonflyAddress(url))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> String {
        authority(&self.0)
    }
}

/// How a dfdaemon is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DragonflyMode {
    /// As a mirror: requests are its own, and a header says whose registry is meant. Takes every registry.
    Mirror,
    /// As an HTTP proxy: registries without TLS; those with TLS only if its CA is trusted.
    Proxy,
}

/// Which credentials a dfdaemon gets to see. Tokens that a registry gives to anybody always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DragonflyCredentials {
    /// None: what is not public goes past it.
    None,
    /// Tokens of the registry's token server, good for minutes and one repository.
    Tokens,
    /// Passwords and tokens without an end too.
    All,
}

impl Dragonfly {
    /// Whether it is to be asked for what lies at `registry`.
    pub(crate) fn names(&self, registry: &str) -> bool {
        self.registries.is_empty() || self.registries.iter().any(|one| one == registry)
    }

    /// Whether it can be asked for what lies at the place `registry`: as a proxy it would show a certificate of its own.
    pub(crate) fn opens(&self, registry: &Settings) -> bool {
        self.mode == DragonflyMode::Mirror || registry.base.scheme() == "http" || self.ca.is_some()
    }

    /// The place at which it stands in for `registry`. `None` without an address.
    pub(crate) fn place(&self, registry: &Settings) -> Option<Settings> {
        let address = self.address.as_ref()?;
        let mut place = Settings {
            host: format!("dfdaemon {}", address.authority()),
            can_resolve: false,
            can_push: false,
            // An operator gave those to the registry.
            headers: Vec::new(),
            ..registry.clone()
        };
        if self.mode == DragonflyMode::Mirror {
            let origin = registry.base.origin().ascii_serialization();
            place.headers = vec![(REGISTRY.to_owned(), origin)];
            place.base = address.0.clone();
            place.base.set_path(registry.base.path());
            place.tls = TlsSettings::default();
        }
        Some(place)
    }
}

/// The registry for which `settings` of a hosts.toml stand in, if they are a dfdaemon's.
pub(crate) fn registry_named(settings: &Settings) -> Option<Url> {
    let named = settings.headers.iter();
    let mut named = named.filter(|(name, _)| name.eq_ignore_ascii_case(REGISTRY));
    let (_, url) = named.next()?;
    Url::parse(url).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_a_host_and_a_port() {
        for good in [
            "http://127.0.0.1:4001",
            "http://[::1]:4001/",
            "http://seed.example:65001",
        ] {
            let address = DragonflyAddress::parse(good).unwrap();
            assert_eq!(address.as_str(), good.trim_end_matches('/'));
        }
        for bad in [
            "",
            "127.0.0.1:4001",
            "https://127.0.0.1:4001",
            "http://127.0.0.1",
            "http://user:secret@127.0.0.1:4001",
            "http://127.0.0.1:4001/v2",
            "http://127.0.0.1:4001?ns=a",
            "unix:/run/dfdaemon.sock",
        ] {
            assert_eq!(DragonflyAddress::parse(bad), None, "{bad}");
        }
    }
}
