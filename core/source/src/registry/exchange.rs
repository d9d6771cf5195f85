//! One request and its answer: shown who we are, redirects followed.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::Shared;
use super::auth::{Pass, Rights, Visit};
use super::endpoint::Endpoint;
use super::{body, challenge, failure};
use crate::credential::CANDIDATES_MAX;
use crate::error::Result;
use crate::hosts::authority;
use crate::reference::Reference;

/// More redirects than any registry needs.
const REDIRECTS_MAX: usize = 5;

/// Every credential, one pass that ended, one request to learn the scheme, one as nobody.
pub(super) const TRIES_MAX: usize = CANDIDATES_MAX + 3;

/// What is asked for, of whichever host.
pub(crate) struct Ask<'a> {
    pub(crate) reference: &'a Reference,
    /// For messages.
    pub(crate) object: &'a str,
    pub(crate) is_head: bool,
    /// The answer has a digest that is known before; what a tag stands for has not.
    pub(crate) is_verified: bool,
    /// Behind the repository.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

/// An answer that is no redirect.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Who gave it.
    pub(crate) host: String,
    /// Its URL, if another host gave it.
    pub(crate) elsewhere: Option<Url>,
}

impl Endpoint {
    /// Asks this host, as somebody if it wants that. An answer may be a refusal of any kind but for want of
    /// credentials.
    pub(crate) async fn ask(&self, shared: &Shared, ask: &Ask<'_>) -> Result<Answer> {
        if let Some(door) = &self.door {
            return self.ask_through(door, shared, ask).await;
        }
        let visit = Visit {
            shared,
            endpoint: self,
            reference: ask.reference,
            object: ask.object,
            rights: Rights::Pull,
        };
        let url = self.url(ask.reference, &ask.path);
        for _ in 0..TRIES_MAX {
            let pass = self.auth.pass(&visit).await?;
            let answer = self
                .follow(shared, ask, url.clone(), pass.as_deref())
                .await?;
            let status = answer.response.status();
            if answer.elsewhere.is_none() && !failure::is_passing(status) {
                self.heard();
            }
            let is_refused = status == StatusCode::UNAUTHORIZED
                // Said by some whose token server gives everybody a token, good for nothing.
                || status == StatusCode::FORBIDDEN && pass.is_some();
            if answer.elsewhere.is_some() || !is_refused {
                // Some say that there is nothing where they mean that one may not see it.
                let is_taken = status.is_success() || answer.elsewhere.is_some();
                if let Some(pass) = pass.as_deref().filter(|_| is_taken) {
                    self.auth.accepted(&visit, pass);
                }
                return Ok(answer);
            }
            let challenge = challenge::read(answer.response.headers());
            // Read to its end, the connection can be used again.
            let said = failure::said(&body::excerpt(answer.response).await);
            if pass.is_some() {
                shared.counters.failed(&visit.unauthorized(&said));
            }
            tracing::debug!(
                host = self.settings.host,
                object = ask.object,
                said,
                "credentials are wanted"
            );
            self.auth.refused(&visit, pass.as_ref(), challenge).await?;
        }
        Err(visit.unauthorized("it goes on asking for other credentials"))
    }

    /// Asks `url`, which another host gave, as nobody.
    pub(crate) async fn ask_elsewhere(
        &self,
        shared: &Shared,
        ask: &Ask<'_>,
        url: &Url,
    ) -> Result<Answer> {
        self.follow(shared, ask, url.clone(), None).await
    }

    /// Where `path` of the repository of `reference` is.
    pub(super) fn url(&self, reference: &Reference, path: &str) -> Url {
        let mut url = self.settings.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{}/{path}", reference.repository()));
        if self.settings.is_mirror {
            url.query_pairs_mut().append_pair("ns", reference.host());
        }
        url
    }

    pub(super) async fn follow(
        &self,
        shared: &Shared,
        ask: &Ask<'_>,
        mut url: Url,
        pass: Option<&Pass>,
    ) -> Result<Answer> {
        let started = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let host = authority(&url);
            let response = self.send(shared, ask, &url, pass).await?;
            let target = match response.status().is_redirection() {
                true => response.headers().get(LOCATION).cloned(),
                false => None,
            };
            let Some(target) = target else {
                let is_elsewhere = !self.owns(&url);
                return Ok(Answer {
                    response,
                    host,
                    elsewhere: is_elsewhere.then_some(url),
                });
            };
            let target = target
                .to_str()
                .ok()
                .and_then(|target| url.join(target).ok());
            let target = target.filter(|target| matches!(target.scheme(), "http" | "https"));
            url = target.ok_or_else(|| {
                failure::malformed(
                    &host,
                    ask.object,
                    "it redirects to something that is no URL",
                )
            })?;
            if started.scheme() == "https" && url.scheme() == "http" && !ask.is_verified {
                let reason = "it redirects from TLS to plain HTTP, where anybody could answer";
                return Err(failure::malformed(&host, ask.object, reason));
            }
            body::excerpt(response).await;
        }
        let host = authority(&started);
        Err(failure::malformed(
            &host,
            ask.object,
            "it redirects without end",
        ))
    }

    /// Credentials and headers that operators gave are for this host alone.
    async fn send(
        &self,
        shared: &Shared,
        ask: &Ask<'_>,
        url: &Url,
        pass: Option<&Pass>,
    ) -> Result<Response> {
        let mut headers = HeaderMap::new();
        if self.owns(url) {
            headers = self.headers.clone();
            if let Some(pass) = pass {
                headers.insert(AUTHORIZATION, pass.header.clone());
            }
        }
        for (name, value) in &ask.headers {
            headers.insert(name, value.clone());
        }
        // Ranges and digests are of what is stored.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let method = if ask.is_head {
            Method::HEAD
        } else {
            Method::GET
        };
        let request = self
            .client
            .to(url)
            .request(method, url.clone())
            .headers(headers);
        shared.counters.requests.fetch_add(1, Ordering::Relaxed);
        let host = authority(url);
        match tokio::time::timeout(self.answer_timeout, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failure::transport(&host, ask.object, error)),
            Err(_) => {
                let seconds = self.answer_timeout.as_secs_f32();
                let reason = format!("it did not answer for {seconds} s");
                Err(failure::unavailable(&host, ask.object, reason))
            }
        }
    }
}

impl Answer {
    /// This answer if it is a success, else what it means.
    pub(crate) async fn successful(self, object: &str) -> Result<Answer> {
        let status = self.response.status();
        if status.is_success() {
            return Ok(self);
        }
        let headers = self.response.headers().clone();
        let said = failure::said(&body::excerpt(self.response).await);
        if self.elsewhere.is_some() && matches!(status.as_u16(), 401 | 403) {
            let reason = format!(
                "the URL that the registry gave for it is refused ({}): {said}; its clock may be wrong",
                status.as_u16()
            );
            return Err(failure::unavailable(&self.host, object, reason));
        }
        Err(failure::status(&self.host, object, status, &headers, &said))
    }

    /// Its whole body, of at most `bytes_max`.
    pub(crate) async fn whole(
        self,
        shared: &Shared,
        object: &str,
        bytes_max: u64,
    ) -> Result<Bytes> {
        let stall = shared.config.stall_timeout;
        body::whole(self.response, &self.host, object, bytes_max, stall).await
    }
}
