//! Docker's `config.json`, <https://docs.docker.com/reference/cli/docker/login/>: what `docker login` and
//! `nerdctl login` leave behind. Kubernetes' secrets have the same form.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::helper::Helpers;
use super::{Credential, Credentials, Secret, pattern};
use crate::blob::BoxFuture;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Bytes of a file.
const BYTES_MAX: u64 = 1 << 20;

/// Base64 as others write it, with padding or without.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Credentials from a Docker configuration file and the helpers that it names. The file is read at every lookup, so a
/// login takes effect at once.
#[derive(Debug)]
pub struct DockerConfig {
    path: PathBuf,
    helpers: Helpers,
}

#[derive(Deserialize, Default)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Deserialize)]
pub(super) struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(default, rename = "registrytoken")]
    registry_token: Option<String>,
}

impl DockerConfig {
    /// That in the file `path`. It need not exist.
    pub fn new(path: &Path) -> Self {
        DockerConfig {
            path: path.to_owned(),
            helpers: Helpers::default(),
        }
    }

    /// That of `$DOCKER_CONFIG` or `~/.docker`. `None` if neither variable is set, as in many units.
    pub fn of_environment() -> Option<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let directory = match set("DOCKER_CONFIG") {
            Some(directory) => PathBuf::from(directory),
            None => PathBuf::from(set("HOME")?).join(".docker"),
        };
        Some(DockerConfig::new(&directory.join("config.json")))
    }

    fn read(&self) -> Result<Document> {
        let origin = || format!("docker config {}", self.path.display());
        let wrong = |reason: String| Error::Credentials {
            from: origin(),
            reason,
            transient: false,
        };
        let mut bytes = Vec::new();
        let read = File::open(&self.path)
            .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Document::default()),
            Err(error) => Err(wrong(format!("it cannot be read: {error}"))),
            Ok(read) if read as u64 > BYTES_MAX => Err(wrong("it is larger than 1 MiB".to_owned())),
            Ok(_) => serde_json::from_slice(&bytes)
                .map_err(|error| wrong(format!("it is not as Docker writes it: {error}"))),
        }
    }

    async fn find(&self, host: &str, reference: &Reference) -> Result<Vec<Credential>> {
        let document = self.read()?;
        let mut found = Vec::new();
        let entries = document
            .helpers
            .iter()
            .map(|(key, helper)| (key.as_str(), (key, helper)));
        let server = pattern::server(host);
        let helper = match pattern::select(entries, host, reference).first() {
            Some((key, helper)) => Some((helper.as_str(), key.as_str())),
            None if document.store.is_empty() => None,
            None => Some((document.store.as_str(), server)),
        };
        let mut failure = None;
        if let Some((helper, server)) = helper {
            match self.helpers.get(helper, server).await {
                Ok(credential) => found.extend(credential),
                Err(error) => failure = Some(error),
            }
        }
        let origin = format!("docker config {}", self.path.display());
        let entries = document
            .auths
            .into_iter()
            .filter_map(|(key, entry)| Some((key, entry.credential(&origin)?)));
        found.extend(best(&entries.collect::<Vec<_>>(), host, reference));
        match failure {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }
}

/// Those of `entries` whose key fits.
pub(super) fn best(
    entries: &[(String, Credential)],
    host: &str,
    reference: &Reference,
) -> Vec<Credential> {
    let entries = entries
        .iter()
        .map(|(key, credential)| (key.as_str(), credential));
    let found = pattern::select(entries, host, reference);
    found.into_iter().cloned().collect()
}

/// The entries of a document in the form of `config.json`, keyed by what they are for.
pub(super) fn entries(bytes: &[u8], origin: &str) -> serde_json::Result<Vec<(String, Credential)>> {
    let document: Document = serde_json::from_slice(bytes)?;
    let entries = document.auths.into_iter();
    Ok(entries
        .filter_map(|(key, entry)| Some((key, entry.credential(origin)?)))
        .collect())
}

