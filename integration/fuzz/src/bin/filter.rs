//! Filters of List, a line each.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use pontoon_snapshot::{Filter, Info, Key, Kind, Labels};

fuzz_target!(|text: &str| {
    let filters: Vec<&str> = text.lines().collect();
    let Ok(all) = Filter::parse(&filters) else {
        return;
    };
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels = [
        label("a", "1"),
        label("a.b", "\u{e9}x"),
        label("containerd.io/gc.root", "now"),
    ];
    let key = |text: &str| Key::new(text).expect("it is one");
    let info = Info {
        key: key("default/2/sha256:aa"),
        parent: Some(key("default/1/sha256:bb")),
        kind: Kind::Committed,
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        labels: Labels::new(labels).expect("they are few"),
    };
    // A list matches what any of its filters matches.
    let mut any = filters.is_empty();
    for filter in &filters {
        let alone = Filter::parse(&[filter]).expect("it was accepted among others");
        any |= alone.matches(&info);
    }
    assert_eq!(all.matches(&info), any);
    assert_eq!(all.as_strings(), filters);
});
