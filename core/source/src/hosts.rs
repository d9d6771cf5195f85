//! What operators say about hosts: containerd's `hosts.toml` and its directories.
//!
//! The form is that of containerd's `docs/hosts.md`. What it says and we do not know is logged and passed over.

mod file;

use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::error::{Error, Result};

/// Bytes of a hosts.toml or a PEM file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One place that may have what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Scheme, host and path up to and with `/v2`, no slash at its end.
    pub(crate) base: Url,
    /// Host and port as people write them.
    pub(crate) host: String,
    /// Whether it must be told whose repository is meant (`?ns=`), because it is not the registry itself.
    pub(crate) is_mirror: bool,
    /// Whether manifests and blobs may be fetched by digest.
    pub(crate) can_pull: bool,
    /// Whether it is believed what a tag stands for.
    pub(crate) can_resolve: bool,
    /// Whether it may be given something.
    pub(crate) can_push: bool,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) tls: TlsSettings,
    pub(crate) dial_timeout: Option<Duration>,
}

/// How the other side is known, and we to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct TlsSettings {
    /// Certificates that are trusted besides the system's.
    pub(crate) ca: Vec<Pem>,
    /// Our certificates and their keys.
    pub(crate) client: Vec<(Pem, Pem)>,
    pub(crate) skip_verify: bool,
}

impl TlsSettings {
    fn is_default(&self) -> bool {
        self.ca.is_empty() && self.client.is_empty() && !self.skip_verify
    }
}

/// The contents of a PEM file, kept to see when they change.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pem {
    /// Where it was read, for messages.
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

impl Pem {
    pub(crate) fn read(path: PathBuf) -> Result<Self> {
        let bytes = read(&path).map_err(|error| Error::Configuration {
            path: path.display().to_string(),
            reason: format!("it cannot be read: {error}"),
        })?;
        Ok(Pem { path, bytes })
    }
}

impl Hash for Pem {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// Where what lies at `host` may be fetched, best first: mirrors, then the registry itself.
pub(crate) fn load(directories: &[PathBuf], host: &str) -> Result<Vec<Settings>> {
    for directory in directories {
        for name in directory_names(host) {
            let directory = directory.join(name);
            if !directory.is_dir() {
                continue;
            }
            let path = directory.join("hosts.toml");
            return match read(&path) {
                Ok(bytes) => file::parse(&path, &bytes, host),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let tls = docker_certificates(&directory)?;
                    Ok(vec![registry_itself(host, tls)?])
                }
                Err(error) => Err(Error::Configuration {
                    path: path.display().to_string(),
                    reason: format!("it cannot be read: {error}"),
                }),
            };
        }
    }
    Ok(vec![registry_itself(host, TlsSettings::default())?])
}

/// The registry at `host` as it is found without a word about it.
fn registry_itself(host: &str, tls: TlsSettings) -> Result<Settings> {
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    // A registry on loopback is one for trying things out; who gives it a certificate says so somewhere.
    let is_plain = is_loopback(host) && !host.ends_with(":443") && has_port && tls.is_default();
    let scheme = if is_plain { "http" } else { "https" };
    let server = match host {
        "docker.io" => "registry-1.docker.io",
        host => host,
    };
    let base =
        Url::parse(&format!("{scheme}://{server}/v2")).map_err(|error| Error::Configuration {
            path: host.to_owned(),
            reason: format!("it is no host: {error}"),
        })?;
    Ok(Settings {
        host: authority(&base),
        base,
        is_mirror: false,
        can_pull: true,
        can_resolve: true,
        can_push: true,
        headers: Vec::new(),
        tls,
        dial_timeout: None,
    })
}

/// As in containerd: colons cannot stand in file names everywhere.
fn directory_names(host: &str) -> Vec<String> {
    let with_underscores = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit()))
        .map(|(name, port)| format!("{name}_{port}_"));
    let names = with_underscores.into_iter();
    names
        .chain([host.to_owned(), "_default".to_owned()])
        .collect()
}

/// Docker's form, which containerd reads where there is no hosts.toml: every `*.crt` is a CA, every `*.cert` a
/// certificate of ours whose key is in `*.key`.
fn docker_certificates(directory: &Path) -> Result<TlsSettings> {
    let unreadable = |error: io::Error| Error::Configuration {
        path: directory.display().to_string(),
        reason: format!("it cannot be read: {error}"),
    };
    let mut paths = fs::read_dir(directory)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(unreadable)?;
    paths.sort();
    let mut tls = TlsSettings::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(Pem::read(path)?),
            Some("cert") => {
                let key = Pem::read(path.with_extension("key"))?;
                tls.client.push((Pem::read(path)?, key));
            }
            _ => {}
        }
    }
    Ok(tls)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    match read as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other("it is larger than 1 MiB")),
        false => Ok(bytes),
    }
}

/// Whether `host`, with or without a port, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Host and port of `url` as people write them.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(settings: &[Settings]) -> Vec<&str> {
        settings.iter().map(|one| one.base.as_str()).collect()
    }

    #[test]
    fn a_host_is_known_without_a_file() {
        for (host, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("r.example", "https://r.example/v2"),
            ("r.example:5000", "https://r.example:5000/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.2:5000", "http://127.0.0.2:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost", "https://localhost/v2"),
            ("localhost:443", "https://localhost/v2"),
        ] {
            assert_eq!(bases(&load(&[], host).unwrap()), [base]);
        }
    }

    #[test]
    fn the_directory_of_a_host_comes_before_the_default() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::create_dir_all(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("hosts.toml"), text).unwrap();
        };
        put("_default", "[host.'https://default.example']");
        put("r.example:5000", "[host.'https://colon.example']");
        let directories = [root.path().join("absent"), root.path().to_owned()];
        let first = |host: &str| load(&directories, host).unwrap()[0].host.clone();
        assert_eq!(first("other.example"), "default.example");
        assert_eq!(first("r.example:5000"), "colon.example");
        put("r.example_5000_", "[host.'https://underscore.example']");
        assert_eq!(first("r.example:5000"), "underscore.example");
    }

    #[test]
    fn certificates_may_lie_as_docker_has_them() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("localhost:5000");
        fs::create_dir(&directory).unwrap();
        for name in ["ca.crt", "client.cert", "client.key", "README"] {
            fs::write(directory.join(name), name).unwrap();
        }
        let settings = load(&[root.path().to_owned()], "localhost:5000").unwrap();
        // Who gives certificates means TLS.
        assert_eq!(bases(&settings), ["https://localhost:5000/v2"]);
        assert_eq!(settings[0].tls.ca[0].bytes, b"ca.crt");
        assert_eq!(settings[0].tls.client[0].1.bytes, b"client.key");
        fs::remove_file(directory.join("client.key")).unwrap();
        let error = load(&[root.path().to_owned()], "localhost:5000").unwrap_err();
        assert!(error.to_string().contains("client.key"), "{error}");
    }
}
