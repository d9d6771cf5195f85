//! What a registry answers with: a status in the first two bytes, lines of headers, an empty line, a body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_source::fuzzing::answer;

/// One letter each, so that the fuzzer need not spell them.
const NAMES: [&str; 4] = [
    "www-authenticate",
    "retry-after",
    "content-range",
    "x-other",
];

fuzz_target!(|bytes: &[u8]| {
    let Some(([high, low], rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let status = u16::from_be_bytes([*high, *low]) % 600;
    let mut headers = Vec::new();
    let mut body = rest;
    while let Some(end) = body.iter().position(|byte| *byte == b'\n') {
        let (line, after) = (&body[..end], &body[end + 1..]);
        body = after;
        let Some((name, value)) = line.split_first() else {
            break;
        };
        headers.push((NAMES[usize::from(*name) % NAMES.len()], value));
    }
    let read = answer(status, &headers, body);
    if let Some(realm) = read.realm {
        assert!(realm.starts_with("http://") || realm.starts_with("https://"));
    }
    // One line of ours, and a short one.
    assert!(read.said.chars().count() <= 200);
    assert!(!read.said.contains(char::is_control));
});
