//! `hosts.toml` files: how containerd, its clients and the plugin are told to reach a
//! registry (containerd's docs/hosts.md).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Result};

/// One host of a `hosts.toml`.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// `http://address:port` or `https://...`.
    pub url: String,
    /// Certificates of the authorities to trust.
    pub ca: Vec<PathBuf>,
    /// A certificate to show, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether its certificate is taken unseen.
    pub skip_verify: bool,
    /// Whether the path of the URL stands for `/v2`.
    pub override_path: bool,
    /// More headers of every request.
    pub headers: Vec<(String, String)>,
    /// What it is good for: `pull`, `resolve`, `push`; empty is all.
    pub capabilities: Vec<String>,
}

impl Host {
    /// A host at `url`, with nothing special about it.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }
}

/// Writes `<dir>/<registry>/hosts.toml` with `mirrors`, the one to try first being the
/// first. `server` is the URL that is tried last; without it, it is
/// the registry's own.
pub fn write(dir: &Path, registry: &str, server: Option<&str>, mirrors: &[Host]) -> Result<()> {
    let own = dir.join(registry);
    fs::create_dir_all(&own).at("create", &own)?;
    let mut text = String::new();
    // Writing to a string cannot fail.
    if let Some(server) = server {
        let _ = writeln!(text, "server = \"{server}\"");
    }
    for host in mirrors {
        let _ = writeln!(text, "[host.\"{}\"]", host.url);
        let mut capabilities = host.capabilities.clone();
        if capabilities.is_empty() {
            capabilities = ["pull", "resolve", "push"].map(str::to_owned).to_vec();
        }
        let _ = writeln!(text, "capabilities = {capabilities:?}");
        if !host.ca.is_empty() {
            let _ = writeln!(text, "ca = {:?}", host.ca);
        }
        if let Some((certificate, key)) = &host.client {
            let _ = writeln!(text, "client = [[{certificate:?}, {key:?}]]");
        }
        for (set, key) in [
            (host.skip_verify, "skip_verify"),
            (host.override_path, "override_path"),
        ] {
            if set {
                let _ = writeln!(text, "{key} = true");
            }
        }
        if !host.headers.is_empty() {
            let _ = writeln!(text, "[host.\"{}\".header]", host.url);
            for (name, value) in &host.headers {
                let _ = writeln!(text, "{name} = {value:?}");
            }
        }
    }
    let path = own.join("hosts.toml");
    fs::write(&path, text).at("write", &path)
}
