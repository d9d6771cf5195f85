//! The filter grammar against containerd's own parser, and against input that nobody wrote.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeMap;
use std::time::SystemTime;

use pontoon_snapshot::{Filter, Info, Key, Kind, Labels};
use proptest::prelude::*;
use serde::Deserialize;

/// Written by `go run ./filters` in `integration/conformance`, with containerd 2.3.4.
const TABLE: &str = include_str!("filters.jsonl");

/// Taken by us alone: the `regex` crate repeats a repetition, Go's does not.
const TAKEN: &str = "name~=a**";

#[derive(Deserialize)]
struct Snapshot {
    name: String,
    #[serde(default)]
    parent: String,
    kind: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Outcome {
    filter: String,
    #[serde(default)]
    found: String,
    #[serde(default)]
    refused: bool,
}

fn info(snapshot: Snapshot) -> Info {
    Info {
        key: Key::new(snapshot.name).unwrap(),
        parent: (!snapshot.parent.is_empty()).then(|| Key::new(snapshot.parent).unwrap()),
        kind: match snapshot.kind.as_str() {
            "view" => Kind::View,
            "active" => Kind::Active,
            "committed" => Kind::Committed,
            other => panic!("the table has kind {other}"),
        },
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        labels: Labels::new(snapshot.labels).unwrap(),
    }
}

#[test]
fn every_filter_finds_what_containerd_finds() {
    let mut lines = TABLE.lines();
    let snapshots: Vec<Snapshot> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let infos: Vec<Info> = snapshots.into_iter().map(info).collect();
    let mut differing = Vec::new();
    let mut compared = 0;
    for line in lines {
        let wanted: Outcome = serde_json::from_str(line).unwrap();
        let ours = Filter::parse(&[&wanted.filter]).map(|filter| {
            let letter = |info| if filter.matches(info) { '1' } else { '0' };
            infos.iter().map(letter).collect::<String>()
        });
        let same = match &ours {
            Ok(_) if wanted.filter == TAKEN => true,
            Ok(found) => !wanted.refused && *found == wanted.found,
            // containerd takes an expression that does not compile, and then matches nothing with it.
            Err(error) if error.reason.contains("regular expression") => {
                wanted.refused || !wanted.found.contains('1')
            }
            Err(_) => wanted.refused,
        };
        if !same {
            differing.push(format!("{line}\n  ours: {ours:?}"));
        }
        compared += 1;
    }
    assert!(compared > 3000, "the table has {compared} filters only");
    assert!(
        differing.is_empty(),
        "{} of {compared} differ:\n{}",
        differing.len(),
        differing.join("\n")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_text_makes_it_panic(filter in "\\PC{0,60}") {
        let _ = Filter::parse(&[&filter]);
    }

    #[test]
    fn no_mixture_of_its_signs_makes_it_panic(
        filter in r#"([a-z.,=!~"/| \\\n]|name|labels\.|==|!=|~=|\\x|\\u[0-9a-f]|\\7|\(|\[|\{|é){0,30}"#
    ) {
        let _ = Filter::parse(&[&filter]);
    }

    #[test]
    fn a_quoted_value_is_found_again(value in any::<String>(), key in "[^\\p{Cc}]{1,20}") {
        let quoted = |text: &str| {
            text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>()
        };
        let label = (key.clone(), value.clone());
        let info = Info {
            key: Key::new("k").unwrap(),
            parent: None,
            kind: Kind::Active,
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            labels: Labels::new([label]).unwrap(),
        };
        let filter = format!("labels.\"{}\"==\"{}\"", quoted(&key), quoted(&value));
        let found = Filter::parse(&[filter]).unwrap().matches(&info);
        prop_assert_eq!(found, !value.is_empty());
    }
}
