//! A `hosts.toml`. Behind its first line, which is the host that it is about.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pontoon_source::fuzzing::hosts;

/// In memory.
static DIRECTORY: LazyLock<&Path> = LazyLock::new(|| {
    let directory = Path::new("/dev/shm/pontoon-fuzz-hosts");
    fs::create_dir_all(directory.join("_default")).expect("there is memory");
    directory
});

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let Some((host, file)) = end.map(|end| (&bytes[..end], &bytes[end + 1..])) else {
        return;
    };
    let Ok(host) = std::str::from_utf8(host) else {
        return;
    };
    // References have no other hosts, and the file is not to be found in another place.
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte);
    if !host.bytes().all(is_host) || host.is_empty() || host.starts_with('.') {
        return;
    }
    fs::write(DIRECTORY.join("_default/hosts.toml"), file).expect("there is memory");
    for url in hosts(DIRECTORY.to_owned(), host).into_iter().flatten() {
        assert!(
            url.starts_with("http://") || url.starts_with("https://"),
            "{url}"
        );
        assert!(
            !url.ends_with('/') || url.matches('/').count() == 3,
            "{url}"
        );
        assert!(!url.contains(['?', '#']), "{url}");
        let authority = url.split('/').nth(2).unwrap_or_default();
        assert!(!authority.is_empty() && !authority.contains('@'), "{url}");
    }
});
