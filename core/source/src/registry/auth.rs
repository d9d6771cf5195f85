//! Who we are to one host: a pass for every repository, made once for all who need it.
//!
//! A pass is kept while it is good and made again shortly before it ends. A host that refuses one is shown the next
//! credential that anybody knows, and nothing at all in the end: an old login must not hide a public image.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use tokio::sync::Mutex as AsyncMutex;

use super::Shared;
use super::challenge::{Challenge, Scheme};
use super::endpoint::Endpoint;
use super::token;
use crate::credential::{CANDIDATES_MAX, Credential, Secret};
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Passes that are kept per host: one for each repository and what is done there.
const SLOTS_MAX: usize = 4096;

/// For how long a host is not asked again whether it takes what it refused.
const REFUSAL_LIFETIME: Duration = Duration::from_secs(10);

/// How long all sources of credentials together may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);

/// Of a token's life, the part at its end in which it is not used any more, and how long that is at most.
const MARGIN: u32 = 5;
const MARGIN_MAX: Duration = Duration::from_secs(30);

/// What is known of a host's ways, and the passes for it.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// As the host said last; with it a new repository needs no refused request first.
    scheme: RwLock<Option<Scheme>>,
    /// By the scope that is asked for.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

/// What opens a repository for a while.
pub(crate) struct Pass {
    pub(crate) header: HeaderValue,
    /// `None` is for a token that anybody gets.
    credential: Option<Credential>,
    ends: Option<Instant>,
    /// Whether the host took it once.
    is_proven: AtomicBool,
}

impl Pass {
    /// Whether anybody gets one like it.
    pub(crate) fn is_anybodys(&self) -> bool {
        self.credential.is_none()
    }

    /// Whether it is good for a while only.
    pub(crate) fn ends(&self) -> bool {
        self.ends.is_some()
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass")
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Slot {
    current: RwLock<Option<Arc<Pass>>>,
    /// Held while a pass is made, so that only one is.
    renewal: AsyncMutex<Renewal>,
}

#[derive(Debug, Default)]
struct Renewal {
    scope: Option<String>,
    /// Secrets that were of no use, and why; `None` stands for none.
    refused: Vec<(Option<Secret>, String)>,
    failed: Option<(Instant, Error)>,
}

impl Slot {
    fn current(&self) -> Option<Arc<Pass>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current
            .as_ref()
            .filter(|pass| pass.ends.is_none_or(|ends| Instant::now() < ends))
            .cloned()
    }

    fn put(&self, pass: Option<Arc<Pass>>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = pass;
    }
}

impl Auth {
    /// What to show, as far as is known: nothing before the host has asked for something.
    pub(crate) async fn pass(&self, visit: &Visit<'_>) -> Result<Option<Arc<Pass>>> {
        let slot = self.slot(&visit.own_scope());
        if let Some(pass) = slot.current() {
            return Ok(Some(pass));
        }
        let scheme = self
            .scheme
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match scheme {
            None => Ok(None),
            Some(scheme) => visit.renew(&slot, &scheme, None, None).await,
        }
    }

    /// The host took `pass`.
    pub(crate) fn accepted(&self, visit: &Visit<'_>, pass: &Pass) {
        if pass.is_proven.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(credential) = &pass.credential {
            let credentials = &visit.shared.credentials;
            credentials.accepted(&visit.endpoint.settings.host, visit.reference, credential);
        }
    }

    /// The host refused `used`, or that nothing was shown. `Ok` if there is something else to show now.
    pub(crate) async fn refused(
        &self,
        visit: &Visit<'_>,
        used: Option<&Arc<Pass>>,
        challenge: Option<Challenge>,
    ) -> Result<()> {
        let mut scheme = self
            .scheme
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut scope = None;
        if let Some(challenge) = challenge {
            scheme = Some(challenge.scheme.clone());
            scope = challenge.scope;
            *self.scheme.write().unwrap_or_else(PoisonError::into_inner) = Some(challenge.scheme);
        }
        let Some(scheme) = scheme else {
            return Err(visit.unauthorized("it refuses, and does not say how to log in"));
        };
        let slot = self.slot(&visit.own_scope());
        match visit.renew(&slot, &scheme, scope, used).await? {
            Some(_) => Ok(()),
            None => Err(visit.unauthorized("there are no credentials for it")),
        }
    }

    fn slot(&self, scope: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(scope) {
            return Arc::clone(slot);
        }
        if slots.len() >= SLOTS_MAX {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(scope.to_owned()).or_default())
    }
}

/// What somebody wants to do in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights<'a> {
    /// Reading.
    Pull,
    /// Giving it something, perhaps out of another repository.
    Push {
        /// That other one.
        from: Option<&'a str>,
    },
}

/// Somebody who asks a host for something, or gives it something.
pub(crate) struct Visit<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) reference: &'a Reference,
    pub(crate) object: &'a str,
    pub(crate) rights: Rights<'a>,
}

