//! Which hosts are asked for a registry's content, and the connections to them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::dfdaemon::Door;
use super::endpoint::{Client, Endpoint};
use crate::config::Config;
use crate::dragonfly::{self, DragonflyMode};
use crate::error::{Error, Result};
use crate::hosts::{self, Pem, Settings, TlsSettings};
use crate::tls;

/// Bytes that may be on their way on one HTTP/2 stream, and on its connection: bandwidth times round trip of a fast
/// link far away.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;

/// A connection on which nothing comes is asked whether it is still there, and given up if it does not say.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connections are kept for the next page fault.
const IDLE: Duration = Duration::from_secs(90);

/// Different TLS settings that are kept; changes of files make new ones.
const CLIENTS_MAX: usize = 64;

/// The endpoints of every registry that was asked for, looked up again from time to time.
#[derive(Debug)]
pub(crate) struct Book {
    config: Config,
    known: Mutex<HashMap<String, Known>>,
    clients: Mutex<HashMap<Way, Client>>,
    /// It was said that registries with TLS go past the dfdaemon.
    is_told_of_tls: AtomicBool,
}

/// What makes connections different.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Way {
    tls: TlsSettings,
    connect_timeout: Duration,
    proxy: Option<String>,
}

#[derive(Debug)]
struct Known {
    endpoints: Arc<[Arc<Endpoint>]>,
    looked: Instant,
}

impl Book {
    pub(crate) fn new(config: &Config) -> Self {
        Book {
            config: config.clone(),
            known: Mutex::default(),
            clients: Mutex::default(),
            is_told_of_tls: AtomicBool::new(false),
        }
    }

