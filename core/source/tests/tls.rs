//! TLS: who is trusted, and who we are.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hyper::Version;
use pontoon_layer::Digest;
use pontoon_source::{Anonymous, Config, Error, Pushed, Reference, Registry, Upload, Urgency};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::server::{Content, Reply, Server};
use crate::{blob, quick, reference};

/// A CA and what it has signed.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::new([]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    /// Its own certificate, in PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key, in PEM.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(crate) fn server(&self, clients: Option<&Authority>) -> ServerConfig {
        use rustls::pki_types::pem::PemObject;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let (certificate, key) = self.issue();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        builder.with_single_cert(vec![certificate], key).unwrap()
    }
}

struct Case {
    root: tempfile::TempDir,
    server: Server,
    bytes: Vec<u8>,
}

impl Case {
    async fn new(mut tls: ServerConfig, protocols: &[&str]) -> Self {
        tls.alpn_protocols = protocols
            .iter()
            .map(|one| one.as_bytes().to_vec())
            .collect();
        let (bytes, _) = blob(1000);
        let content = Content::default().blob(&bytes);
        Case {
            root: tempfile::tempdir().unwrap(),
            server: Server::with_tls(Some(tls), move |seen| content.answer(seen)).await,
            bytes,
        }
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.root.path().join("_default").join(name), text).unwrap();
    }

    /// Reads some bytes with this hosts.toml.
    async fn read(&self, hosts: &str) -> Result<(), Error> {
        self.file("hosts.toml", hosts);
        read(self.root.path(), &self.server, &self.bytes).await
    }
}

