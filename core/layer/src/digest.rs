//! Digests of contents, as OCI writes them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

/// A hash function for contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, what everybody uses.
    Sha256,
    /// SHA-512, which the specification allows too.
    Sha512,
    /// BLAKE3, of 256 bits: chunks of nydus images have it. OCI does not know it, so no manifest may name a content by it.
    Blake3,
}

impl Algorithm {
    /// Its name in a digest.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
            Algorithm::Blake3 => "blake3",
        }
    }

    /// Bytes of a digest.
    pub fn bytes(self) -> usize {
        match self {
            Algorithm::Sha256 | Algorithm::Blake3 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

/// The digest of a content: its identity.
///
/// In writing `algorithm:hex`, lower case, as in the OCI image specification (descriptor.md, "Digests").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Value);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    Sha256([u8; 32]),
    /// Rare, so it shall not make the others larger.
    Sha512(Box<[u8; 64]>),
    Blake3([u8; 32]),
}

/// What is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// Not of the form `algorithm:hex`, or of another length, or not in lower case.
    #[error(
        "{text:?} is no digest: sha256: and 64, or sha512: and 128 hexadecimal digits in lower case are expected"
    )]
    Malformed {
        /// What was read, shortened.
        text: String,
    },
    /// An algorithm that Pontoon cannot compute.
    #[error(
        "the digest {text:?} is of an algorithm that Pontoon does not know; it knows sha256 and sha512"
    )]
    UnknownAlgorithm {
        /// What was read, shortened.
        text: String,
    },
}

impl Digest {
    /// The SHA-256 of `content`.
    pub fn of(content: &[u8]) -> Digest {
        Digest(Value::Sha256(Sha256::digest(content).into()))
    }

    /// The SHA-256 whose bytes these are.
    pub const fn sha256(bytes: [u8; 32]) -> Digest {
        Digest(Value::Sha256(bytes))
    }

    /// The BLAKE3 whose bytes these are. It is written as the others are, and not read: see [`Algorithm::Blake3`].
    pub const fn blake3(bytes: [u8; 32]) -> Digest {
        Digest(Value::Blake3(bytes))
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Value::Sha256(_) => Algorithm::Sha256,
            Value::Sha512(_) => Algorithm::Sha512,
            Value::Blake3(_) => Algorithm::Blake3,
        }
    }

    /// The raw hash: 32 or 64 bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Value::Sha256(bytes) | Value::Blake3(bytes) => bytes,
            Value::Sha512(bytes) => bytes.as_slice(),
        }
    }

    /// The raw hash of a SHA-256.
    pub fn as_sha256(&self) -> Option<&[u8; 32]> {
        match &self.0 {
            Value::Sha256(bytes) => Some(bytes),
            Value::Sha512(_) | Value::Blake3(_) => None,
        }
    }

    /// The hash in hexadecimal digits, without its algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(2 * self.bytes().len());
        for byte in self.bytes() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ParseDigestError::Malformed {
            text: shortened(text),
        };
        let (algorithm, hex) = text.split_once(':').ok_or_else(malformed)?;
        match algorithm {
            "sha256" => unhex(hex).map(Value::Sha256),
            "sha512" => unhex(hex).map(|bytes| Value::Sha512(Box::new(bytes))),
            _ => {
                return Err(ParseDigestError::UnknownAlgorithm {
                    text: shortened(text),
                });
            }
        }
        .map(Digest)
        .ok_or_else(malformed)
    }
}

fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(140).collect()
}

/// Computes a digest piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
    /// Its state is about 1900 bytes.
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
            Algorithm::Blake3 => State::Blake3(Box::default()),
        })
    }

    /// Goes on with `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// The digest of all that it has seen.
    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            State::Sha256(state) => Value::Sha256(state.finalize().into()),
            State::Sha512(state) => Value::Sha512(Box::new(state.finalize().into())),
            State::Blake3(state) => Value::Blake3(state.finalize().into()),
        })
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"a");
        hasher.update(b"bc");
        let digest = hasher.finish();
        assert!(digest.to_string().starts_with("sha512:ddaf35a193617aba"));
        assert_eq!(digest.to_string().parse(), Ok(digest.clone()));
        assert_eq!(digest.bytes().len(), 64);
        assert_eq!(digest.as_sha256(), None);
    }

    #[test]
    fn only_the_strict_form_is_read() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        let long = format!("{EMPTY}0");
        for text in [
            "",
            "sha256",
            "sha256:",
            &EMPTY[..70],
            &upper,
            &long,
            &EMPTY[7..],
            "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8\u{e9}",
        ] {
            assert!(
                matches!(
                    text.parse::<Digest>(),
                    Err(ParseDigestError::Malformed { .. })
                ),
                "{text}"
            );
        }
        // It is computed, for chunks, but is none that a manifest may have.
        let blake3 = Hasher::new(Algorithm::Blake3).finish();
        assert!(blake3.to_string().starts_with("blake3:af1349b9f5f9a1a6"));
        assert_eq!(blake3.as_sha256(), None);
        assert!(matches!(
            blake3.to_string().parse::<Digest>(),
            Err(ParseDigestError::UnknownAlgorithm { .. })
        ));
        assert!(matches!(
            "md5:00".parse::<Digest>(),
            Err(ParseDigestError::UnknownAlgorithm { .. })
        ));
    }
}