    /// The endpoints for `host`, best first. Reads a few small files now and then, from the local disk.
    pub(crate) fn endpoints(&self, host: &str) -> Result<Arc<[Arc<Endpoint>]>> {
        let mut known = lock(&self.known);
        let now = Instant::now();
        let old = known.get_mut(host);
        if let Some(old) = &old
            && now.duration_since(old.looked) < self.config.hosts_lifetime
        {
            return Ok(Arc::clone(&old.endpoints));
        }
        let before = old.as_ref().map(|old| Arc::clone(&old.endpoints));
        match (self.look(host, before.as_deref()), old) {
            (Ok(endpoints), _) => {
                let endpoints: Arc<[Arc<Endpoint>]> = endpoints.into();
                let entry = Known {
                    endpoints: Arc::clone(&endpoints),
                    looked: now,
                };
                known.insert(host.to_owned(), entry);
                Ok(endpoints)
            }
            (Err(error), Some(old)) => {
                tracing::warn!(
                    host,
                    error = &error as &dyn std::error::Error,
                    "the configuration of a registry changed to something that cannot be used; going on with what it was"
                );
                old.looked = now;
                Ok(Arc::clone(&old.endpoints))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn look(&self, host: &str, before: Option<&[Arc<Endpoint>]>) -> Result<Vec<Arc<Endpoint>>> {
        let before = before.unwrap_or_default();
        let mut places = hosts::load(&self.config.hosts_directories, host)?;
        let Some(registry) = places.pop() else {
            return Ok(Vec::new());
        };
        let registry = self.endpoint(registry, before, None, None)?;
        let mut endpoints = Vec::new();
        if let Some(dfdaemon) = self.dfdaemon(host, &registry, &places, before)? {
            endpoints.push(dfdaemon);
        }
        for mut place in places {
            // Of a registry other than the one that is meant, we have no passes.
            let named = dragonfly::registry_named(&place);
            let door = named.map(|named| {
                let is_ours = registry.owns(&named);
                self.door(&registry, is_ours, false)
            });
            // It has no place of its own for what it is given, and would see who gives it.
            place.can_push &= door.is_none();
            endpoints.push(self.endpoint(place, before, door, None)?);
        }
        endpoints.push(registry);
        Ok(endpoints)
    }

    /// The dfdaemon of our own configuration, if it is to be asked for what lies at `host` and no hosts.toml, of which
    /// `places` are, has it already.
    fn dfdaemon(
        &self,
        host: &str,
        registry: &Arc<Endpoint>,
        places: &[Settings],
        before: &[Arc<Endpoint>],
    ) -> Result<Option<Arc<Endpoint>>> {
        let config = &self.config.dragonfly;
        let Some(mut place) = config.place(&registry.settings) else {
            return Ok(None);
        };
        let address = config.address.as_ref().map(|address| address.authority());
        let is_known = |place: &Settings| {
            dragonfly::registry_named(place).is_some() && Some(&place.host) == address.as_ref()
        };
        if places.iter().any(is_known) {
            return Ok(None);
        }
        if !config.names(host) {
            return Ok(None);
        }
        if !config.opens(&registry.settings) {
            if !self.is_told_of_tls.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    host,
                    "registries with TLS are read past the dfdaemon; set [dragonfly] mode = \"mirror\", or ca"
                );
            }
            return Ok(None);
        }
        let proxy = match config.mode {
            DragonflyMode::Mirror => None,
            DragonflyMode::Proxy => {
                if let Some(ca) = &config.ca {
                    place.tls.ca.push(Pem::read(ca.clone())?);
                }
                config.address.as_ref().map(|address| address.as_str())
            }
        };
        let door = self.door(registry, true, true);
        self.endpoint(place, before, Some(door), proxy).map(Some)
    }

    fn door(&self, registry: &Arc<Endpoint>, is_ours: bool, is_for_blobs: bool) -> Door {
        let config = &self.config.dragonfly;
        let registry = is_ours.then(|| Arc::clone(registry));
        Door::new(registry, config.credentials, config.prefetch, is_for_blobs)
    }

    /// What was there `before` is kept with all it knows, unless it has changed.
    fn endpoint(
        &self,
        settings: Settings,
        before: &[Arc<Endpoint>],
        door: Option<Door>,
        proxy: Option<&str>,
    ) -> Result<Arc<Endpoint>> {
        let same = |endpoint: &&Arc<Endpoint>| {
            endpoint.settings == settings && endpoint.has_door(door.as_ref())
        };
        if let Some(endpoint) = before.iter().find(same) {
            return Ok(Arc::clone(endpoint));
        }
        let mut client = self.client(&settings, proxy)?;
        if door.is_some() {
            // What HTTP_PROXY names is not asked how to get to a dfdaemon.
            client.any.clone_from(&client.loopback);
        }
        Ok(Arc::new(Endpoint::new(
            settings,
            client,
            door,
            &self.config,
        )))
    }

    /// Hosts with the same TLS settings share a pool.
    fn client(&self, settings: &Settings, proxy: Option<&str>) -> Result<Client> {
        let timeout = settings.dial_timeout.unwrap_or(self.config.connect_timeout);
        let key = Way {
            tls: settings.tls.clone(),
            connect_timeout: timeout,
            proxy: proxy.map(str::to_owned),
        };
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build_with(&settings.tls, timeout, proxy)?;
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Connections under `tls`.
pub(crate) fn build(tls: &TlsSettings, connect_timeout: Duration) -> Result<Client> {
    build_with(tls, connect_timeout, None)
}

/// Connections under `tls`, all through `proxy` if there is one. Redirects are followed by us, because credentials must not
/// follow them.
fn build_with(tls: &TlsSettings, connect_timeout: Duration, proxy: Option<&str>) -> Result<Client> {
    let config = tls::client_config(tls)?;
    let unusable = |error: reqwest::Error| Error::Configuration {
        path: "the HTTP client".to_owned(),
        reason: error.to_string(),
    };
    let proxy = proxy
        .map(reqwest::Proxy::all)
        .transpose()
        .map_err(unusable)?;
    let builder = || {
        reqwest::Client::builder()
            .tls_backend_preconfigured(config.clone())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("pontoon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            .pool_idle_timeout(IDLE)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
    };
    let loopback = match proxy {
        Some(proxy) => builder().proxy(proxy),
        None => builder().no_proxy(),
    };
    Ok(Client {
        any: builder().build().map_err(unusable)?,
        loopback: loopback.build().map_err(unusable)?,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
