//! From a request to an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use hyper::header::{IF_RANGE, RANGE};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use pontoon_layer::{Digest, Verified};
use serde::Deserialize;
use tokio_stream::StreamExt;

use crate::answer::{self, Body, Head};
use crate::range;
use crate::request::{self, Refusal, Wanted};
use crate::server::Counters;
use crate::store::{Info, Store, Unavailable};

/// The largest manifest, in bytes: more no registry need take (distribution specification, "Pushing Manifests").
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// What a mirror has.
pub(crate) struct Library {
    pub(crate) here: Arc<dyn Store>,
    pub(crate) elsewhere: Option<Arc<dyn Store>>,
    pub(crate) registries: Vec<String>,
    pub(crate) counters: Arc<Counters>,
}

/// A blob, and who has it.
struct Found<'a> {
    store: &'a Arc<dyn Store>,
    info: Info,
}

impl Library {
    pub(crate) async fn answer(&self, request: &Parts) -> Response<Body> {
        let answer = match request::read(request) {
            Err(refusal) => Err(refusal),
            Ok(Wanted::Registry) => return answer::registry(),
            Ok(Wanted::Blob(digest)) => self.blob(request, &digest).await,
            Ok(Wanted::Manifest(digest)) => self.manifest(request, &digest).await,
            Ok(Wanted::Tag) => Err(Refusal {
                status: StatusCode::NOT_FOUND,
                code: "MANIFEST_UNKNOWN",
                message: "what a tag stands for is told by the registry only; ask it, or ask here by digest",
            }),
            Ok(Wanted::Other) => Err(Refusal {
                status: StatusCode::NOT_FOUND,
                code: "UNSUPPORTED",
                message: "blobs and manifests are here, by digest, and nothing else; ask the registry",
            }),
        };
        let counter = match answer
            .as_ref()
            .map_or_else(|refusal| refusal.status, Response::status)
        {
            status if status.is_success() => &self.counters.given,
            StatusCode::NOT_FOUND => &self.counters.absent,
            status if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED => {
                &self.counters.failed
            }
            _ => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answer.unwrap_or_else(|refusal| answer::refused(&refusal))
    }

    async fn blob(&self, request: &Parts, digest: &Digest) -> Result<Response<Body>, Refusal> {
        let found = self.find(request, digest).await?;
        let size = found.info.size;
        let part = match wanted_part(request, digest, size) {
            range::Wanted::Whole => None,
            range::Wanted::Part(range) => Some(range),
            range::Wanted::Nowhere => return Ok(answer::nowhere(digest, size)),
            range::Wanted::Several => {
                // stargz-snapshotter asks for one at a time after this.
                return Err(Refusal {
                    status: StatusCode::BAD_REQUEST,
                    code: "UNSUPPORTED",
                    message: "several ranges in one request are not answered; ask for one at a time",
                });
            }
        };
        let head = Head {
            digest,
            size,
            part,
            media_type: "application/octet-stream",
        };
        let range = head.range();
        if request.method == Method::HEAD || range.is_empty() {
            return Ok(head.with(answer::nothing()));
        }
        let bytes = found.store.read(digest, range).await.map_err(failed)?;
        let counters = Arc::clone(&self.counters);
        let body = answer::streamed(bytes, move |length| count(&counters.bytes, length));
        Ok(head.with(body))
    }

    async fn manifest(&self, request: &Parts, digest: &Digest) -> Result<Response<Body>, Refusal> {
        let unknown = || Refusal {
            status: StatusCode::NOT_FOUND,
            code: "MANIFEST_UNKNOWN",
            message: "this manifest is not here; ask the registry",
        };
        let found = self.find(request, digest).await.map_err(|refusal| {
            let is_absent = refusal.status == StatusCode::NOT_FOUND;
            if is_absent { unknown() } else { refusal }
        })?;
        let size = found.info.size;
        if size > MANIFEST_BYTES_MAX || size == 0 {
            return Err(unknown());
        }
        let bytes = self.document(&found, digest).await?;
        let media_type = media_type(&bytes).ok_or_else(unknown)?;
        let head = Head {
            digest,
            size,
            part: None,
            media_type,
        };
        if request.method == Method::HEAD {
            return Ok(head.with(answer::nothing()));
        }
        count(&self.counters.bytes, bytes.len());
        Ok(head.with(answer::whole(bytes.into_inner())))
    }

    /// All of a small blob, verified: its media type is read from it.
    async fn document(
        &self,
        found: &Found<'_>,
        digest: &Digest,
    ) -> Result<Verified<Bytes>, Refusal> {
        let size = found.info.size;
        let mut pieces = found.store.read(digest, 0..size).await.map_err(failed)?;
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            whole.extend_from_slice(&piece.map_err(failed)?);
            if whole.len() as u64 > size {
                break;
            }
        }
        Verified::check(whole.freeze(), digest).map_err(|damage| {
            tracing::warn!(
                expected = %damage.expected,
                actual = %damage.actual,
                "a manifest in containerd's content store is damaged; pull its image again"
            );
            Refusal {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                code: "MANIFEST_INVALID",
                message: "it is damaged here; ask the registry, and pull it again on this node",
            }
        })
    }

