//! A private registry on loopback.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::error::{At, Error, Result};
use crate::http::{Response, request};
use crate::image::Layout;
use crate::process::Process;
use crate::sandbox::Sandbox;
use crate::tools::Tool;

/// A running registry (plain HTTP, a free port of 127.0.0.1).
#[derive(Debug)]
pub struct Registry {
    _process: Process,
    host: String,
}

impl Registry {
    /// Starts a registry that keeps its blobs in the sandbox.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let dir = sandbox.subdir("registry")?;
        let config = sandbox.path("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             delete: {{enabled: true}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            dir.display()
        );
        fs::write(&config, text).at("write", &config)?;
        let mut command = Command::new(Tool::Debian12.dir()?.join("docker-registry"));
        command
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none");
        let log = sandbox.path("registry.log");
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
        let path = format!("/v2/{name}/manifests/{tag}");
        let kind = [("Content-Type", Layout::manifest_type())];
        let answer = request(&self.host, "PUT", &path, &kind, &image.manifest()?)?;
        answer.expect("pushing a manifest", 201)?;
        Ok(format!("{}/{name}:{tag}", self.host))
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
