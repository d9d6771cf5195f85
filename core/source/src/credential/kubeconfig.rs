//! How to reach a Kubernetes API server: a kubeconfig file
//! (<https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>), or what a pod is given.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use reqwest::Url;
use serde::Deserialize;

use super::docker::BASE64;
use crate::error::{Error, Result};
use crate::hosts::{Pem, TlsSettings};

/// Bytes of any of the files.
const BYTES_MAX: u64 = 1 << 20;

/// Where a pod finds who it is.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API server and who we are to it.
pub(super) struct Cluster {
    pub(super) server: Url,
    pub(super) tls: TlsSettings,
    pub(super) login: Login,
}

/// What is shown to it, besides a client certificate.
pub(super) enum Login {
    Nothing,
    Token(String),
    Password { username: String, password: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    #[serde(default)]
    clusters: Vec<Named<RawCluster>>,
    #[serde(default)]
    users: Vec<Named<RawUser>>,
    #[serde(default)]
    contexts: Vec<Named<RawContext>>,
    #[serde(default)]
    current_context: String,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    content: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawCluster {
    server: String,
    #[serde(default)]
    certificate_authority: Option<String>,
    #[serde(default)]
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawUser {
    #[serde(default)]
    client_certificate: Option<String>,
    #[serde(default)]
    client_certificate_data: Option<String>,
    #[serde(default)]
    client_key: Option<String>,
    #[serde(default)]
    client_key_data: Option<String>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default, rename = "tokenFile")]
    token_file: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    exec: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    auth_provider: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawContext {
    cluster: String,
    user: String,
}

/// Reads the file at every call: certificates and tokens are renewed in place.
pub(super) fn read(kubeconfig: Option<&Path>) -> Result<Cluster> {
    match kubeconfig {
        Some(path) => File { path }.cluster(),
        None => of_pod(),
    }
}

fn of_pod() -> Result<Cluster> {
    let account = Path::new(SERVICE_ACCOUNT);
    let file = File { path: account };
    let set = |name: &str| {
        env::var(name).map_err(|_| {
            file.wrong("we are in no pod; give the path of a kubeconfig in the configuration")
        })
    };
    let (host, port) = (
        set("KUBERNETES_SERVICE_HOST")?,
        set("KUBERNETES_SERVICE_PORT")?,
    );
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let server = Url::parse(&format!("https://{host}:{port}"))
        .map_err(|_| file.wrong("KUBERNETES_SERVICE_HOST and _PORT are no address"))?;
    let token = contents(&account.join("token"))?;
    Ok(Cluster {
        server,
        tls: TlsSettings {
            ca: vec![file.pem(&account.join("ca.crt"))?],
            ..TlsSettings::default()
        },
        login: Login::Token(file.text(token)?),
    })
}

struct File<'a> {
    path: &'a Path,
}

impl File<'_> {
    fn wrong(&self, reason: &str) -> Error {
        Error::Configuration {
            path: self.path.display().to_string(),
            reason: reason.to_owned(),
        }
    }

