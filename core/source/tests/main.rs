//! The client against servers that behave, and servers that do not.
#![allow(missing_docs, reason = "nothing here is a library")]
#![allow(clippy::unwrap_used, reason = "what a test unwraps is what it asserts")]

mod auth;
mod credentials;
mod dragonfly;

mod faults;
mod hosts;
mod push;
mod server;
mod tls;
mod transfers;

use std::sync::Arc;
use std::time::Duration;

use pontoon_layer::Digest;
use pontoon_source::{Anonymous, Config, Credential, Credentials, Fixed, Reference, Registry};

use server::Server;

/// Impatient enough for tests, patient enough for a busy machine.
fn quick() -> Config {
    Config {
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_secs(1),
        patience: Duration::from_secs(20),
        backoff: Duration::from_millis(5),
        ..Config::default()
    }
}

fn anonymous() -> Registry {
    Registry::new(quick(), Arc::new(Anonymous))
}

/// Users with passwords for every host of this machine, the first one is tried first.
fn users(all: &[(&str, &str)]) -> Arc<dyn Credentials> {
    let entry = |(user, password): &(&str, &str)| {
        let credential = Credential::password(user, password, &format!("the test's {user}"));
        ("127.0.0.*:*".to_owned(), credential)
    };
    Arc::new(Fixed::new(all.iter().map(entry).collect()))
}

fn reference(server: &Server, repository: &str) -> Reference {
    Reference::parse(&format!("{}/{repository}:1", server.host())).unwrap()
}

/// Bytes that differ everywhere, and what they are called.
fn blob(length: usize) -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..length)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

/// A manifest of one layer.
fn manifest(layer: &Digest, size: usize) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"c","digest":"{layer}","size":{size}}},
        "layers":[{{"mediaType":"l","digest":"{layer}","size":{size}}}]}}"#
    )
    .into_bytes()
}
