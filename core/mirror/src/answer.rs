//! What is said.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue,
};
use hyper::http::response::Builder;
use hyper::{Response, StatusCode};
use pontoon_layer::Digest;
use tokio_stream::StreamExt;

use crate::request::Refusal;
use crate::store::Bytestream;

/// What is sent.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// A blob or a part of it: what its headers say, without its bytes.
pub(crate) struct Head<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
    /// `None` is all of it.
    pub(crate) part: Option<Range<u64>>,
    pub(crate) media_type: &'a str,
}

impl Head<'_> {
    /// How many bytes follow.
    pub(crate) fn range(&self) -> Range<u64> {
        self.part.clone().unwrap_or(0..self.size)
    }

    /// The answer with this head.
    pub(crate) fn with(&self, body: Body) -> Response<Body> {
        let range = self.range();
        let mut builder = named(self.digest)
            .header(CONTENT_TYPE, self.media_type)
            .header(CONTENT_LENGTH, range.end - range.start);
        if self.part.is_some() {
            let last = range.end.saturating_sub(1);
            builder = builder.status(StatusCode::PARTIAL_CONTENT).header(
                CONTENT_RANGE,
                format!("bytes {}-{last}/{}", range.start, self.size),
            );
        }
        finished(builder, body)
    }
}

/// What an ETag is made of.
pub(crate) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

fn named(digest: &Digest) -> Builder {
    Response::builder()
        .header(CONTENT_DIGEST, digest.to_string())
        .header(ETAG, etag(digest))
        .header(ACCEPT_RANGES, "bytes")
}

/// This is a registry.
pub(crate) fn registry() -> Response<Body> {
    let builder = Response::builder().header(CONTENT_TYPE, "application/json");
    finished(builder, whole(Bytes::from_static(b"{}")))
}

/// There are only `size` bytes.
pub(crate) fn nowhere(digest: &Digest, size: u64) -> Response<Body> {
    let builder = named(digest)
        .status(StatusCode::RANGE_NOT_SATISFIABLE)
        .header(CONTENT_RANGE, format!("bytes */{size}"));
    finished(builder, nothing())
}

/// An error in the form of the distribution specification, "Error Codes".
pub(crate) fn refused(refusal: &Refusal) -> Response<Body> {
    let text = serde_json::json!({
        "errors": [{ "code": refusal.code, "message": refusal.message }]
    });
    let mut builder = Response::builder()
        .status(refusal.status)
        .header(CONTENT_TYPE, "application/json");
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        builder = builder.header(ALLOW, "GET, HEAD");
    }
    finished(builder, whole(Bytes::from(text.to_string())))
}

/// No bytes.
pub(crate) fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// These bytes.
pub(crate) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Bytes as they come, each of which is told to `given`. An error breaks the connection, so that nobody takes what came for
/// all.
pub(crate) fn streamed(bytes: Bytestream, mut given: impl FnMut(usize) + Send + 'static) -> Body {
    let frames = bytes.map(move |piece| match piece {
        Ok(piece) => {
            given(piece.len());
            Ok(Frame::data(piece))
        }
        Err(error) => Err(io::Error::other(error)),
    });
    StreamBody::new(frames).boxed_unsync()
}

fn finished(builder: Builder, body: Body) -> Response<Body> {
    let response = builder.header(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response.body(body).unwrap_or_else(|_| {
        // No header here can be wrong: each is a number, a digest or one of our words.
        let mut response = Response::new(nothing());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
