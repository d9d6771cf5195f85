//! A registry as the world sees it: behind a gate, with users or without, with TLS or
//! without.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use crate::authority::Authority;
use crate::error::Result;
use crate::gate::{Gate, TOKEN_PATH};
use crate::hosts::{self, Host};
use crate::image::{Converted, Layout};
use crate::registry::{Auth, Front, Registry};
use crate::sandbox::Sandbox;
use crate::token::Tokens;

/// Whom a site lets in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Users {
    /// Everybody.
    #[default]
    All,
    /// [`USER`](crate::token::USER), by basic authentication.
    Basic,
    /// Who has a token: [`USER`](crate::token::USER) for everything, anybody for
    /// repositories below [`PUBLIC`](crate::token::PUBLIC).
    Bearer,
}

/// How a site is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Whom it lets in.
    pub users: Users,
    /// Whether clients come by HTTPS.
    pub tls: bool,
}

/// A running registry behind a gate. Clients go through [`gate`](Self::gate); pushing by
/// [`push`](Self::push) goes around it and is not counted.
#[derive(Debug)]
pub struct Site {
    /// What clients connect to.
    pub gate: Gate,
    /// Who gives out tokens, with [`Users::Bearer`].
    pub tokens: Option<Arc<Tokens>>,
    /// Who vouches for the gate, with TLS.
    pub authority: Option<Authority>,
    /// The registry behind the gate, where clients must show who they are.
    pub registry: Registry,
    // On the same blobs, open to all, for pushing.
    store: Registry,
    hosts: PathBuf,
}

impl Site {
    /// Starts the registry, then the gate in front of it.
    pub fn start(sandbox: &Sandbox, setup: Setup) -> Result<Self> {
        let store = Registry::start(sandbox)?;
        let hosts = sandbox.subdir("hosts")?;
        let authority = setup.tls.then(Authority::new).transpose()?;
        let gate = match &authority {
            None => Gate::start(store.host())?,
            Some(authority) => Gate::start_tls(store.host(), &authority.server()?)?,
        };
        let url = format!("{}://{}", gate.scheme(), gate.host());
        let mut tokens = None;
        let auth = match setup.users {
            Users::All => Auth::None,
            Users::Basic => Auth::Basic,
            Users::Bearer => {
                let given = Arc::new(Tokens::new()?);
                gate.set_tokens(Arc::clone(&given));
                let certificate = given.certificate_pem().to_owned();
                tokens = Some(given);
                Auth::Bearer {
                    realm: format!("{url}{TOKEN_PATH}"),
                    certificate,
                }
            }
        };
        let front = Front {
            auth,
            ..Front::default()
        };
        let registry = store.front(sandbox, &front)?;
        gate.set_upstream(registry.host());
        let mut host = Host::new(url);
        if let Some(authority) = &authority {
            host.ca = vec![authority.write(&sandbox.path("authority.pem"))?];
        }
        hosts::write(&hosts, gate.host(), None, &[host])?;
        Ok(Self {
            gate,
            tokens,
            authority,
            registry,
            store,
            hosts,
        })
    }

    /// The `address:port` by which clients know it.
    pub fn host(&self) -> &str {
        self.gate.host()
    }

    /// A directory with the `hosts.toml` that tells clients how to reach it.
    pub fn hosts_dir(&self) -> &PathBuf {
        &self.hosts
    }

    /// The registry without gate and users, for what a test looks up or pushes.
    pub fn store(&self) -> &Registry {
        &self.store
    }

    /// Uploads an image and returns the reference by which clients know it.
    pub fn push(&self, image: &Layout, name: &str, tag: &str) -> Result<String> {
        self.store.push(image, name, tag)?;
        Ok(format!("{}/{name}:{tag}", self.host()))
    }

    /// Uploads an index with all that it lists, and returns the reference by which clients
    /// know it.
    pub fn push_index(&self, image: &Layout, name: &str, tag: &str) -> Result<String> {
        self.store.push_index(image, name, tag)?;
        Ok(format!("{}/{name}:{tag}", self.host()))
    }

    /// Uploads a converted image, and its tables of contents where they are an image of
    /// their own.
    pub fn push_converted(&self, image: &Converted, name: &str, tag: &str) -> Result<String> {
        image.push(&self.store, name, tag)?;
        Ok(format!("{}/{name}:{tag}", self.host()))
    }
}
