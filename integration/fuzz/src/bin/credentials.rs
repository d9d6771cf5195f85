//! Files with credentials: Docker's `config.json`, and what was remembered. The first line is an image.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pontoon_source::{Credentials, DockerConfig, Reference, Remembered, Secret};
use tokio::runtime::Runtime;

/// In memory.
const FILE: &str = "/dev/shm/pontoon-fuzz-credentials";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("there are descriptors")
});

fuzz_target!(|text: &str| {
    let Some((image, file)) = text.split_once('\n') else {
        return;
    };
    // No helper is run here: they are other people's programs.
    if file.contains("cred") || file.contains("\\u") {
        return;
    }
    let Ok(reference) = Reference::parse(image) else {
        return;
    };
    fs::write(FILE, file).expect("there is memory");
    let path = Path::new(FILE);
    let look = |source: &dyn Credentials| {
        let found = RUNTIME.block_on(source.lookup(reference.host(), &reference));
        for credential in found.into_iter().flatten() {
            // Nothing of a secret is shown.
            let secret = match &credential.secret {
                Secret::Password { password, .. } => password,
                Secret::IdentityToken(token) | Secret::RegistryToken(token) => token,
            };
            let shown = format!("{credential:?}");
            assert!(secret.len() < 12 || !shown.contains(secret.as_str()));
        }
    };
    look(&DockerConfig::new(path));
    if let Ok(remembered) = Remembered::open(path) {
        look(&remembered);
    }
});