async fn read(root: &Path, server: &Server, bytes: &[u8]) -> Result<(), Error> {
    let config = Config {
        hosts_directories: vec![root.to_owned()],
        attempts: 2,
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    let image = Reference::parse(&format!("{}/app", server.host())).unwrap();
    let app = registry.blob(&image, pontoon_layer::Digest::of(bytes), bytes.len() as u64);
    let read = app.read(10..20, Urgency::Demand).await?;
    assert_eq!(read, bytes[10..20]);
    Ok(())
}

#[tokio::test]
async fn only_a_known_authority_is_trusted_unless_nobody_shall_be_checked() {
    let authority = Authority::new("the server's");
    let case = Case::new(authority.server(None), &["h2", "http/1.1"]).await;
    fs::create_dir(case.root.path().join("_default")).unwrap();
    case.file("ca.pem", &authority.0.pem());
    case.file("other.pem", &Authority::new("another").0.pem());
    case.read("ca = 'ca.pem'").await.unwrap();
    assert_eq!(case.server.seen()[0].version, Version::HTTP_2);
    case.read("ca = ['other.pem', 'ca.pem']").await.unwrap();
    case.read("skip_verify = true").await.unwrap();
    for hosts in [
        "ca = 'other.pem'".to_owned(),
        format!("server = 'https://{}'", case.server.host()),
    ] {
        let error = case.read(&hosts).await.unwrap_err();
        assert!(
            matches!(error, Error::Untrusted { .. }) && !error.is_transient(),
            "{error:?}"
        );
        assert!(error.to_string().contains("`ca`"), "{error}");
    }
    // Loopback is plain where nothing is said.
    let error = case.read("").await.unwrap_err();
    assert!(!matches!(error, Error::Untrusted { .. }), "{error:?}");
    let error = case.read("ca = 'hosts.toml'").await.unwrap_err();
    assert!(matches!(error, Error::Configuration { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_there_is_one() {
    let (authority, clients) = (
        Authority::new("the server's"),
        Authority::new("the clients'"),
    );
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let case = Case::new(authority.server(Some(&clients)), protocols).await;
        fs::create_dir(case.root.path().join("_default")).unwrap();
        case.file("ca.pem", &authority.0.pem());
        let (certificate, key) = clients.issue();
        case.file("client.pem", &certificate);
        case.file("client.key", &key);
        case.file("both.pem", &(certificate + &key));
        let (certificate, key) = authority.issue();
        case.file("foreign.pem", &(certificate + &key));
        case.read("ca = 'ca.pem'\nclient = [['client.pem', 'client.key']]")
            .await
            .unwrap();
        case.read("ca = 'ca.pem'\nclient = 'both.pem'")
            .await
            .unwrap();
        for hosts in ["ca = 'ca.pem'", "ca = 'ca.pem'\nclient = 'foreign.pem'"] {
            let error = case.read(hosts).await.unwrap_err();
            assert!(
                matches!(error, Error::Unauthorized { .. }),
                "{hosts}: {error:?}"
            );
            assert!(error.to_string().contains("`client`"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_plain_server_is_said_to_be_plain() {
    let (bytes, _) = blob(1000);
    let server = Server::start(|_| crate::server::Reply::new(200)).await;
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("_default")).unwrap();
    fs::write(
        root.path().join("_default/hosts.toml"),
        "skip_verify = true",
    )
    .unwrap();
    let error = read(root.path(), &server, &bytes).await.unwrap_err();
    assert!(error.to_string().contains("http://"), "{error:?}");
}

#[tokio::test]
async fn what_a_tag_stands_for_is_not_asked_of_anybody_without_tls() {
    let (bytes, _) = blob(1000);
    let content = Content::default().blob(&bytes).manifest("1", b"{}");
    let plain = Server::start(move |seen| content.answer(seen)).await;
    let url = plain.url();
    let authority = Authority::new("ours");
    let front = Server::with_tls(Some(authority.server(None)), move |seen| {
        Reply::new(307).header("location", format!("{url}{}", seen.path))
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("_default")).unwrap();
    let hosts = root.path().join("_default/hosts.toml");
    fs::write(hosts, "skip_verify = true").unwrap();
    let config = Config {
        hosts_directories: vec![root.path().to_owned()],
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    let image = Reference::parse(&format!("{}/app:1", front.host())).unwrap();
    let error = registry.resolve(&image).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    assert_eq!(plain.seen().len(), 0);
    // What has a digest may come from anywhere.
    let digest = pontoon_layer::Digest::of(&bytes);
    let app = registry.blob(&image, digest, 1000);
    let read = app.read(0..1000, Urgency::Demand).await.unwrap();
    assert_eq!(read, bytes);
}

/// Behind a proxy that speaks TLS for it, a registry may not know its own scheme. Nothing goes without TLS for all that.
#[tokio::test]
async fn an_upload_does_not_leave_tls() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("_default");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("hosts.toml"), "skip_verify = true").unwrap();
    let plain = Server::start(|_| Reply::new(201)).await;
    let elsewhere = plain.url();
    let tls = Authority::new("a").server(None);
    let server = Server::with_tls(Some(tls), move |seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => {
            let own = format!("http://{}", seen.header("host").unwrap());
            let is_own = seen.path.starts_with("/v2/own/");
            let host = if is_own { &own } else { &elsewhere };
            Reply::new(202).header("location", format!("{host}/v2/upload"))
        }
        _ => Reply::new(201),
    })
    .await;
    let config = Config {
        hosts_directories: vec![root.path().to_owned()],
        ..quick()
    };
    let registry = Registry::new(config, Arc::new(Anonymous));
    let upload = Upload {
        digest: &Digest::of(b"blob"),
        size: 4,
        from: None,
        open: &|| Ok(Box::new(&b"blob"[..])),
        sent: &|_| (),
    };
    let (own, other) = (reference(&server, "own"), reference(&server, "other"));
    let pushed = registry.push_blob(&own, &upload).await;
    assert_eq!(pushed.unwrap(), Pushed::Sent);
    assert_eq!(server.seen_of("/v2/upload")[0].body, "blob");
    let pushed = registry.push_blob(&other, &upload).await;
    let error = pushed.unwrap_err();
    assert!(error.to_string().contains("without TLS"), "{error}");
    assert!(plain.seen().is_empty());
}
