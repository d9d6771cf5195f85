//! Tokens from token servers: <https://distribution.github.io/distribution/spec/auth/token/> and
//! <https://distribution.github.io/distribution/spec/auth/oauth/>.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;

use super::auth::Visit;
use super::body;
use super::failure;
use crate::credential::Secret;
use crate::error::Result;
use crate::hosts::authority;

/// Bytes of an answer.
const BYTES_MAX: u64 = 1 << 20;

/// What a token server does not say, as specified.
const LIFETIME: Duration = Duration::from_secs(60);

/// Longer is not believed.
const LIFETIME_MAX: f64 = 24.0 * 3600.0;

pub(crate) struct Request<'a> {
    pub(crate) realm: &'a Url,
    pub(crate) service: Option<&'a str>,
    pub(crate) scope: &'a str,
    pub(crate) secret: Option<&'a Secret>,
}

pub(crate) struct Token {
    pub(crate) value: String,
    pub(crate) lifetime: Duration,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// A token for what `asked` says.
pub(crate) async fn request(visit: &Visit<'_>, asked: &Request<'_>) -> Result<Token> {
    let host = authority(asked.realm);
    if asked.realm.scheme() == "http" && visit.endpoint.settings.base.scheme() == "https" {
        return Err(failure::malformed(
            &visit.endpoint.settings.host,
            visit.object,
            "it wants credentials to be sent to its token server without TLS, which we do not",
        ));
    }
    match asked.secret {
        Some(Secret::IdentityToken(token)) => {
            let grant = [("grant_type", "refresh_token"), ("refresh_token", token)];
            send(visit, &host, post(visit, asked, &grant)).await
        }
        Some(Secret::Password { username, password }) => {
            let request = get(visit, asked, Some(username)).basic_auth(username, Some(password));
            match send(visit, &host, request).await {
                // Some speak OAuth only.
                Err(crate::Error::NotFound { .. } | crate::Error::Refused { status: 405, .. }) => {
                    let grant = [
                        ("grant_type", "password"),
                        ("username", username),
                        ("password", password),
                    ];
                    send(visit, &host, post(visit, asked, &grant)).await
                }
                result => result,
            }
        }
        _ => send(visit, &host, get(visit, asked, None)).await,
    }
}

fn get(visit: &Visit<'_>, asked: &Request<'_>, account: Option<&str>) -> RequestBuilder {
    let mut url = asked.realm.clone();
    let scopes = asked.scope.split_ascii_whitespace();
    url.query_pairs_mut()
        .extend_pairs(asked.service.map(|service| ("service", service)))
        .extend_pairs(scopes.map(|scope| ("scope", scope)))
        .extend_pairs(account.map(|account| ("account", account)));
    builder(visit, Method::GET, url)
}

fn post(visit: &Visit<'_>, asked: &Request<'_>, grant: &[(&str, &str)]) -> RequestBuilder {
    // A query and a form are written the same way.
    let mut form = asked.realm.clone();
    form.query_pairs_mut()
        .clear()
        .extend_pairs(grant)
        .extend_pairs(asked.service.map(|service| ("service", service)))
        .append_pair("client_id", "pontoon")
        .append_pair("scope", asked.scope);
    let body = form.query().unwrap_or_default().to_owned();
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    builder(visit, Method::POST, asked.realm.clone())
        .header(CONTENT_TYPE, form_type)
        .body(body)
}

fn builder(visit: &Visit<'_>, method: Method, url: Url) -> RequestBuilder {
    let headers = match visit.endpoint.owns(&url) {
        true => visit.endpoint.headers.clone(),
        false => Default::default(),
    };
    visit
        .endpoint
        .client
        .to(&url)
        .request(method, url)
        .headers(headers)
}

async fn send(visit: &Visit<'_>, host: &str, request: RequestBuilder) -> Result<Token> {
    let counters = &visit.shared.counters;
    counters.requests.fetch_add(1, Ordering::Relaxed);
    counters.token_requests.fetch_add(1, Ordering::Relaxed);
    let object = format!("a token for {}", visit.object);
    let answer = tokio::time::timeout(visit.endpoint.answer_timeout, request.send()).await;
    let response = answer
        .map_err(|_| failure::unavailable(host, &object, "its token server does not answer"))?
        .map_err(|error| failure::transport(host, &object, error))?;
    let status = response.status();
    let headers = response.headers().clone();
    let stall = visit.shared.config.stall_timeout;
    let body = body::whole(response, host, &object, BYTES_MAX, stall).await?;
    if !status.is_success() {
        let said = failure::said(&body);
        // OAuth's word for a wrong password or refresh token.
        let status = match status {
            StatusCode::BAD_REQUEST => StatusCode::UNAUTHORIZED,
            status => status,
        };
        return Err(failure::status(host, &object, status, &headers, &said));
    }
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|error| failure::malformed(host, &object, error.to_string()))?;
    let token = answer.token.or(answer.access_token);
    let value = token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| failure::malformed(host, &object, "there is no token in it"))?;
    let lifetime = answer.expires_in.filter(|seconds| *seconds > 0.0);
    Ok(Token {
        value,
        lifetime: lifetime.map_or(LIFETIME, |seconds| {
            Duration::from_secs_f64(seconds.min(LIFETIME_MAX))
        }),
    })
}
