//! Image pull secrets of a Kubernetes cluster: all secrets of type `kubernetes.io/dockerconfigjson` that we may list.
//!
//! Plain HTTPS requests; `kube` would bring a second HTTP client for two of them. Lists are looked at again when they
//! are old, and when they do not have what is asked for: a secret may have just been made.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::docker::{self, BASE64};
use super::kubeconfig::{self, Cluster, Login};
use super::{Credential, Credentials};
use crate::blob::BoxFuture;
use crate::error::{Error, Result};
use crate::hosts::{TlsSettings, authority};
use crate::reference::Reference;
use crate::registry::{Client, build, failure, whole};

/// Secrets of one page, its bytes, and pages.
const PAGE: u32 = 500;
const PAGE_BYTES_MAX: u64 = 64 << 20;
const PAGES_MAX: usize = 40;

/// How long listing may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A list that is younger is not read again only because something is not in it, and what failed not tried again.
const FRESH: Duration = Duration::from_secs(5);

/// Which secrets are used.
#[derive(Debug, Clone)]
pub struct KubernetesConfig {
    /// How to reach the API server; `None` in a pod, which is told.
    pub kubeconfig: Option<PathBuf>,
    /// Only secrets of this namespace; all that we may list without one.
    pub namespace: Option<String>,
    /// How old a list may be.
    pub poll_interval: Duration,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        KubernetesConfig {
            kubeconfig: None,
            namespace: None,
            poll_interval: Duration::from_secs(60),
        }
    }
}

/// Credentials from a cluster's image pull secrets.
#[derive(Debug)]
pub struct Kubernetes {
    config: KubernetesConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listed: Option<Instant>,
    /// When listing failed last in passing, and how.
    failed: Option<(Instant, Error)>,
    entries: Vec<(String, Credential)>,
    client: Option<(TlsSettings, Client)>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize, Default)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Item {
    metadata: ItemMetadata,
    #[serde(default)]
    data: Data,
}

#[derive(Deserialize)]
struct ItemMetadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize, Default)]
struct Data {
    #[serde(default, rename = ".dockerconfigjson")]
    config: String,
}

impl Kubernetes {
    /// Those that `config` says. Nothing is asked before the first lookup.
    pub fn new(config: KubernetesConfig) -> Self {
        Kubernetes {
            config,
            state: Mutex::default(),
        }
    }

    async fn find(&self, host: &str, reference: &Reference) -> Result<Vec<Credential>> {
        let mut state = self.state.lock().await;
        let age = state.listed.map(|listed| listed.elapsed());
        let found = docker::best(&state.entries, host, reference);
        let is_old = age.is_none_or(|age| age >= self.config.poll_interval);
        let may_be_new = found.is_empty() && age.is_none_or(|age| age >= FRESH);
        if !is_old && !may_be_new {
            return Ok(found);
        }
        let listed = self.list_seldom(&mut state).await;
        match listed {
            Ok(entries) => {
                state.entries = entries;
                state.listed = Some(Instant::now());
                Ok(docker::best(&state.entries, host, reference))
            }
            Err(error) if !found.is_empty() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "image pull secrets cannot be listed; using those of before"
                );
                Ok(found)
            }
            Err(error) => Err(Error::Credentials {
                from: "Kubernetes".to_owned(),
                reason: error.to_string(),
                transient: error.is_transient(),
            }),
        }
    }

    /// A server that is away is not waited for by everybody in turn.
    async fn list_seldom(&self, state: &mut State) -> Result<Vec<(String, Credential)>> {
        if let Some((at, error)) = &state.failed
            && at.elapsed() < FRESH
        {
            return Err(error.clone());
        }
        let listed = self.list(state).await;
        let passing = listed.as_ref().err().filter(|error| error.is_transient());
        state.failed = passing.map(|error| (Instant::now(), error.clone()));
        listed
    }

    async fn list(&self, state: &mut State) -> Result<Vec<(String, Credential)>> {
        let cluster = kubeconfig::read(self.config.kubeconfig.as_deref())?;
        let client = match &state.client {
            Some((tls, client)) if *tls == cluster.tls => client.clone(),
            _ => {
                let client = build(&cluster.tls, TIMEOUT)?;
                state.client = Some((cluster.tls.clone(), client.clone()));
                client
            }
        };
        let pages = self.pages(&cluster, &client);
        let host = authority(&cluster.server);
        match tokio::time::timeout(TIMEOUT, pages).await {
            Ok(entries) => entries,
            Err(_) => Err(failure::unavailable(
                &host,
                SECRETS,
                "it took longer than 10 s",
            )),
        }
    }

    async fn pages(&self, cluster: &Cluster, client: &Client) -> Result<Vec<(String, Credential)>> {
        let host = authority(&cluster.server);
        let mut entries = Vec::new();
        let mut next = String::new();
        for _ in 0..PAGES_MAX {
            let list = self.page(cluster, client, &host, &next).await?;
            for item in list.items {
                let origin = format!(
                    "Kubernetes secret {}/{}",
                    item.metadata.namespace, item.metadata.name
                );
                let decoded = BASE64.decode(item.data.config.as_bytes()).ok();
                match decoded.and_then(|bytes| docker::entries(&bytes, &origin).ok()) {
                    Some(more) => entries.extend(more),
                    None => tracing::debug!(origin, "this secret holds no docker config"),
                }
            }
            next = list.metadata.next;
            if next.is_empty() {
                break;
            }
        }
        Ok(entries)
    }

    async fn page(
        &self,
        cluster: &Cluster,
        client: &Client,
        host: &str,
        next: &str,
    ) -> Result<List> {
        let mut url = cluster.server.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&match &self.config.namespace {
            Some(namespace) => format!("{base}/api/v1/namespaces/{namespace}/secrets"),
            None => format!("{base}/api/v1/secrets"),
        });
        url.query_pairs_mut()
            .append_pair("fieldSelector", "type=kubernetes.io/dockerconfigjson")
            .append_pair("limit", &PAGE.to_string());
        if !next.is_empty() {
            url.query_pairs_mut().append_pair("continue", next);
        }
        let request = client.to(&url).get(url);
        let request = match &cluster.login {
            Login::Nothing => request,
            Login::Token(token) => request.bearer_auth(token),
            Login::Password { username, password } => request.basic_auth(username, Some(password)),
        };
        let response = request.send().await;
        let response = response.map_err(|error| failure::transport(host, SECRETS, error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = whole(response, host, SECRETS, PAGE_BYTES_MAX, TIMEOUT).await?;
        if !status.is_success() {
            let said = failure::said(&body);
            return Err(failure::status(host, SECRETS, status, &headers, &said));
        }
        serde_json::from_slice(&body)
            .map_err(|error| failure::malformed(host, SECRETS, error.to_string()))
    }
}

const SECRETS: &str = "the list of image pull secrets";

impl Credentials for Kubernetes {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Vec<Credential>>> {
        Box::pin(self.find(host, reference))
    }
}
