//! Somebody who gives something to one host: the requests of a push, each as somebody if the host wants that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use pontoon_layer::Digest;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::auth::{Rights, Visit};
use super::endpoint::Endpoint;
use super::exchange::TRIES_MAX;
use super::push::Pushed;
use super::upload::{self, Upload};
use super::{Registry, body, challenge, failure};
use crate::error::{Error, Result};
use crate::hosts::authority;
use crate::reference::Reference;

/// Somebody who gives something to one host.
pub(super) struct Pusher<'a> {
    pub(super) registry: &'a Registry,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) reference: &'a Reference,
    pub(super) object: &'a str,
}

impl Pusher<'_> {
    /// Sees to it that a blob is there.
    pub(super) async fn blob(&self, upload: &Upload<'_>) -> Result<Pushed> {
        if self.has_blob(upload.digest).await? {
            return Ok(Pushed::Present);
        }
        let begin = self.url("blobs/uploads/");
        let mounted = match upload.from {
            Some(from) => self.mount(upload.digest, from).await?,
            None => None,
        };
        let begun = match mounted {
            Some(begun) => begun,
            None => {
                let begun = self.post(&begin, Rights::Push { from: None }).await?;
                self.successful(begun).await?
            }
        };
        if begun.status() == StatusCode::CREATED {
            return Ok(Pushed::Mounted);
        }
        let mut url = self.location(&begin, &begun)?;
        body::excerpt(begun).await;
        url.query_pairs_mut()
            .append_pair("digest", &upload.digest.to_string());
        let response = upload::put(self, &url, upload).await?;
        let response = self.successful(response).await.map_err(damaged)?;
        let status = response.status();
        body::excerpt(response).await;
        // What is merely accepted is not there yet.
        if status != StatusCode::CREATED && !self.has_blob(upload.digest).await? {
            let reason = format!("it answers {} and does not have it", status.as_u16());
            return Err(self.unavailable(reason));
        }
        (upload.sent)(upload.size);
        Ok(Pushed::Sent)
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let url = self.url(&format!("blobs/{digest}"));
        let make = |client: &reqwest::Client| client.request(Method::HEAD, url.clone());
        let response = self
            .send(&url, Rights::Push { from: None }, make, self.limit())
            .await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_redirection() => Ok(true),
            _ => self.successful(response).await.map(|_| true),
        }
    }

    /// Asks for a blob of another repository. What is answered is one that is there, or an upload that has begun; nothing if
    /// we may not.
    async fn mount(&self, digest: &Digest, from: &str) -> Result<Option<Response>> {
        let mut begin = self.url("blobs/uploads/");
        begin
            .query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let begun = match self.post(&begin, Rights::Push { from: Some(from) }).await {
            Ok(begun) => begun,
            // Who may push here may perhaps not read there.
            Err(Error::Unauthorized { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match begun.status() {
            status if status.is_success() => Ok(Some(begun)),
            status if failure::is_passing(status) => self.successful(begun).await.map(Some),
            _ => {
                body::excerpt(begun).await;
                Ok(None)
            }
        }
    }

    pub(super) async fn manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: &Bytes,
        digest: &Digest,
    ) -> Result<Pushed> {
        let url = self.url(&format!("manifests/{name}"));
        let make = |client: &reqwest::Client| {
            client
                .put(url.clone())
                .header(CONTENT_TYPE, media_type)
                .body(bytes.clone())
        };
        let rights = Rights::Push { from: None };
        let response = self.send(&url, rights, make, self.limit()).await?;
        let response = self.successful(response).await?;
        let named = response.headers().get("docker-content-digest");
        let named = named.and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        let named = named.filter(|named| named.algorithm() == digest.algorithm());
        body::excerpt(response).await;
        match named {
            Some(named) if named != *digest => {
                let host = &self.endpoint.settings.host;
                Err(failure::mismatch(host, self.object, digest, &named))
            }
            _ => Ok(Pushed::Sent),
        }
    }

    async fn post(&self, url: &Url, rights: Rights<'_>) -> Result<Response> {
        let make = |client: &reqwest::Client| client.post(url.clone());
        self.send(url, rights, make, self.limit()).await
    }

    fn url(&self, path: &str) -> Url {
        self.endpoint.url(self.reference, path)
    }

    fn limit(&self) -> Option<Duration> {
        Some(self.endpoint.answer_timeout)
    }

    /// Where an upload that has begun goes on.
    fn location(&self, begin: &Url, begun: &Response) -> Result<Url> {
        let host = &self.endpoint.settings.host;
        let malformed = |reason| failure::malformed(host, self.object, reason);
        let location = begun.headers().get(LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let location = location.filter(|location| !location.is_empty());
        let url = location.and_then(|location| begin.join(location).ok());
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let mut url =
            url.ok_or_else(|| malformed("it does not say where the upload is to go".to_owned()))?;
        if begin.scheme() == "https" && url.scheme() == "http" {
            // Behind a proxy that speaks TLS for them, some do not know their own scheme.
            let is_same = url.host_str() == begin.host_str()
                && (url.port().is_none() || url.port() == begin.port());
            let is_set =
                is_same && url.set_scheme("https").is_ok() && url.set_port(begin.port()).is_ok();
            if !is_set {
                return Err(malformed(format!(
                    "it wants the upload to go to {} without TLS; correct what it calls itself",
                    authority(&url)
                )));
            }
        }
        Ok(url)
    }

    /// Sends what `make` makes, as somebody if the host wants that. Another host gets neither credentials nor headers.
    pub(super) async fn send(
        &self,
        url: &Url,
        rights: Rights<'_>,
        make: impl Fn(&reqwest::Client) -> RequestBuilder + Send + Sync,
        limit: Option<Duration>,
    ) -> Result<Response> {
        let endpoint = &self.endpoint;
        let shared = &self.registry.shared;
        let visit = Visit {
            shared,
            endpoint,
            reference: self.reference,
            object: self.object,
            rights,
        };
        let is_ours = endpoint.owns(url);
        for _ in 0..TRIES_MAX {
            let mut headers = HeaderMap::new();
            let mut pass = None;
            if is_ours {
                headers = endpoint.headers.clone();
                pass = endpoint.auth.pass(&visit).await?;
            }
            if let Some(pass) = &pass {
                headers.insert(AUTHORIZATION, HeaderValue::clone(&pass.header));
            }
            let request = make(endpoint.client.to(url)).headers(headers);
            let response = self.answer(url, request, limit).await?;
            let status = response.status();
            let is_refused = status == StatusCode::UNAUTHORIZED
                || status == StatusCode::FORBIDDEN && pass.is_some();
            if !is_ours || !is_refused {
                // That it knows nothing of what we want to give it is what we wanted to hear.
                let is_taken = status.is_success() || status == StatusCode::NOT_FOUND;
                if let Some(pass) = pass.as_deref().filter(|_| is_taken) {
                    endpoint.auth.accepted(&visit, pass);
                }
                return Ok(response);
            }
            let challenge = challenge::read(response.headers());
            let said = failure::said(&body::excerpt(response).await);
            if pass.is_some() {
                shared.counters.failed(&visit.unauthorized(&said));
            }
            let refused = endpoint.auth.refused(&visit, pass.as_ref(), challenge);
            refused.await?;
        }
        Err(visit.unauthorized("it goes on asking for other credentials"))
    }

    async fn answer(
        &self,
        url: &Url,
        request: RequestBuilder,
        limit: Option<Duration>,
    ) -> Result<Response> {
        let counters = &self.registry.shared.counters;
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let host = authority(url);
        let sent = match limit {
            Some(limit) => tokio::time::timeout(limit, request.send()).await,
            None => Ok(request.send().await),
        };
        match sent {
            Ok(sent) => sent.map_err(|error| failure::transport(&host, self.object, error)),
            Err(_) => {
                let seconds = limit.unwrap_or_default().as_secs_f32();
                let reason = format!("it did not answer for {seconds} s");
                Err(failure::unavailable(&host, self.object, reason))
            }
        }
    }

    /// This answer if it is a success, else what it means.
    async fn successful(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let host = authority(response.url());
        let is_ours = self.endpoint.owns(response.url());
        let headers = response.headers().clone();
        let said = failure::said(&body::excerpt(response).await);
        let object = self.object;
        if !is_ours && matches!(status.as_u16(), 401 | 403) {
            // The registry gives a new one with the next try.
            let status = status.as_u16();
            let reason =
                format!("the URL that the registry gave for it is refused ({status}): {said}");
            return Err(failure::unavailable(&host, object, reason));
        }
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Err(Error::Refused {
                host,
                object: object.to_owned(),
                status: status.as_u16(),
                reason: format!("{said}; make the repository there, and look at its name"),
            });
        }
        Err(failure::status(&host, object, status, &headers, &said))
    }

    pub(super) fn unavailable(&self, reason: impl Into<String>) -> Error {
        failure::unavailable(&self.endpoint.settings.host, self.object, reason)
    }
}

/// What it means that a blob was refused that came as a whole.
fn damaged(error: Error) -> Error {
    match error {
        Error::Refused {
            host,
            object,
            status: 400,
            reason,
        } => Error::Refused {
            host,
            object,
            status: 400,
            reason: format!(
                "{reason}; if that is for its digest, it is damaged where it comes from"
            ),
        },
        other => other,
    }
}
