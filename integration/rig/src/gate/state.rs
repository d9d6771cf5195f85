//! What a gate remembers: exchanges, the rules in force, the link.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::fault::{Fault, Link};
use super::request::{Exchange, Request, SIGNED};
use crate::token::Tokens;

/// Which requests a rule is for.
pub(super) type Matcher = Box<dyn Fn(&Request) -> bool + Send + Sync>;

/// A fault that was chosen for a request, and what ends when the fault is over.
pub(super) type Chosen = (Fault, watch::Receiver<()>);

pub(super) enum Effect {
    Hold { held: Arc<AtomicUsize> },
    Fault(Fault),
}

pub(super) struct Rule {
    id: u64,
    matcher: Matcher,
    effect: Effect,
    /// How many requests it is still for; `None` is no limit.
    left: Option<usize>,
    hits: usize,
    // Never sent to: its receivers wait until it is gone.
    over: watch::Sender<()>,
}

/// An address that a redirection named.
pub(super) struct Signed {
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) good_until: Instant,
}

struct State {
    upstream: String,
    tokens: Option<Arc<Tokens>>,
    exchanges: Vec<Exchange>,
    connections: usize,
    rules: Vec<Rule>,
    next_rule: u64,
    link: Link,
    /// When the link has carried all that was given to it.
    free_at: Instant,
    signed: HashMap<String, Signed>,
}

pub(super) struct Shared {
    pub(super) host: String,
    pub(super) scheme: &'static str,
    frozen: watch::Sender<bool>,
    state: Mutex<State>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// Counts a held request for as long as it is held.
pub(super) struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    pub(super) fn new(host: String, scheme: &'static str, upstream: &str) -> Self {
        Self {
            host,
            scheme,
            frozen: watch::Sender::new(false),
            state: Mutex::new(State {
                upstream: upstream.into(),
                tokens: None,
                exchanges: Vec::new(),
                connections: 0,
                rules: Vec::new(),
                next_rule: 0,
                link: Link::default(),
                free_at: Instant::now(),
                signed: HashMap::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn upstream(&self) -> (String, Option<Arc<Tokens>>) {
        let state = self.lock();
        (state.upstream.clone(), state.tokens.clone())
    }

    pub(super) fn set_upstream(&self, host: &str) {
        self.lock().upstream = host.into();
    }

    pub(super) fn set_tokens(&self, tokens: Arc<Tokens>) {
        self.lock().tokens = Some(tokens);
    }

    pub(super) fn link(&self) -> Link {
        self.lock().link
    }

    pub(super) fn set_link(&self, link: Link) {
        self.lock().link = link;
    }

    /// Numbers a new connection.
    pub(super) fn connect(&self) -> usize {
        let mut state = self.lock();
        state.connections += 1;
        state.connections - 1
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().connections
    }

    /// Records a request that has come in.
    pub(super) fn arrive<B>(&self, connection: usize, from: &hyper::Request<B>) -> Request {
        let mut state = self.lock();
        let request = Request::new(state.exchanges.len(), connection, from);
        state.exchanges.push(Exchange {
            request: request.clone(),
            arrived: Instant::now(),
            status: None,
            bytes: 0,
            complete: false,
        });
        request
    }

    pub(super) fn note(&self, number: usize, change: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.lock().exchanges.get_mut(number) {
            change(exchange);
        }
    }

    pub(super) fn exchanges(&self) -> Vec<Exchange> {
        self.lock().exchanges.clone()
    }

    /// What folds over the exchanges so far.
    pub(super) fn sum(&self, of: impl FnMut(&Exchange) -> u64) -> u64 {
        self.lock().exchanges.iter().map(of).sum()
    }

    pub(super) fn add_rule(&self, matcher: Matcher, effect: Effect) -> u64 {
        let mut state = self.lock();
        let id = state.next_rule;
        state.next_rule += 1;
        state.rules.push(Rule {
            id,
            matcher,
            effect,
            left: None,
            hits: 0,
            over: watch::Sender::new(()),
        });
        id
    }

    /// Ends a rule: what waits for its end goes on.
    pub(super) fn remove_rule(&self, id: u64) {
        self.lock().rules.retain(|rule| rule.id != id);
    }

    pub(super) fn limit_rule(&self, id: u64, times: usize) {
        let mut state = self.lock();
        if let Some(rule) = state.rules.iter_mut().find(|rule| rule.id == id) {
            rule.left = Some(times.saturating_sub(rule.hits));
        }
    }

    pub(super) fn hits(&self, id: u64) -> usize {
        let state = self.lock();
        let rule = state.rules.iter().find(|rule| rule.id == id);
        rule.map_or(0, |rule| rule.hits)
    }

    /// What holds this request, and the counts that say so.
    pub(super) fn holds(&self, request: &Request) -> Vec<(watch::Receiver<()>, Held)> {
        let mut state = self.lock();
        let mut found = Vec::new();
        for rule in &mut state.rules {
            let Effect::Hold { held } = &rule.effect else {
                continue;
            };
            if rule.left != Some(0) && (rule.matcher)(request) {
                held.fetch_add(1, Ordering::AcqRel);
                found.push((rule.over.subscribe(), Held(Arc::clone(held))));
                rule.hit();
            }
        }
        found
    }

    /// The newest fault in force for this request.
    pub(super) fn fault(&self, request: &Request) -> Option<Chosen> {
        let mut state = self.lock();
        let rule = state.rules.iter_mut().rev().find(|rule| {
            matches!(rule.effect, Effect::Fault(_))
                && rule.left != Some(0)
                && (rule.matcher)(request)
        })?;
        rule.hit();
        match &rule.effect {
            Effect::Fault(fault) => Some((fault.clone(), rule.over.subscribe())),
            Effect::Hold { .. } => None,
        }
    }

    pub(super) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Waits while the gate is frozen.
    pub(super) async fn thawed(&self) {
        // The sender lives as long as this value.
        let _ = self
            .frozen
            .subscribe()
            .wait_for(|frozen| !*frozen)
            .await
            .map(drop);
    }

    /// When the link has carried `bytes` more.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Instant> {
        let mut state = self.lock();
        let rate = state.link.bytes_per_second;
        if rate == 0 {
            return None;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        state.free_at = state.free_at.max(Instant::now()) + takes;
        Some(state.free_at)
    }

    /// Makes an address for `request` that needs no authorization.
    pub(super) fn sign(&self, request: &Request, lifetime: Duration) -> String {
        let mut state = self.lock();
        // The number makes it new; the rest of the path says which blob it is.
        let digest = request.path.rsplit('/').next().unwrap_or_default();
        let path = format!("{SIGNED}{}/{digest}", request.number);
        let signed = Signed {
            path: request.path.clone(),
            authorization: request.authorization.clone(),
            good_until: Instant::now() + lifetime,
        };
        state.signed.insert(path.clone(), signed);
        path
    }

    /// What a signed address stands for; `None` once it is no longer good.
    pub(super) fn signed(&self, path: &str) -> Option<(String, Option<String>)> {
        let state = self.lock();
        let signed = state.signed.get(path)?;
        let good = signed.good_until > Instant::now();
        good.then(|| (signed.path.clone(), signed.authorization.clone()))
    }

    pub(super) fn expire_signed(&self) {
        self.lock().signed.clear();
    }
}

impl Rule {
    fn hit(&mut self) {
        self.hits += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
    }
}