    fn cluster(&self) -> Result<Cluster> {
        let text = self.text(contents(self.path)?)?;
        let document: Document = serde_saphyr::from_str(&text)
            .map_err(|error| self.wrong(&format!("it is no kubeconfig: {error}")))?;
        let context = self.named(document.contexts, &document.current_context, "context")?;
        let cluster = self.named(document.clusters, &context.cluster, "cluster")?;
        let user = self.named(document.users, &context.user, "user")?;
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Err(self.wrong(
                "its user logs in by a plugin, which we do not run; use a token or a certificate",
            ));
        }
        let server = Url::parse(&cluster.server)
            .ok()
            .filter(|url| matches!(url.scheme(), "https" | "http"))
            .ok_or_else(|| self.wrong("`server` is no URL"))?;
        let ca = self.either(
            cluster.certificate_authority_data,
            cluster.certificate_authority,
        )?;
        let certificate = self.either(user.client_certificate_data, user.client_certificate)?;
        let key = self.either(user.client_key_data, user.client_key)?;
        let login = match (user.token, user.token_file, user.username, user.password) {
            (Some(token), ..) => Login::Token(token),
            (None, Some(file), ..) => Login::Token(self.text(contents(&self.relative(&file))?)?),
            (None, None, Some(username), Some(password)) => Login::Password { username, password },
            _ => Login::Nothing,
        };
        Ok(Cluster {
            server,
            tls: TlsSettings {
                ca: ca.into_iter().collect(),
                client: certificate.zip(key).into_iter().collect(),
                skip_verify: cluster.insecure_skip_tls_verify,
            },
            login,
        })
    }

    fn named<T>(&self, all: Vec<Named<T>>, name: &str, what: &str) -> Result<T> {
        let found = all.into_iter().find(|one| one.name == name);
        let found = found.ok_or_else(|| self.wrong(&format!("it has no {what} {name:?}")))?;
        Ok(found.content)
    }

    /// In the file itself, else in another one.
    fn either(&self, data: Option<String>, file: Option<String>) -> Result<Option<Pem>> {
        match (data, file) {
            (Some(data), _) => {
                let bytes = BASE64.decode(data.trim());
                let bytes = bytes.map_err(|_| self.wrong("a certificate or key is no Base64"))?;
                let path = self.path.to_owned();
                Ok(Some(Pem { path, bytes }))
            }
            (None, Some(file)) => self.pem(&self.relative(&file)).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn pem(&self, path: &Path) -> Result<Pem> {
        let bytes = contents(path)?;
        let path = path.to_owned();
        Ok(Pem { path, bytes })
    }

    fn text(&self, bytes: Vec<u8>) -> Result<String> {
        let text = String::from_utf8(bytes).map_err(|_| self.wrong("it is not UTF-8"))?;
        Ok(text.trim().to_owned())
    }

    fn relative(&self, name: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(name)
    }
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    let wrong = |reason: String| Error::Configuration {
        path: path.display().to_string(),
        reason,
    };
    let size = fs::metadata(path).map(|metadata| metadata.len());
    match size {
        Ok(size) if size > BYTES_MAX => Err(wrong("it is larger than 1 MiB".to_owned())),
        _ => fs::read(path).map_err(|error| wrong(format!("it cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Cluster> {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("key.pem"), "key").unwrap();
        fs::write(root.path().join("token"), "secret\n").unwrap();
        let path = root.path().join("config");
        fs::write(&path, text).unwrap();
        read(Some(&path))
    }

    const HEAD: &str = "
apiVersion: v1
kind: Config
preferences: {}
current-context: here
contexts:
- context: {cluster: c, user: u}
  name: here
- name: there
  context: {cluster: x, user: y, namespace: z}
clusters:
- name: c
  cluster:
    certificate-authority-data: Y2E=
    server: https://10.0.0.1:6443
";

    #[test]
    fn certificates_come_from_the_file_or_beside_it() {
        let user = "users:\n- name: u\n  user:\n    client-certificate-data: Y2VydA==\n    client-key: key.pem\n";
        let cluster = parse(&format!("{HEAD}{user}")).unwrap();
        assert_eq!(cluster.server.as_str(), "https://10.0.0.1:6443/");
        assert_eq!(cluster.tls.ca[0].bytes, b"ca");
        let (certificate, key) = &cluster.tls.client[0];
        assert_eq!(
            (certificate.bytes.as_slice(), key.bytes.as_slice()),
            (&b"cert"[..], &b"key"[..])
        );
    }

    #[test]
    fn tokens_come_from_the_file_or_beside_it() {
        for user in ["token: secret", "tokenFile: token"] {
            let cluster = parse(&format!("{HEAD}users:\n- name: u\n  user: {{{user}}}\n")).unwrap();
            assert!(matches!(cluster.login, Login::Token(token) if token == "secret"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        for (text, said) in [
            ("", "no context \"\""),
            ("a: [", "no kubeconfig"),
            ("current-context: x", "no context \"x\""),
            (HEAD, "no user \"u\""),
        ] {
            let error = parse(text).err().unwrap().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        let plugin = format!("{HEAD}users:\n- name: u\n  user: {{exec: {{command: aws}}}}\n");
        let error = parse(&plugin).err().unwrap().to_string();
        assert!(error.contains("plugin"), "{error}");
    }
}
