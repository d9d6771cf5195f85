//! A private registry on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::authority::{Authority, Identity};
use crate::error::{At, Error, Result};
use crate::http::{Response, request};
use crate::image::Layout;
use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::token::{ISSUER, SERVICE};
use crate::tools::Tool;

/// A running registry (a free port of 127.0.0.1).
#[derive(Debug)]
pub struct Registry {
    _process: Process,
    host: String,
    storage: PathBuf,
}

/// Whom a registry lets in.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Everybody.
    #[default]
    None,
    /// [`USER`](crate::token::USER), by basic authentication.
    Basic,
    /// Who has a token.
    Bearer {
        /// The URL where tokens are given out.
        realm: String,
        /// The certificate by which they are verified, as PEM.
        certificate: String,
    },
}

/// How a registry is reached.
#[derive(Debug, Default)]
pub struct Front<'a> {
    /// Whom it lets in.
    pub auth: Auth,
    /// HTTPS as this server; without it, plain HTTP.
    pub tls: Option<&'a Identity>,
    /// With TLS: it lets in only clients for whom this authority vouches.
    pub clients: Option<&'a Authority>,
}

/// [`USER`](crate::token::USER) and [`PASSWORD`](crate::token::PASSWORD) for htpasswd
/// (bcrypt, the only hash that the registry takes, at its lowest cost).
const HTPASSWD: &str = "pilot:$2b$04$VG9En/OJXMg9MV0/Aws/.ecfBKzJoWxZ2SytPE50CzAzr33LdcAli\n";

