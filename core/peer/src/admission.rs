//! Who may take part.

use std::net::IpAddr;

use crate::PeerId;

/// Decides who may take part. Cheap to clone: all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Admission {}

/// Why a peer may not take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Nothing was configured that would admit somebody from elsewhere.
    #[error("no admission is configured, so only this machine is admitted: set [peer.admission]")]
    NotConfigured,
    /// It is in no list and showed no token.
    #[error("it is not in the allow-list and has no membership token")]
    Unknown,
    /// Its token does not stand up to the cluster key.
    #[error("its membership token is not signed by the cluster key for this peer")]
    BadToken,
    /// Its token is too old.
    #[error("its membership token has expired: make a new one")]
    Expired,
}

impl Admission {
    /// Whether `peer`, which proved to be that, may take part. `address` is where its connection comes from, `token` what it showed.
    pub fn admits(
        &self,
        peer: PeerId,
        address: IpAddr,
        token: Option<&[u8]>,
    ) -> std::result::Result<(), Refused> {
        let _ = (peer, token);
        if address.is_loopback() {
            Ok(())
        } else {
            Err(Refused::NotConfigured)
        }
    }
}
