//! Credentials, and where they come from.

mod chain;
mod cri;
mod docker;
mod helper;
mod kubeconfig;
mod kubernetes;
mod pattern;
mod remembered;

use std::fmt;

pub use chain::{Chain, Fixed};
pub use cri::ImageServiceProxy;
pub use docker::DockerConfig;
pub use kubernetes::{Kubernetes, KubernetesConfig};
pub use remembered::Remembered;

use crate::blob::BoxFuture;
use crate::error::Result;
use crate::reference::Reference;

/// The most credentials that are tried for one repository.
pub(crate) const CANDIDATES_MAX: usize = 8;

/// A source of credentials.
pub trait Credentials: Send + Sync + fmt::Debug {
    /// What may open the repository of `reference` at `host`, best first; empty if this source knows nothing.
    ///
    /// `host` is the one that is asked: the reference's own, or a mirror's with its port. An error means that the
    /// source could not be asked; the registry is then tried with what others know, or without.
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Vec<Credential>>>;

    /// The registry took `credential` for the repository of `reference`. Sources that remember do so now.
    fn accepted(&self, host: &str, reference: &Reference, credential: &Credential) {
        let _ = (host, reference, credential);
    }
}

/// What a registry or its token server is shown, and where it comes from. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The secret.
    pub secret: Secret,
    /// Where it was found, for messages: `docker config`, `Kubernetes secret ns/name`.
    pub origin: String,
}

/// The kinds of secrets that Docker and Kubernetes know.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// User and password, or whatever a registry takes for one.
    Password {
        /// User.
        username: String,
        /// Password or token.
        password: String,
    },
    /// A refresh token: the token server gives access tokens for it.
    IdentityToken(String),
    /// An access token, shown to the registry as it is.
    RegistryToken(String),
}

impl Credential {
    /// A user with a password.
    pub fn password(username: &str, password: &str, origin: &str) -> Self {
        Credential {
            secret: Secret::Password {
                username: username.to_owned(),
                password: password.to_owned(),
            },
            origin: origin.to_owned(),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("secret", &self.secret)
            .field("origin", &self.origin)
            .finish()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Password { .. } => f.write_str("Password(..)"),
            Secret::IdentityToken(_) => f.write_str("IdentityToken(..)"),
            Secret::RegistryToken(_) => f.write_str("RegistryToken(..)"),
        }
    }
}

/// Knows no credentials: public images only.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

impl Credentials for Anonymous {
    fn lookup<'a>(
        &'a self,
        _host: &'a str,
        _reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Vec<Credential>>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