impl Visit<'_> {
    /// What a token has to be good for, as far as we know.
    fn own_scope(&self) -> String {
        let repository = self.reference.repository();
        match self.rights {
            Rights::Pull => format!("repository:{repository}:pull"),
            Rights::Push { from: None } => format!("repository:{repository}:pull,push"),
            Rights::Push { from: Some(from) } => {
                format!("repository:{repository}:pull,push repository:{from}:pull")
            }
        }
    }

    /// The same where the registry has said what it wants. Who pushes asks for that from the first request on, which may be
    /// one for which the registry wants less.
    fn scope(&self, wanted: Option<&str>) -> String {
        let own = self.own_scope();
        match (self.rights, wanted) {
            (_, None) => own,
            (Rights::Pull, Some(wanted)) => wanted.to_owned(),
            (Rights::Push { .. }, Some(wanted)) => {
                let place = |scope: &str| scope.rsplit_once(':').map(|(place, _)| place.to_owned());
                let is_other =
                    |scope: &&str| own.split(' ').all(|known| place(known) != place(scope));
                let others = wanted.split_ascii_whitespace().filter(is_other);
                let all: Vec<&str> = own.split(' ').chain(others).collect();
                all.join(" ")
            }
        }
    }

    /// A pass other than `used`. `None` if there is nothing to show and nothing was refused yet.
    async fn renew(
        &self,
        slot: &Slot,
        scheme: &Scheme,
        scope: Option<String>,
        used: Option<&Arc<Pass>>,
    ) -> Result<Option<Arc<Pass>>> {
        let arrived = Instant::now();
        let mut renewal = slot.renewal.lock().await;
        if let Some(current) = slot.current()
            && used.is_none_or(|used| !Arc::ptr_eq(used, &current))
        {
            return Ok(Some(current));
        }
        if let Some((at, error)) = &renewal.failed {
            let is_refusal = !error.is_transient() && at.elapsed() < REFUSAL_LIFETIME;
            if *at >= arrived || is_refusal {
                return Err(error.clone());
            }
        }
        slot.put(None);
        if let Some(used) = used
            && !used.is_proven.load(Ordering::Relaxed)
        {
            let secret = used
                .credential
                .as_ref()
                .map(|credential| credential.secret.clone());
            renewal
                .refused
                .push((secret, "it does not open it".to_owned()));
        }
        renewal.scope = scope.or(renewal.scope.take());
        let made = self.obtain(&mut renewal, scheme).await;
        match &made {
            Ok(pass) => {
                renewal.failed = None;
                slot.put(pass.clone());
            }
            Err(error) => {
                renewal.failed = Some((Instant::now(), error.clone()));
                renewal.refused.clear();
            }
        }
        made
    }

    async fn obtain(&self, renewal: &mut Renewal, scheme: &Scheme) -> Result<Option<Arc<Pass>>> {
        let (candidates, failure) = match self.lookup().await {
            Ok(candidates) => (candidates, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let may_be_nobody = matches!(scheme, Scheme::Bearer { .. });
        let nobody = may_be_nobody.then_some(None);
        let candidates = candidates
            .into_iter()
            .take(CANDIDATES_MAX)
            .map(Some)
            .chain(nobody);
        let mut refusals = Vec::new();
        let mut knows_none = true;
        for candidate in candidates {
            let secret = candidate
                .as_ref()
                .map(|credential| credential.secret.clone());
            let origin = match &candidate {
                Some(credential) => {
                    knows_none = false;
                    format!("what {} has", credential.origin)
                }
                None => "no credentials".to_owned(),
            };
            if let Some((_, reason)) = renewal.refused.iter().find(|(one, _)| *one == secret) {
                refusals.push(format!("with {origin}, {reason}"));
                continue;
            }
            match self.make(scheme, renewal.scope.as_deref(), candidate).await {
                Ok(pass) => return Ok(Some(Arc::new(pass))),
                Err(Error::Unauthorized { host, reason, .. }) => {
                    let reason = format!("{host} says: {reason}");
                    refusals.push(format!("with {origin}, {reason}"));
                    renewal.refused.push((secret, reason));
                }
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some(error) if error.is_transient() => Err(error),
            Some(error) => Err(self.unauthorized(&format!("{error}"))),
            None if refusals.is_empty() => Ok(None),
            None if knows_none => Err(self.unauthorized("there are no credentials for it")),
            None => Err(self.unauthorized(&refusals.join("; "))),
        }
    }

    async fn lookup(&self) -> Result<Vec<Credential>> {
        let host = &self.endpoint.settings.host;
        let lookup = self.shared.credentials.lookup(host, self.reference);
        match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(found) => found,
            Err(_) => Err(Error::Credentials {
                from: "all sources".to_owned(),
                reason: "they took longer than 20 s; see which one hangs".to_owned(),
                transient: true,
            }),
        }
    }

    async fn make(
        &self,
        scheme: &Scheme,
        scope: Option<&str>,
        credential: Option<Credential>,
    ) -> Result<Pass> {
        let secret = credential.as_ref().map(|credential| &credential.secret);
        let (text, lifetime) = match (scheme, secret) {
            (_, Some(Secret::RegistryToken(token))) => (format!("Bearer {token}"), None),
            (Scheme::Basic, Some(Secret::Password { username, password })) => {
                let both = STANDARD.encode(format!("{username}:{password}"));
                (format!("Basic {both}"), None)
            }
            (Scheme::Basic, _) => {
                return Err(self.unauthorized("it takes only user and password"));
            }
            (Scheme::Bearer { realm, service }, secret) => {
                let scope = self.scope(scope);
                let asked = token::Request {
                    realm,
                    service: service.as_deref(),
                    scope: &scope,
                    secret,
                };
                let token = token::request(self, &asked).await?;
                (format!("Bearer {}", token.value), Some(token.lifetime))
            }
        };
        let mut header = HeaderValue::from_str(&text)
            .map_err(|_| self.unauthorized("a credential or token cannot stand in a header"))?;
        header.set_sensitive(true);
        let usable = |lifetime: Duration| lifetime - (lifetime / MARGIN).min(MARGIN_MAX);
        Ok(Pass {
            header,
            credential,
            ends: lifetime.map(|lifetime| Instant::now() + usable(lifetime)),
            is_proven: AtomicBool::new(false),
        })
    }

    pub(crate) fn unauthorized(&self, reason: &str) -> Error {
        Error::Unauthorized {
            host: self.endpoint.settings.host.clone(),
            object: self.object.to_owned(),
            reason: reason.to_owned(),
        }
    }
}
