//! The annotations of a layer: one a line, name and value with a blank between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pontoon_fuzz::limits;
use pontoon_layer::parse_annotations;

fuzz_target!(|text: &str| {
    let annotations = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if let Ok(annotated) = parse_annotations(&annotations, 1 << 20, &limits())
        && let Some(place) = annotated.place
    {
        assert!(place.payload_end <= place.range.start);
        assert!(place.range.start < place.range.end && place.range.end <= 1 << 20);
    }
});
