//! Which hosts are asked for a registry's content, and the connections to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::endpoint::{Client, Endpoint};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hosts::{self, Settings, TlsSettings};
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
    clients: Mutex<HashMap<(TlsSettings, Duration), Client>>,
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
        let settings = hosts::load(&self.config.hosts_directories, host)?;
        let endpoint = |settings: Settings| {
            let same = |endpoint: &&Arc<Endpoint>| endpoint.settings == settings;
            if let Some(endpoint) = before.unwrap_or_default().iter().find(same) {
                return Ok(Arc::clone(endpoint));
            }
            let client = self.client(&settings)?;
            Ok(Arc::new(Endpoint::new(settings, client, &self.config)))
        };
        settings.into_iter().map(endpoint).collect()
    }

    /// Hosts with the same TLS settings share a pool.
    fn client(&self, settings: &Settings) -> Result<Client> {
        let timeout = settings.dial_timeout.unwrap_or(self.config.connect_timeout);
        let key = (settings.tls.clone(), timeout);
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(&settings.tls, timeout)?;
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Connections under `tls`. Redirects are followed by us, because credentials must not follow them.
pub(crate) fn build(tls: &TlsSettings, connect_timeout: Duration) -> Result<Client> {
    let config = tls::client_config(tls)?;
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
    let unusable = |error: reqwest::Error| Error::Configuration {
        path: "the HTTP client".to_owned(),
        reason: error.to_string(),
    };
    Ok(Client {
        any: builder().build().map_err(unusable)?,
        loopback: builder().no_proxy().build().map_err(unusable)?,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
