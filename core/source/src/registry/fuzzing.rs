//! What is read of strangers' words and cannot be reached alone, for the fuzz targets of `integration/fuzz`.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};

use super::challenge::Scheme;
use super::{challenge, failure, part};
use crate::error::Error;

/// What was read of an answer.
#[derive(Debug)]
pub struct Answer {
    /// Where the token server is, if one is to be asked.
    pub realm: Option<String>,
    /// For how long the host does not want to be asked.
    pub retry_after: Option<Duration>,
    /// First and last byte of what it sends.
    pub range: Option<(u64, u64)>,
    /// What it says about an error.
    pub said: String,
}

/// Reads an answer with these headers.
pub fn answer(status: u16, headers: &[(&str, &[u8])], body: &[u8]) -> Answer {
    let parsed = headers.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in parsed {
        headers.append(name, value);
    }
    let realm = challenge::read(&headers).and_then(|challenge| match challenge.scheme {
        Scheme::Bearer { realm, .. } => Some(realm.into()),
        Scheme::Basic => None,
    });
    let said = failure::said(body);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let retry_after = match failure::status("host", "object", status, &headers, &said) {
        Error::Unavailable { retry_after, .. } => retry_after,
        _ => None,
    };
    let mut response: Response = hyper::Response::new(Bytes::new()).into();
    *response.headers_mut() = headers;
    Answer {
        realm,
        retry_after,
        range: part::content_range(&response).and_then(|range| range.bytes),
        said,
    }
}

/// The URLs of what a `hosts.toml` in `directory` says of `host`.
pub fn hosts(directory: PathBuf, host: &str) -> Option<Vec<String>> {
    let settings = crate::hosts::load(&[directory], host).ok()?;
    Some(settings.into_iter().map(|one| one.base.into()).collect())
}
