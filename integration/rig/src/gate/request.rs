//! What a gate knows of the requests that came by.

use std::ops::Range;
use std::time::Instant;

use hyper::header::{AUTHORIZATION, RANGE};

/// Where redirected blobs are served from ([`Fault::Redirect`](super::Fault::Redirect)).
pub(super) const SIGNED: &str = "/signed/";

/// A request, as it came in.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its place in the order of arrival, from 0.
    pub number: usize,
    /// The connection it came over, from 0.
    pub connection: usize,
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query, empty if there is none.
    pub query: String,
    /// The host that the client asked for.
    pub host: String,
    /// The header `Range` as it was sent.
    pub range: Option<String>,
    /// The header `Authorization` as it was sent.
    pub authorization: Option<String>,
}

impl Request {
    pub(super) fn new<B>(number: usize, connection: usize, from: &hyper::Request<B>) -> Self {
        let text = |name| {
            let value = from.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let uri = from.uri();
        // HTTP/2 has the host in the URI.
        let authority = uri.authority().map(|a| a.as_str().to_owned());
        Self {
            number,
            connection,
            method: from.method().to_string(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            host: authority
                .or_else(|| text(hyper::header::HOST))
                .unwrap_or_default(),
            range: text(RANGE),
            authorization: text(AUTHORIZATION),
        }
    }

    /// Whether it asks for a token.
    pub fn is_token(&self) -> bool {
        self.path == super::TOKEN_PATH
    }

    /// Whether it asks for a manifest or an index.
    pub fn is_manifest(&self) -> bool {
        self.is_read() && self.path.contains("/manifests/")
    }

    /// Whether it asks for a blob or a part of one, at the registry or where the
    /// registry redirected to.
    pub fn is_blob(&self) -> bool {
        let upload = self.path.contains("/blobs/uploads/");
        let blob = self.path.contains("/blobs/") && !upload;
        self.is_read() && (blob || self.is_signed())
    }

    /// Whether it follows a redirection.
    pub fn is_signed(&self) -> bool {
        self.path.starts_with(SIGNED)
    }

    /// Whether it asks for this blob or this manifest.
    pub fn names(&self, digest: &str) -> bool {
        self.path.ends_with(digest)
    }

    /// The bytes of a blob that it asks for: the first, and one past the last where it
    /// says so. `None` if it asks for all, for a suffix, or for several ranges.
    pub fn bytes(&self) -> Option<(u64, Option<u64>)> {
        let range = self.range.as_deref()?.strip_prefix("bytes=")?;
        let (first, last) = range.split_once('-')?;
        let first = first.parse().ok()?;
        if last.is_empty() {
            return Some((first, None));
        }
        let last: u64 = last.parse().ok()?;
        Some((first, Some(last.checked_add(1)?)))
    }

    /// Whether it asks for any byte of `wanted` of a blob.
    pub fn overlaps(&self, wanted: &Range<u64>) -> bool {
        match (self.range.is_some(), self.bytes()) {
            (false, _) => true,
            (true, Some((first, end))) => {
                first < wanted.end && end.is_none_or(|end| end > wanted.start)
            }
            (true, None) => false,
        }
    }

    fn is_read(&self) -> bool {
        self.method == "GET" || self.method == "HEAD"
    }
}

/// A request and what became of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The request.
    pub request: Request,
    /// When it came in.
    pub arrived: Instant,
    /// The status that was answered, when one was.
    pub status: Option<u16>,
    /// How many bytes of the answer's body were handed to the client so far.
    pub bytes: u64,
    /// Whether the whole body was handed over.
    pub complete: bool,
}
