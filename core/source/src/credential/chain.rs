//! Sources one after the other, and one that always says the same.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::{CANDIDATES_MAX, Credential, Credentials};
use crate::blob::BoxFuture;
use crate::error::Result;
use crate::reference::Reference;

/// How long the others are waited for once a source knew something.
const GRACE: Duration = Duration::from_millis(500);

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

impl Chain {
    /// What each source answers. All are asked at once, and none is waited for much longer than one that knew
    /// something: a cluster that hangs must not hold up a login that lies on the disk.
    async fn ask(&self, host: &str, reference: &Reference) -> Vec<Option<Answer>> {
        let mut asked: Vec<Asked<'_>> = self
            .0
            .iter()
            .map(|source| Asked::Open(source.lookup(host, reference)))
            .collect();
        let mut grace: Option<Pin<Box<Sleep>>> = None;
        poll_fn(|context| {
            for one in &mut asked {
                if let Asked::Open(lookup) = one
                    && let Poll::Ready(answer) = lookup.as_mut().poll(context)
                {
                    *one = Asked::Answered(answer);
                }
            }
            let is_open = |one: &Asked<'_>| matches!(one, Asked::Open(_));
            let knows =
                |one: &Asked<'_>| matches!(one, Asked::Answered(Ok(found)) if !found.is_empty());
            if !asked.iter().any(is_open) {
                return Poll::Ready(());
            }
            if grace.is_none() && asked.iter().any(knows) {
                grace = Some(Box::pin(sleep(GRACE)));
            }
            match &mut grace {
                Some(grace) => grace.as_mut().poll(context),
                None => Poll::Pending,
            }
        })
        .await;
        let answer = |one| match one {
            Asked::Answered(answer) => Some(answer),
            Asked::Open(_) => None,
        };
        asked.into_iter().map(answer).collect()
    }
}

type Answer = Result<Vec<Credential>>;

enum Asked<'a> {
    Open(BoxFuture<'a, Answer>),
    Answered(Answer),
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
            for answer in self.ask(host, reference).await.into_iter().flatten() {
                match answer {
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
                            "a source of credentials failed; going on with the others"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[derive(Debug)]
    struct Hangs;

    impl Credentials for Hangs {
        fn lookup<'a>(&'a self, _: &'a str, _: &'a Reference) -> BoxFuture<'a, Answer> {
            Box::pin(std::future::pending())
        }
    }

    #[derive(Debug)]
    struct Fails;

    impl Credentials for Fails {
        fn lookup<'a>(&'a self, _: &'a str, _: &'a Reference) -> BoxFuture<'a, Answer> {
            Box::pin(async {
                Err(Error::Credentials {
                    from: "a test".to_owned(),
                    reason: "it fails".to_owned(),
                    transient: true,
                })
            })
        }
    }

    fn knows(name: &str) -> Arc<dyn Credentials> {
        let credential = Credential::password(name, "p", name);
        Arc::new(Fixed::new(vec![("r.example".to_owned(), credential)]))
    }

    #[tokio::test]
    async fn the_first_come_first_and_nobody_holds_up_the_others() {
        let image = Reference::parse("r.example/app").unwrap();
        let sources: [Arc<dyn Credentials>; 5] = [
            Arc::new(Hangs),
            knows("a"),
            Arc::new(Fails),
            knows("b"),
            knows("a"),
        ];
        let found = Chain::new(sources.into()).lookup("r.example", &image).await;
        let origins: Vec<String> = found.unwrap().into_iter().map(|one| one.origin).collect();
        assert_eq!(origins, ["a", "b"]);
        let failing = Chain::new(vec![Arc::new(Fails), Arc::new(crate::Anonymous)]);
        assert!(
            failing
                .lookup("r.example", &image)
                .await
                .unwrap_err()
                .is_transient()
        );
        let empty = Chain::new(Vec::new());
        assert_eq!(empty.lookup("r.example", &image).await.unwrap(), []);
    }
}
