//! TLS 1.3 that is bound to the [`PeerId`] at the other end, for both ports.
//!
//! Both ends show the node's ed25519 key as a raw public key (RFC 7250), which is all that a [`PeerId`] is made of: there is no
//! certificate whose other fields somebody could have filled in, none that expires, and nothing of X.509 is parsed. The handshake
//! proves that the other end has the secret key. Whether it may take part is another question: [`Admission`](crate::Admission).
//!
//! `libp2p-tls` is not used: it links a second provider of cryptography.

use std::sync::Arc;

use libp2p_identity::{PublicKey, ed25519};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use crate::{Error, Identity, PeerId, Result};

/// What the SubjectPublicKeyInfo of an ed25519 key begins with; the key follows (RFC 8410, section 4).
const SPKI_START: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// What the PKCS #8 form of an ed25519 key begins with; the seed follows (RFC 8410, section 7).
const PKCS8_START: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// For the side that is connected to. Every client has to show its key; [`peer_id`] says whose it is.
///
/// # Errors
/// [`Error::Tls`] if the key does not suit the cryptography, which would be a bug.
pub fn server_config(identity: &Identity) -> Result<ServerConfig> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(Verifier::new(&provider, None));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key(
            identity,
        )?)));
    // Who comes back shows its key again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// For the side that connects, to the peer `expected` or, where only an address is known, to whoever is there. The name
/// that rustls wants for a connection is not looked at; it can be the address.
///
/// # Errors
/// [`Error::Tls`] if the key does not suit the cryptography, which would be a bug.
pub fn client_config(identity: &Identity, expected: Option<PeerId>) -> Result<ClientConfig> {
    let provider = Arc::new(provider());
    let verifier = Arc::new(Verifier::new(&provider, expected));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key(
            identity,
        )?)));
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Who showed this in the handshake: the only one of the connection's `peer_certificates()`. `None` if it is no ed25519 key.
pub fn peer_id(shown: &CertificateDer<'_>) -> Option<PeerId> {
    let key = shown.as_ref().strip_prefix(&SPKI_START)?;
    // The length is checked here: whatever comes next may take a prefix.
    let key: &[u8; 32] = key.try_into().ok()?;
    let key = ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// AES first: with its instructions it costs less than half of what ChaCha20 does.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

fn key(identity: &Identity) -> Result<Arc<CertifiedKey>> {
    let secret = [PKCS8_START.as_slice(), identity.key().secret().as_ref()].concat();
    let secret = PrivatePkcs8KeyDer::from(secret);
    let signing = ring::sign::any_eddsa_type(&secret).map_err(Error::Tls)?;
    let public = [SPKI_START.as_slice(), &identity.key().public().to_bytes()].concat();
    let public = CertificateDer::from(public);
    Ok(Arc::new(CertifiedKey::new(vec![public], signing)))
}

/// Takes any node's key, or that of one.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    expected: Option<PeerId>,
}

impl Verifier {
    fn new(provider: &Arc<CryptoProvider>, expected: Option<PeerId>) -> Verifier {
        Verifier {
            provider: Arc::clone(provider),
            expected,
        }
    }

    fn check(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Checked<()> {
        let peer = peer_id(shown).filter(|_| more.is_empty());
        let peer = peer.ok_or(CertificateError::BadEncoding)?;
        if self.expected.is_some_and(|expected| expected != peer) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(shown.as_ref()),
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }
}

type Checked<T> = std::result::Result<T, rustls::Error>;

/// TLS 1.2 is not offered, so nobody gets here.
fn only_tls13() -> Checked<HandshakeSignatureValid> {
    Err(PeerIncompatible::Tls13RequiredForQuic.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Checked<ServerCertVerified> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Checked<ClientCertVerified> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        only_tls13()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Checked<HandshakeSignatureValid> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    type Ended = std::io::Result<Option<PeerId>>;

    /// What the server and the client know of each other.
    async fn meet(server: ServerConfig, client: ClientConfig) -> (Ended, Ended) {
        let (here, there) = duplex(16 << 10);
        let accept = async {
            let mut stream = TlsAcceptor::from(Arc::new(server)).accept(here).await?;
            stream.write_all(b"x").await?;
            stream.flush().await?;
            let shown = stream.get_ref().1.peer_certificates();
            Ok(shown.and_then(|shown| peer_id(&shown[0])))
        };
        let connect = async {
            let name = ServerName::from(std::net::Ipv4Addr::LOCALHOST);
            let connector = TlsConnector::from(Arc::new(client));
            let mut stream = connector.connect(name, there).await?;
            // A client's own handshake is over before the server has judged it.
            stream.read_u8().await?;
            let shown = stream.get_ref().1.peer_certificates();
            Ok(shown.and_then(|shown| peer_id(&shown[0])))
        };
        tokio::join!(accept, connect)
    }

    #[tokio::test]
    async fn both_ends_know_who_the_other_one_is() {
        let (a, b) = (Identity::ephemeral(), Identity::ephemeral());
        for expected in [None, Some(a.peer_id())] {
            let server = server_config(&a).unwrap();
            let client = client_config(&b, expected).unwrap();
            let (server, client) = meet(server, client).await;
            assert_eq!(server.unwrap(), Some(b.peer_id()));
            assert_eq!(client.unwrap(), Some(a.peer_id()));
        }
    }

    #[tokio::test]
    async fn somebody_else_at_the_address_is_refused() {
        let (a, b) = (Identity::ephemeral(), Identity::ephemeral());
        let server = server_config(&a).unwrap();
        let client = client_config(&b, Some(b.peer_id())).unwrap();
        let (server, client) = meet(server, client).await;
        assert!(server.is_err() && client.is_err());
    }

    #[tokio::test]
    async fn who_shows_a_key_that_is_not_its_own_is_refused() {
        let (a, b, other) = (
            Identity::ephemeral(),
            Identity::ephemeral(),
            Identity::ephemeral(),
        );
        let mut forged = (*key(&b).unwrap()).clone();
        forged.cert = key(&other).unwrap().cert.clone();
        let mut client = client_config(&b, None).unwrap();
        client.client_auth_cert_resolver =
            Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(forged)));
        let (server, client) = meet(server_config(&a).unwrap(), client).await;
        assert!(server.is_err() && client.is_err());
    }

    #[tokio::test]
    async fn who_shows_no_key_is_refused() {
        let a = Identity::ephemeral();
        let provider = Arc::new(provider());
        let verifier = Arc::new(Verifier::new(&provider, None));
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let (server, client) = meet(server_config(&a).unwrap(), client).await;
        assert!(server.is_err() && client.is_err());
    }

    #[test]
    fn what_is_no_ed25519_key_has_no_peer() {
        let identity = Identity::ephemeral();
        let good = key(&identity).unwrap().cert[0].clone();
        assert_eq!(peer_id(&good), Some(identity.peer_id()));
        for cut in 0..good.len() {
            assert_eq!(peer_id(&CertificateDer::from(good[..cut].to_vec())), None);
        }
        let longer = [good.as_ref(), &[0]].concat();
        assert_eq!(peer_id(&CertificateDer::from(longer)), None);
        assert_eq!(identity.keypair().public().to_peer_id(), identity.peer_id());
    }
}
