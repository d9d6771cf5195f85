//! What other nodes ask for: a path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_peer::wire::request::Request;

fuzz_target!(|text: &str| {
    if let Some(request) = Request::parse(text) {
        assert_eq!(Request::parse(&request.to_string()), Some(request.clone()));
        if let Request::Chunks { chunks, .. } = request {
            assert!(!chunks.is_empty());
        }
    }
});