    async fn find(&self, request: &Parts, digest: &Digest) -> Result<Found<'_>, Refusal> {
        let may_be_passed_on = request::may_be_passed_on(&request.headers);
        let elsewhere = self.elsewhere.iter().filter(|_| may_be_passed_on);
        for store in std::iter::once(&self.here).chain(elsewhere) {
            let info = store.info(digest).await.map_err(failed)?;
            if let Some(info) = info.filter(|info| self.may_be_given(info)) {
                return Ok(Found { store, info });
            }
        }
        Err(Refusal {
            status: StatusCode::NOT_FOUND,
            code: "BLOB_UNKNOWN",
            message: "this blob is not here; ask the registry",
        })
    }

    fn may_be_given(&self, info: &Info) -> bool {
        let mut registries = info.registries.iter();
        self.registries.is_empty() || registries.any(|one| self.registries.contains(one))
    }
}

/// Which part a request wants of what is `size` bytes large.
fn wanted_part(request: &Parts, digest: &Digest, size: u64) -> range::Wanted {
    let Some(range) = request.headers.get(RANGE) else {
        return range::Wanted::Whole;
    };
    // Of another version than there is, all is wanted.
    if let Some(version) = request.headers.get(IF_RANGE)
        && version.as_bytes() != answer::etag(digest).as_bytes()
    {
        return range::Wanted::Whole;
    }
    match range.to_str() {
        Ok(text) => range::read(text, size),
        Err(_) => range::Wanted::Whole,
    }
}

/// What a manifest is, from itself: the store does not know. `None` if it is none.
fn media_type(bytes: &[u8]) -> Option<&'static str> {
    const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const KNOWN: [&str; 4] = [
        OCI_MANIFEST,
        OCI_INDEX,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ];
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        schema_version: u32,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let document: Document = serde_json::from_slice(bytes).ok()?;
    if document.schema_version != 2 {
        return None;
    }
    match document.media_type {
        Some(named) => KNOWN.into_iter().find(|known| *known == named),
        // OCI's may leave it out. One that is both is neither.
        None => match (document.manifests, document.layers) {
            (Some(_), None) => Some(OCI_INDEX),
            (None, Some(_)) => Some(OCI_MANIFEST),
            _ => None,
        },
    }
}

fn failed(error: Unavailable) -> Refusal {
    tracing::debug!(%error, "a request to the mirror failed");
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "UNKNOWN",
        message: "containerd does not give it; its log and Pontoon's say why; ask the registry meanwhile",
    }
}

fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_says_what_it_is() {
        for (text, expected) in [
            (
                r#"{"schemaVersion":2,"layers":[]}"#,
                Some("application/vnd.oci.image.manifest.v1+json"),
            ),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#,
                Some("application/vnd.oci.image.index.v1+json"),
            ),
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[]}"#,
                Some("application/vnd.docker.distribution.manifest.v2+json"),
            ),
            (r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#, None),
            (r#"{"schemaVersion":1,"layers":[]}"#, None),
            (
                r#"{"schemaVersion":2,"mediaType":"text/html","layers":[]}"#,
                None,
            ),
            (r#"{"architecture":"amd64"}"#, None),
            ("\u{1f}\u{8b}", None),
        ] {
            assert_eq!(media_type(text.as_bytes()), expected, "{text}");
        }
    }
}
