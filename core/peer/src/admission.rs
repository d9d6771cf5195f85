//! Who may take part.
//!
//! Every peer proves with TLS which [`PeerId`] it is. Whether that one may take part says an allow-list, or a token that the cluster's
//! key has signed. Either is enough. Where neither is configured, nobody but this machine may: peers are denied by default.

mod list;
#[cfg(test)]
mod tests;
mod token;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

pub use token::{ClusterKey, ClusterPublicKey, ParseError, TOKEN_BYTES, Token};

use self::list::Watched;
use crate::{Error, PeerId, Result};

/// What admits others, and what this node shows to be admitted.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// A file with one peer id a line. It is read again when it changes.
    pub allow_file: Option<PathBuf>,
    /// Whose tokens are good.
    pub cluster_key: Option<ClusterPublicKey>,
    /// This node's own token, in writing. It is read again when it changes.
    pub token_file: Option<PathBuf>,
}

/// Decides who may take part. Cheap to clone: all clones are one.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    allowed: Option<Watched<HashSet<PeerId>>>,
    cluster_key: Option<ClusterPublicKey>,
    token: Option<Watched<Option<Token>>>,
}

/// Why a peer may not take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Nothing was configured that would admit somebody from elsewhere.
    #[error(
        "no admission is configured, so only this machine is admitted: set [peer.admission] there"
    )]
    NotConfigured,
    /// It is in no list and showed no token.
    #[error("it is not in the allow-list and has no membership token")]
    Unknown,
    /// Its token does not stand up to the cluster key.
    #[error("its membership token is not signed by the cluster key for this peer")]
    BadToken,
    /// Its token is too old.
    #[error("its membership token has expired: make a new one with `pontoon peers token`")]
    Expired,
    /// It gave away wrong data.
    #[error("it is banned for a while, because it gave away wrong data")]
    Banned,
}

impl Admission {
    /// Reads what is configured.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Malformed`], for the list and the token: here a mistake is an error. Once it runs, a file that
    /// makes no sense is a warning and what it said before holds, and one that is gone admits nobody.
    pub fn open(config: &Config) -> Result<Admission> {
        let allowed = config.allow_file.as_deref();
        let token = config.token_file.as_deref();
        Ok(Admission(Arc::new(Inner {
            allowed: allowed
                .map(|path| Watched::open(path, list::parse))
                .transpose()?,
            cluster_key: config.cluster_key.clone(),
            token: token
                .map(|path| Watched::open(path, parse_token))
                .transpose()?,
        })))
    }

    /// Whether anything admits somebody from another machine.
    pub fn is_configured(&self) -> bool {
        self.0.allowed.is_some() || self.0.cluster_key.is_some()
    }

    /// Whether a token could admit whom no list does.
    pub(crate) fn takes_tokens(&self) -> bool {
        self.0.cluster_key.is_some()
    }

    /// Whether `peer`, which proved to be that, may take part. `address` is where its connection comes from or goes to, `token` what
    /// it showed.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(
        &self,
        peer: PeerId,
        address: IpAddr,
        token: Option<&[u8]>,
    ) -> std::result::Result<(), Refused> {
        self.admits_at(peer, address, token, SystemTime::now())
    }

    /// Whether a peer that was admitted may stay, which a list or the time may have changed.
    pub(crate) fn still_admits(
        &self,
        peer: PeerId,
        address: IpAddr,
        token: Option<Token>,
    ) -> std::result::Result<(), Refused> {
        let admits = self.admits_without_token(peer, address);
        match token {
            // Its signature has not changed.
            Some(token) if admits.is_err() && self.0.cluster_key.is_some() => {
                match token.expires() > SystemTime::now() {
                    true => Ok(()),
                    false => Err(Refused::Expired),
                }
            }
            _ => admits,
        }
    }

    fn admits_without_token(
        &self,
        peer: PeerId,
        address: IpAddr,
    ) -> std::result::Result<(), Refused> {
        if !self.is_configured() {
            return match address.to_canonical().is_loopback() {
                true => Ok(()),
                false => Err(Refused::NotConfigured),
            };
        }
        let listed = |list: &Watched<HashSet<PeerId>>| list.with(|peers| peers.contains(&peer));
        match self.0.allowed.as_ref().is_some_and(listed) {
            true => Ok(()),
            false => Err(Refused::Unknown),
        }
    }

    fn admits_at(
        &self,
        peer: PeerId,
        address: IpAddr,
        token: Option<&[u8]>,
        now: SystemTime,
    ) -> std::result::Result<(), Refused> {
        let refused = match self.admits_without_token(peer, address) {
            Err(Refused::Unknown) => Refused::Unknown,
            admits => return admits,
        };
        let (Some(key), Some(token)) = (&self.0.cluster_key, token) else {
            return Err(refused);
        };
        let token = Token::from_bytes(token).ok_or(Refused::BadToken)?;
        key.check(peer, &token, now)
    }

    /// What this node shows to be admitted.
    pub fn token(&self) -> Option<Token> {
        self.0.token.as_ref()?.with(|token| *token)
    }
}

fn parse_token(path: &Path, text: &str) -> Result<Option<Token>> {
    let token = text.parse().map_err(|error: ParseError| Error::Malformed {
        path: path.to_owned(),
        what: "membership token",
        reason: error.to_string(),
    })?;
    Ok(Some(token))
}
