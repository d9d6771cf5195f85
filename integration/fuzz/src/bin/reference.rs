//! Names of images, and the maps of user namespaces, which come with labels.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_linux::IdMap;
use pontoon_source::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(
            Reference::parse(&reference.to_string()).ok(),
            Some(reference.clone())
        );
        assert!(!reference.host().contains(['/', '@', '\\', '?', '#', ' ']));
        let repository = reference.repository();
        assert!(
            repository
                .split('/')
                .all(|part| !part.is_empty() && !part.starts_with('.'))
        );
        assert!(reference.tag().is_some() || reference.digest().is_some());
    }
    let (uids, gids) = text.split_once(';').unwrap_or((text, "0:1:1"));
    if let Ok(map) = IdMap::parse(uids, gids) {
        let (uid, gid) = map.root();
        assert!(uid < u32::MAX && gid < u32::MAX);
    }
});
