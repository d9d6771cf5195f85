//! TLS: what is trusted, and what we show.
//!
//! Trusted is what the system trusts (`rustls-native-certs`: the distribution's bundle, or `SSL_CERT_FILE` and
//! `SSL_CERT_DIR`, as for every Go program) and the CAs of a hosts.toml. Roots compiled in would neither know a
//! company's CA that the system knows, nor forget one that it removed; `rustls-platform-verifier` does the same on
//! Linux, but cannot be given more than one kind of roots and checks them at another time.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Result};
use crate::hosts::{Pem, TlsSettings};

/// A configuration for HTTP/2 or HTTP/1.1, whichever the server prefers.
pub(crate) fn client_config(settings: &TlsSettings) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Configuration {
            path: "TLS".to_owned(),
            reason: error.to_string(),
        })?;
    let builder = match settings.skip_verify {
        true => {
            let algorithms = provider.signature_verification_algorithms;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(algorithms)))
        }
        false => builder.with_root_certificates(roots(&settings.ca)?),
    };
    let keys = settings
        .client
        .iter()
        .map(|(certificate, key)| certified_key(&provider, certificate, key))
        .collect::<Result<Vec<_>>>()?;
    let mut config = match keys.is_empty() {
        true => builder.with_no_client_auth(),
        false => builder.with_client_cert_resolver(Arc::new(Keys(keys))),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(more: &[Pem]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    // Bundles hold certificates that no verifier understands; those that it does count.
    let (known, _) = roots.add_parsable_certificates(system.certs);
    if known == 0 {
        tracing::warn!(
            problems = ?system.errors,
            "this system trusts no CA, so no public registry can be read; install ca-certificates or set SSL_CERT_FILE"
        );
    }
    for pem in more {
        let certificates = certificates(pem)?;
        for certificate in certificates {
            roots.add(certificate).map_err(|error| {
                wrong(
                    pem,
                    &format!("it holds a certificate that is none: {error}"),
                )
            })?;
        }
    }
    Ok(roots)
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(&pem.bytes)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| wrong(pem, &format!("it is no PEM file: {error}")))?;
    match certificates.is_empty() {
        true => Err(wrong(pem, "it holds no certificate")),
        false => Ok(certificates),
    }
}

fn certified_key(
    provider: &CryptoProvider,
    certificate: &Pem,
    key: &Pem,
) -> Result<Arc<CertifiedKey>> {
    let private = PrivateKeyDer::from_pem_slice(&key.bytes)
        .map_err(|error| wrong(key, &format!("it holds no private key: {error}")))?;
    let made = CertifiedKey::from_der(certificates(certificate)?, private, provider);
    made.map(Arc::new)
        .map_err(|error| wrong(key, &format!("key and certificate cannot be used: {error}")))
}

fn wrong(pem: &Pem, reason: &str) -> Error {
    Error::Configuration {
        path: pem.path.display().to_string(),
        reason: reason.to_owned(),
    }
}

/// Our certificates; the first that the server can check is shown.
#[derive(Debug)]
struct Keys(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Keys {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        self.0.iter().find(usable).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Trusts whoever answers, as `skip_verify` asks for.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