impl Registry {
    /// Starts a registry that keeps its blobs in the sandbox: plain HTTP, open to all.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        Self::open(
            sandbox,
            sandbox.subdir("registry")?,
            "registry",
            &Front::default(),
        )
    }

    /// Starts another registry on the same blobs: what is pushed to this one can be
    /// pulled from that one.
    pub fn front(&self, sandbox: &Sandbox, front: &Front<'_>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("registry-front-{number}");
        Self::open(sandbox, self.storage.clone(), &name, front)
    }

    fn open(sandbox: &Sandbox, storage: PathBuf, name: &str, front: &Front<'_>) -> Result<Self> {
        let config = sandbox.path(&format!("{name}.yml"));
        let text = configuration(sandbox, &storage, name, front)?;
        fs::write(&config, text).at("write", &config)?;
        let mut command = Command::new(Tool::Debian12.dir()?.join("docker-registry"));
        command
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none");
        let log = sandbox.path(&format!("{name}.log"));
        let mut process = Process::start("the registry", &mut command, &log)?;
        let host = process.wait_ready(Duration::from_secs(20), || {
            let text = fs::read_to_string(&log).ok()?;
            let rest = text.split("listening on 127.0.0.1:").nth(1)?;
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            Some(format!("127.0.0.1:{port}"))
        })?;
        Ok(Self {
            _process: process,
            host,
            storage,
        })
    }

    /// Its `address:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Uploads an image and returns its reference.
    pub fn push(&self, image: &Layout, name: &str, tag: &str) -> Result<String> {
        let (config, layers) = image.parts()?;
        for digest in layers.iter().chain([&config]) {
            self.push_blob(name, digest, &image.blob(digest)?)?;
        }
        self.push_manifest(name, tag, Layout::manifest_type(), &image.manifest()?)?;
        Ok(format!("{}/{name}:{tag}", self.host))
    }

    /// Uploads an index, such as [`buildkit`](crate::image::buildkit)'s, with all that it lists, and
    /// returns its reference.
    pub fn push_index(&self, image: &Layout, name: &str, tag: &str) -> Result<String> {
        let parsed = |bytes: &[u8]| {
            let value = serde_json::from_slice::<Value>(bytes);
            value.map_err(|error| Error::unexpected("a manifest", error.to_string()))
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bytes = image.manifest()?;
        let index = parsed(&bytes)?;
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let digest = text(&entry["digest"]);
            let manifest = image.blob(&digest)?;
            let parts = parsed(&manifest)?;
            let layers = parts["layers"].as_array().into_iter().flatten();
            for part in layers.chain([&parts["config"]]) {
                let digest = text(&part["digest"]);
                self.push_blob(name, &digest, &image.blob(&digest)?)?;
            }
            self.push_manifest(name, &digest, &text(&entry["mediaType"]), &manifest)?;
        }
        self.push_manifest(name, tag, &text(&index["mediaType"]), &bytes)?;
        Ok(format!("{}/{name}:{tag}", self.host))
    }

    fn push_manifest(&self, name: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let path = format!("/v2/{name}/manifests/{tag}");
        let kind = [("Content-Type", media_type)];
        let answer = request(&self.host, "PUT", &path, &kind, bytes)?;
        answer.expect("pushing a manifest", 201).map(drop)
    }

    /// A manifest or index by tag or digest, as the registry stores it.
    pub fn manifest(&self, name: &str, reference: &str) -> Result<Vec<u8>> {
        let path = format!("/v2/{name}/manifests/{reference}");
        let accept = "application/vnd.oci.image.index.v1+json, \
                      application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        let answer = request(&self.host, "GET", &path, &[("Accept", accept)], b"")?;
        Ok(answer.expect("fetching a manifest", 200)?.body)
    }

    /// A blob by digest, as the registry stores it.
    pub fn blob(&self, name: &str, digest: &str) -> Result<Vec<u8>> {
        let path = format!("/v2/{name}/blobs/{digest}");
        Ok(request(&self.host, "GET", &path, &[], b"")?
            .expect("fetching a blob", 200)?
            .body)
    }

    fn push_blob(&self, name: &str, digest: &str, data: &[u8]) -> Result<Response> {
        let begin = request(
            &self.host,
            "POST",
            &format!("/v2/{name}/blobs/uploads/"),
            &[],
            b"",
        )?;
        let begin = begin.expect("beginning an upload", 202)?;
        let location = begin.header("Location").unwrap_or_default();
        // The location may be absolute; only its path and query are ours to use.
        let path = location.find("/v2/").map(|at| &location[at..]);
        let path = path.ok_or_else(|| Error::unexpected("beginning an upload", location))?;
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={digest}");
        let kind = [("Content-Type", "application/octet-stream")];
        request(&self.host, "PUT", &path, &kind, data)?.expect("uploading a blob", 201)
    }
}

/// The configuration file; JSON is YAML.
fn configuration(
    sandbox: &Sandbox,
    storage: &Path,
    name: &str,
    front: &Front<'_>,
) -> Result<String> {
    let mut text = json!({
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": true}},
        "storage": {
            "filesystem": {"rootdirectory": storage},
            "delete": {"enabled": true},
        },
        "http": {"addr": "127.0.0.1:0"},
    });
    if let Some(identity) = front.tls {
        let (certificate, key) = identity.write(sandbox.dir(), name)?;
        text["http"]["tls"] = json!({"certificate": certificate, "key": key});
        if let Some(authority) = front.clients {
            let path = authority.write(&sandbox.path(&format!("{name}-clients.pem")))?;
            text["http"]["tls"]["clientcas"] = json!([path]);
        }
    }
    match &front.auth {
        Auth::None => {}
        Auth::Basic => {
            let path = sandbox.path(&format!("{name}.htpasswd"));
            fs::write(&path, HTPASSWD).at("write", &path)?;
            text["auth"]["htpasswd"] = json!({"realm": SERVICE, "path": path});
        }
        Auth::Bearer { realm, certificate } => {
            let path = sandbox.path(&format!("{name}-tokens.pem"));
            fs::write(&path, certificate).at("write", &path)?;
            text["auth"]["token"] = json!({
                "realm": realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": path,
            });
        }
    }
    Ok(text.to_string())
}
