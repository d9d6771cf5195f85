//! Giving something to a registry: blobs, each in one piece, and manifests
//! (<https://github.com/opencontainers/distribution-spec>, "Push").

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use pontoon_layer::Digest;
use reqwest::StatusCode;

use super::endpoint::Endpoint;
use super::pusher::Pusher;
use super::upload::Upload;
use super::{Registry, tour};
use crate::error::{Error, Result};
use crate::reference::Reference;

/// How a blob came to where it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Present,
    /// The registry took it out of another repository.
    Mounted,
    /// It was sent.
    Sent,
}

/// What is given.
enum Gift<'a> {
    Blob(&'a Upload<'a>),
    Manifest {
        name: &'a str,
        media_type: &'a str,
        bytes: Bytes,
        digest: Digest,
    },
}

impl Registry {
    /// Sees to it that the repository of `reference` has a blob. What breaks off is tried again, from its beginning.
    ///
    /// It goes to the first host of the registry's `hosts.toml` that has the capability `push`, as in containerd.
    ///
    /// # Errors
    /// [`Error::Refused`] if nobody whom we know may push there, [`Error::Unreadable`] if the blob cannot be read, and
    /// whatever reading gives.
    pub async fn push_blob(&self, reference: &Reference, upload: &Upload<'_>) -> Result<Pushed> {
        let object = format!("blob {} of {}", upload.digest, repository(reference));
        self.give(reference, &object, &Gift::Blob(upload)).await
    }

    /// Stores a manifest or an index in the repository of `reference`, under a tag or its digest. What it names must be
    /// there.
    ///
    /// # Errors
    /// As [`Registry::push_blob`], and [`Error::Mismatch`] if the registry says that it has stored something else.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let object = format!("manifest {name} of {}", repository(reference));
        let gift = Gift::Manifest {
            name,
            media_type,
            bytes: Bytes::copy_from_slice(bytes),
            digest: Digest::of(bytes),
        };
        self.give(reference, &object, &gift).await.map(drop)
    }

    /// Gives something until it is there, or failed for good.
    async fn give(&self, reference: &Reference, object: &str, gift: &Gift<'_>) -> Result<Pushed> {
        let config = &self.shared.config;
        let mut round = 1;
        loop {
            let pusher = Pusher {
                registry: self,
                endpoint: self.taker(reference)?,
                reference,
                object,
            };
            let given = match gift {
                Gift::Blob(upload) => pusher.blob(upload).await,
                Gift::Manifest {
                    name,
                    media_type,
                    bytes,
                    digest,
                } => pusher.manifest(name, media_type, bytes, digest).await,
            };
            let error = match given {
                Ok(pushed) => return Ok(pushed),
                Err(error) => error,
            };
            self.shared.counters.failed(&error);
            let asked = error.retry_after().unwrap_or_default();
            if !error.is_transient() || round >= config.attempts || asked > config.backoff_max {
                return Err(of_push(error));
            }
            tracing::debug!(
                object,
                error = &error as &dyn std::error::Error,
                "a push failed"
            );
            tokio::time::sleep(tour::pause(config, round).max(asked)).await;
            self.shared.counters.retries.fetch_add(1, Ordering::Relaxed);
            round += 1;
        }
    }

    /// The first host that may be given something.
    fn taker(&self, reference: &Reference) -> Result<Arc<Endpoint>> {
        let endpoints = self.shared.book.endpoints(reference.host())?;
        let found = endpoints.iter().find(|one| one.settings.can_push);
        found.map(Arc::clone).ok_or_else(|| Error::Configuration {
            path: format!("hosts.toml of {}", reference.host()),
            reason: "no host in it has the capability `push`".to_owned(),
        })
    }
}

fn repository(reference: &Reference) -> String {
    format!("{}/{}", reference.host(), reference.repository())
}

/// An error in the words of who gives something.
fn of_push(error: Error) -> Error {
    match error {
        Error::Unauthorized {
            host,
            object,
            reason,
        } => Error::Refused {
            host,
            object: format!("the push of {object}"),
            status: StatusCode::UNAUTHORIZED.as_u16(),
            reason: format!("{reason}; log in to it as somebody who may push there"),
        },
        Error::Unavailable {
            host,
            object,
            reason,
            retry_after,
            source,
        } => Error::Unavailable {
            host,
            object: format!("an answer to the push of {object}"),
            reason,
            retry_after,
            source,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure;
    use super::*;

    #[test]
    fn errors_say_that_something_was_to_be_given() {
        let shown = |error| of_push(error).to_string();
        let unauthorized = Error::Unauthorized {
            host: "r.example".to_owned(),
            object: "blob x".to_owned(),
            reason: "no".to_owned(),
        };
        let text = shown(unauthorized);
        assert!(text.contains("refused the push of blob x"), "{text}");
        assert!(text.contains("who may push"), "{text}");
        let text = shown(failure::unavailable("r.example", "blob x", "it is tired"));
        assert!(
            text.contains("did not deliver an answer to the push of blob x"),
            "{text}"
        );
    }
}
