//! The key of a node.

use std::fmt;
use std::path::Path;

use libp2p_identity::ed25519;

use crate::{Error, PeerId, Result, key_file};

/// Who this node is: an ed25519 key that it keeps. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    key: ed25519::Keypair,
    peer_id: PeerId,
}

impl Identity {
    /// The key in the file, which is made when there is none.
    ///
    /// # Errors
    /// [`Error::KeyMode`] if anybody but the owner may read the file, [`Error::Malformed`] if no key is in it, [`Error::File`].
    pub fn open(path: &Path) -> Result<Identity> {
        if let Some(key) = key_file::read(path)? {
            return Ok(Identity::new(key));
        }
        let key = ed25519::Keypair::generate();
        if key_file::create(path, &key)? {
            return Ok(Identity::new(key));
        }
        // Somebody else was faster.
        key_file::read(path)?
            .map(Identity::new)
            .ok_or_else(|| Error::Malformed {
                path: path.to_owned(),
                what: "key of a node",
                reason: "somebody deletes it: restart".to_owned(),
            })
    }

    /// A key that nobody keeps: for tests, and for who only asks.
    pub fn ephemeral() -> Identity {
        Identity::new(ed25519::Keypair::generate())
    }

    fn new(key: ed25519::Keypair) -> Identity {
        let peer_id = libp2p_identity::PublicKey::from(key.public()).to_peer_id();
        Identity { key, peer_id }
    }

    /// What others know this node by.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub(crate) fn key(&self) -> &ed25519::Keypair {
        &self.key
    }

    #[cfg(test)]
    pub(crate) fn keypair(&self) -> libp2p_identity::Keypair {
        self.key.clone().into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_node_is_the_same_peer_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peer").join("key");
        let first = Identity::open(&path).unwrap();
        assert_eq!(Identity::open(&path).unwrap().peer_id(), first.peer_id());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing but the key is left there");
        fs::remove_file(&path).unwrap();
        assert_ne!(Identity::open(&path).unwrap().peer_id(), first.peer_id());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_and_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        Identity::open(&path).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::open(&path).unwrap_err();
            assert!(matches!(error, Error::KeyMode { mode: found, .. } if found == mode));
            assert!(error.to_string().contains("chmod 0600"), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        Identity::open(&path).unwrap();
        let long = format!("ed25519 {}", "A".repeat(5000));
        for text in [
            "",
            "ed25519",
            "ed25519 AAAA",
            "rsa AAAA",
            "ed25519 !",
            &long,
        ] {
            fs::write(&path, text).unwrap();
            let error = Identity::open(&path).unwrap_err();
            assert!(
                matches!(error, Error::Malformed { .. }),
                "{text:?}: {error}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn of_two_that_start_together_both_are_the_same_peer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let open = || Identity::open(&path).unwrap().peer_id();
        let ids = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }
}
