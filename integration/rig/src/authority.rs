//! A certificate authority of the run's own, and what it vouches for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::{At, Error, Result};

/// An authority; its key lives as long as the value.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

impl Authority {
    /// Makes a new authority.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).map_err(certificates)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "Pontoon test authority");
        let key = KeyPair::generate().map_err(certificates)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(certificates)?;
        Ok(Self { issuer })
    }

    /// Its certificate, as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes its certificate to `path`.
    pub fn write(&self, path: &Path) -> Result<PathBuf> {
        fs::write(path, self.pem()).at("write", path)?;
        Ok(path.into())
    }

    /// A server on loopback: `127.0.0.1` and `localhost`.
    pub fn server(&self) -> Result<Identity> {
        let names = vec!["127.0.0.1".into(), "localhost".into()];
        self.identity(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A server of another name, which no client on loopback may trust.
    pub fn stranger(&self) -> Result<Identity> {
        let names = vec!["elsewhere.invalid".into()];
        self.identity(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client.
    pub fn client(&self) -> Result<Identity> {
        let names = vec!["client.invalid".into()];
        self.identity(names, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn identity(&self, names: Vec<String>, usage: ExtendedKeyUsagePurpose) -> Result<Identity> {
        let mut params = CertificateParams::new(names).map_err(certificates)?;
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(certificates)?;
        let signed = params.signed_by(&key, &self.issuer).map_err(certificates)?;
        Ok(Identity {
            certificate: signed.der().clone(),
            certificate_pem: signed.pem(),
            key,
        })
    }
}

impl Identity {
    /// One that vouches for itself.
    pub(crate) fn self_signed(name: &str) -> Result<Self> {
        let params = CertificateParams::new(vec![name.into()]).map_err(certificates)?;
        let key = KeyPair::generate().map_err(certificates)?;
        let signed = params.self_signed(&key).map_err(certificates)?;
        Ok(Self {
            certificate: signed.der().clone(),
            certificate_pem: signed.pem(),
            key,
        })
    }

    /// Writes `<name>.pem` and `<name>.key` to `dir` and returns both paths.
    pub fn write(&self, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
        let certificate = dir.join(format!("{name}.pem"));
        let key = dir.join(format!("{name}.key"));
        fs::write(&certificate, &self.certificate_pem).at("write", &certificate)?;
        fs::write(&key, self.key.serialize_pem()).at("write", &key)?;
        Ok((certificate, key))
    }

    /// The certificate, as DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The certificate, as PEM.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key, as PKCS #8.
    pub(crate) fn key(&self) -> Vec<u8> {
        self.key.serialize_der()
    }

    /// What a server with this identity offers: TLS 1.2 and 1.3, HTTP/1.1 and 2.
    pub(crate) fn server_config(&self) -> Result<ServerConfig> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::unexpected("a TLS server", e.to_string()))?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key);
        let mut config = config.map_err(|e| Error::unexpected("a TLS server", e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(error: rcgen::Error) -> Error {
    Error::unexpected("making a certificate", error.to_string())
}
