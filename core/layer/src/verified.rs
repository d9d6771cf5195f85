//! Data whose digest was checked.

use std::ops::Deref;

use crate::digest::{Digest, Hasher};

/// Bytes that have the digest that they should have. There is no other way to make one than to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<B> {
    bytes: B,
    digest: Digest,
}

/// Data is not what its digest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the data has the digest {actual} instead of {expected}: it was damaged on its way or in its registry, and is fetched again"
)]
pub struct DigestMismatch {
    /// What it should have been.
    pub expected: Digest,
    /// What it is.
    pub actual: Digest,
}

impl<B: AsRef<[u8]>> Verified<B> {
    /// `bytes`, if their digest is `digest`.
    pub fn check(bytes: B, digest: &Digest) -> Result<Verified<B>, DigestMismatch> {
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(bytes.as_ref());
        let actual = hasher.finish();
        if actual != *digest {
            return Err(DigestMismatch {
                expected: digest.clone(),
                actual,
            });
        }
        Ok(Verified {
            bytes,
            digest: actual,
        })
    }
}

impl<B> Verified<B> {
    /// The bytes alone: from here on nothing says that they were checked.
    pub fn into_inner(self) -> B {
        self.bytes
    }

    /// What they were checked against: whoever stores them under a digest can see that it is this one.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl<B: AsRef<[u8]>> Deref for Verified<B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Verified<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_its_digest_is_verified() {
        let digest = Digest::of(b"data");
        let verified = Verified::check(b"data".to_vec(), &digest).unwrap();
        assert_eq!(&*verified, b"data");
        assert_eq!(*verified.digest(), digest);
        assert_eq!(verified.into_inner(), b"data");
        let mismatch = Verified::check(b"date", &digest).unwrap_err();
        assert_eq!(mismatch.expected, digest);
        assert_eq!(mismatch.actual, Digest::of(b"date"));
    }
}
