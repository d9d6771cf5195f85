//! Certificates that are bound to a [`PeerId`](crate::PeerId), and TLS 1.3 with them, for both ports.
//!
//! The form is that of the libp2p TLS specification (libp2p/specs, tls/tls.md): a self-signed certificate of a key of its own, with an
//! extension in which the node's key signs that key. `libp2p-tls` is not used: it links a second provider of cryptography.
