//! Sources one after the other, and one that always says the same.

use std::sync::Arc;

use super::{CANDIDATES_MAX, Credential, Credentials};
use crate::blob::BoxFuture;
use crate::error::Result;
use crate::reference::Reference;

/// Several sources. What the first ones know is tried first, and what the others know if that is refused: one source
/// that is out of date does not hide a good one.
#[derive(Debug, Clone)]
pub struct Chain(Vec<Arc<dyn Credentials>>);

impl Chain {
    /// `sources` in the order of preference. What is remembered comes last.
    pub fn new(sources: Vec<Arc<dyn Credentials>>) -> Self {
        Chain(sources)
    }
}

impl Credentials for Chain {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Vec<Credential>>> {
        Box::pin(async move {
            let mut found: Vec<Credential> = Vec::new();
            let mut failure = None;
            for source in &self.0 {
                match source.lookup(host, reference).await {
                    Ok(more) => {
                        for credential in more {
                            if !found.iter().any(|known| known.secret == credential.secret) {
                                found.push(credential);
                            }
                        }
                    }
                    Err(error) => {
                        tracing::warn!(
                            host,
                            error = &error as &dyn std::error::Error,
                            "a source of credentials failed; asking the others"
                        );
                        failure = failure.or(Some(error));
                    }
                }
            }
            found.truncate(CANDIDATES_MAX);
            match failure {
                Some(error) if found.is_empty() => Err(error),
                _ => Ok(found),
            }
        })
    }

    fn accepted(&self, host: &str, reference: &Reference, credential: &Credential) {
        for source in &self.0 {
            source.accepted(host, reference, credential);
        }
    }
}

/// Credentials that stand in our own configuration, by host and optionally the beginning of a repository.
#[derive(Debug, Clone, Default)]
pub struct Fixed(Vec<(String, Credential)>);

impl Fixed {
    /// Pairs of what they are for, as keys of Docker's config: `registry.example`, `registry.example/team`.
    pub fn new(entries: Vec<(String, Credential)>) -> Self {
        Fixed(entries)
    }
}

impl Credentials for Fixed {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Vec<Credential>>> {
        let found = super::pattern::select(
            self.0
                .iter()
                .map(|(key, credential)| (key.as_str(), credential)),
            host,
            reference,
        );
        let found = found.into_iter().cloned().collect();
        Box::pin(async { Ok(found) })
    }
}