impl Entry {
    /// Empty entries are left by tools that keep the secret in a helper.
    fn credential(self, origin: &str) -> Option<Credential> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let secret = match (given(self.registry_token), given(self.identity_token)) {
            (Some(token), _) => Secret::RegistryToken(token),
            (None, Some(token)) => Secret::IdentityToken(token),
            (None, None) => match given(self.auth) {
                Some(auth) => password(&auth)?,
                None => Secret::Password {
                    username: given(self.username)?,
                    password: given(self.password)?,
                },
            },
        };
        Some(Credential {
            secret,
            origin: origin.to_owned(),
        })
    }
}

/// `user:password` in Base64.
pub(super) fn password(auth: &str) -> Option<Secret> {
    let text = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Secret::Password {
        username: username.to_owned(),
        // Old versions of Docker padded with zeros.
        password: password.trim_end_matches('\0').to_owned(),
    })
}

impl Credentials for DockerConfig {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Vec<Credential>>> {
        Box::pin(self.find(host, reference))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn find(config: &DockerConfig, image: &str) -> Vec<Secret> {
        let reference = Reference::parse(image).unwrap();
        let found = config.lookup(reference.host(), &reference).await.unwrap();
        found.into_iter().map(|one| one.secret).collect()
    }

    fn user(username: &str, password: &str) -> Secret {
        Credential::password(username, password, "").secret
    }

    #[tokio::test]
    async fn every_form_of_an_entry_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("config.json");
        let config = DockerConfig::new(&path);
        assert_eq!(find(&config, "nginx").await, []);
        let auth = BASE64.encode("hub:a:b");
        let unpadded = auth.trim_end_matches('=');
        fs::write(
            &path,
            format!(
                r#"{{"auths": {{
                    "https://index.docker.io/v1/": {{"auth": "{unpadded}"}},
                    "plain.example": {{"username": "u", "password": "p"}},
                    "id.example": {{"auth": "", "identitytoken": "i"}},
                    "token.example:5000": {{"registrytoken": "r"}},
                    "empty.example": {{}},
                    "broken.example": {{"auth": "!"}}
                }}, "HttpHeaders": {{}}}}"#
            ),
        )
        .unwrap();
        assert_eq!(find(&config, "nginx").await, [user("hub", "a:b")]);
        assert_eq!(find(&config, "plain.example/a").await, [user("u", "p")]);
        let identity = Secret::IdentityToken("i".to_owned());
        assert_eq!(find(&config, "id.example/a").await, [identity]);
        let token = Secret::RegistryToken("r".to_owned());
        assert_eq!(find(&config, "token.example:5000/a").await, [token]);
        assert_eq!(find(&config, "empty.example/a").await, []);
        assert_eq!(find(&config, "broken.example/a").await, []);
        fs::write(&path, "{").unwrap();
        let reference = Reference::parse("nginx").unwrap();
        let error = config.lookup("docker.io", &reference).await.unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }

    #[tokio::test]
    async fn helpers_are_asked_first() {
        let root = tempfile::tempdir().unwrap();
        let helper = root.path().join("helper");
        fs::write(
            &helper,
            "#!/bin/sh\nread server\necho \"{\\\"Username\\\":\\\"$server\\\",\\\"Secret\\\":\\\"s\\\"}\"\n",
        )
        .unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let path = root.path().join("config.json");
        fs::write(
            &path,
            r#"{"auths": {"r.example": {"username": "u", "password": "p"}},
                "credHelpers": {"r.example": "one"}, "credsStore": "all"}"#,
        )
        .unwrap();
        let mut config = DockerConfig::new(&path);
        config.helpers = Helpers::in_files([("one", helper.clone()), ("all", helper)]);
        let both = [user("r.example", "s"), user("u", "p")];
        assert_eq!(find(&config, "r.example/a").await, both);
        let hub = [user("https://index.docker.io/v1/", "s")];
        assert_eq!(find(&config, "nginx").await, hub);
    }
}
