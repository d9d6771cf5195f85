//! Membership tokens: the cluster's signature of a peer and a time.
//!
//! A token is a byte 1, the time at which it expires (seconds since 1970, big-endian, 8 bytes), and the ed25519 signature (64 bytes)
//! of the line [`SIGNED_START`], the peer id's bytes and the same 8 bytes. In writing it is base64 (URL alphabet, no padding).
//! It is of no use to anybody else: whoever shows it has proved in the TLS handshake to be the peer.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use libp2p_identity::ed25519;

use super::Refused;
use crate::{Error, PeerId, Result, key_file};

const SIGNED_START: &[u8] = b"pontoon membership token 1\n";
const VERSION: u8 = 1;

/// How long a token is, in bytes.
pub const TOKEN_BYTES: usize = 1 + 8 + 64;

/// A membership token. It is not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token([u8; TOKEN_BYTES]);

/// What is no token, or no cluster key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Text that is no token.
    #[error("this is no membership token: make one with `pontoon peers token`")]
    Token,
    /// Text that is no public key.
    #[error("this is no cluster key: it begins with \"ed25519:\" and has 32 bytes in base64")]
    Key,
}

impl Token {
    /// The token in these bytes, whoever signed it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Token> {
        let bytes: [u8; TOKEN_BYTES] = bytes.try_into().ok()?;
        (bytes[0] == VERSION).then_some(Token(bytes))
    }

    /// As it goes over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// When it expires.
    pub fn expires(&self) -> SystemTime {
        let mut seconds = [0; 8];
        seconds.copy_from_slice(&self.0[1..9]);
        // Whoever signs decides how long; a time that the system does not know is a long one.
        let seconds = u64::from_be_bytes(seconds).min(u32::MAX.into());
        UNIX_EPOCH + Duration::from_secs(seconds)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for Token {
    type Err = ParseError;

    fn from_str(text: &str) -> std::result::Result<Token, ParseError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim());
        let token = bytes.ok().and_then(|bytes| Token::from_bytes(&bytes));
        token.ok_or(ParseError::Token)
    }
}

/// What is signed for the peer; `expires` as it stands in the token.
fn signed(peer: PeerId, expires: &[u8]) -> Vec<u8> {
    [SIGNED_START, &peer.to_bytes(), expires].concat()
}

/// The key that makes members. It belongs where nodes are installed from, not on the nodes.
pub struct ClusterKey(ed25519::Keypair);

impl ClusterKey {
    /// The key in the file, which is made when there is none.
    ///
    /// # Errors
    /// As [`Identity::open`](crate::Identity::open): others can read it, there is no key in it, the system refused.
    pub fn open(path: &Path) -> Result<ClusterKey> {
        if let Some(key) = key_file::read(path)? {
            return Ok(ClusterKey(key));
        }
        key_file::create(path, &ed25519::Keypair::generate())?;
        key_file::read(path)?
            .map(ClusterKey)
            .ok_or_else(|| Error::Malformed {
                path: path.to_owned(),
                what: "cluster key",
                reason: "somebody deletes it: try again".to_owned(),
            })
    }

    /// What nodes check tokens with: `[peer.admission] cluster_key`.
    pub fn public(&self) -> ClusterPublicKey {
        ClusterPublicKey(self.0.public())
    }

    /// Makes `peer` a member until `expires`, to the second.
    pub fn token(&self, peer: PeerId, expires: SystemTime) -> Token {
        let since = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = since.as_secs().to_be_bytes();
        let signature = self.0.sign(&signed(peer, &expires));
        let mut bytes = [0; TOKEN_BYTES];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&expires);
        bytes[9..].copy_from_slice(&signature);
        Token(bytes)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.public())
    }
}

/// What a node checks tokens with: `ed25519:` and the key in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPublicKey(ed25519::PublicKey);

impl ClusterPublicKey {
    /// Whether the token makes `peer` a member at the time `now`.
    pub fn check(
        &self,
        peer: PeerId,
        token: &Token,
        now: SystemTime,
    ) -> std::result::Result<(), Refused> {
        if !self.0.verify(&signed(peer, &token.0[1..9]), &token.0[9..]) {
            return Err(Refused::BadToken);
        }
        if token.expires() <= now {
            return Err(Refused::Expired);
        }
        Ok(())
    }
}

impl fmt::Display for ClusterPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", STANDARD.encode(self.0.to_bytes()))
    }
}

impl FromStr for ClusterPublicKey {
    type Err = ParseError;

    fn from_str(text: &str) -> std::result::Result<ClusterPublicKey, ParseError> {
        let key = text.trim().strip_prefix("ed25519:");
        let key = key.and_then(|key| STANDARD.decode(key).ok());
        let key = key.and_then(|key| ed25519::PublicKey::try_from_bytes(&key).ok());
        key.map(ClusterPublicKey).ok_or(ParseError::Key)
    }
}
