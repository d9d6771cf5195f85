//! Layers that become a nydus image, which is read back and compared: scripts whose lines become entries, one for each layer,
//! with a NUL between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::script;

/// As many as it takes for one to hide what another one has hidden.
const LAYERS_MAX: usize = 4;

fuzz_target!(|bytes: &[u8]| {
    let scripts = bytes.split(|byte| *byte == 0).take(LAYERS_MAX);
    let archives: Vec<Vec<u8>> = scripts.map(script).collect();
    // What is refused is refused.
    let _ = pontoon_convert::fuzzing::round_trip(&archives);
});
