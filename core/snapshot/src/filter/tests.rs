use std::time::SystemTime;

use super::*;
use crate::{Key, Kind, Labels};

fn info(labels: &[(&str, &str)]) -> Info {
    let labels = labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()));
    Info {
        key: Key::new("default/2/sha256:aa").unwrap(),
        parent: Some(Key::new("default/1/sha256:bb").unwrap()),
        kind: Kind::Committed,
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        labels: Labels::new(labels).unwrap(),
    }
}

fn matches(filter: &str, info: &Info) -> bool {
    Filter::parse(&[filter]).unwrap().matches(info)
}

#[test]
fn the_filter_that_containerd_sends() {
    let layer = info(&[("containerd.io/snapshot.ref", "sha256:aa")]);
    let filter = r#"labels."containerd.io/snapshot.ref"==sha256:aa,parent=="default/1/sha256:bb""#;
    assert!(matches(filter, &layer));
    assert!(!matches(filter, &info(&[])));
    assert!(!matches(&filter.replace("1/", "3/"), &layer));
}

#[test]
fn an_absent_field_is_empty() {
    let info = info(&[("a", "1")]);
    for filter in [
        "labels.b!=1",
        "labels.b~=^$",
        "nothing!=1",
        "parent",
        r#"labels.a!="""#,
    ] {
        assert!(matches(filter, &info), "{filter}");
    }
    for filter in [
        "labels.b",
        r#"labels.b=="""#,
        r#"labels.b!="""#,
        "nothing",
        "labels",
    ] {
        assert!(!matches(filter, &info), "{filter}");
    }
}

#[test]
fn no_filter_and_an_empty_one_match_everything() {
    let info = info(&[]);
    assert!(Filter::parse::<&str>(&[]).unwrap().matches(&info));
    assert!(Filter::default().matches(&info));
    assert!(Filter::parse(&["kind==active", ""]).unwrap().matches(&info));
    assert!(!Filter::parse(&["kind==active"]).unwrap().matches(&info));
}

#[test]
fn expressions_are_those_of_go_on_ascii() {
    let one = |value: &str| info(&[("a", value)]);
    assert!(matches(r"labels.a~=^\d+$", &one("42")));
    assert!(!matches(r"labels.a~=^\d+$", &one("٤٢")));
    assert!(!matches(r"labels.a~=^\w+$", &one("é")));
    assert!(matches(r"labels.a~=^.$", &one("é")));
    assert!(matches(r"labels.a~=^[\s\d]+$", &one("4 2")));
    assert!(matches(r"labels.a~=\bfoo\b", &one("éfooé")));
    assert!(matches(r"labels.a~=/^\\pL+$/", &one("é")));
    assert!(matches(r"labels.a~=|(?i)É/|", &one("é/")));
}

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (filter, told) in [
        (
            "name=x",
            r#"at byte 4: expected an operator: "==", "!=" or "~=", found '='"#,
        ),
        ("name== ", "at byte 7: expected a value, but it ends"),
        ("name==x ", "at byte 7: expected ',' or the end, found ' '"),
        (
            "labels.",
            r#"at byte 7: expected a field: a word or "quoted text", but it ends"#,
        ),
        (r#"labels."a"#, "at byte 7: the quoted text does not end"),
        (
            r#"name=="\q""#,
            r"at byte 9: no such escape; write a backslash as \\",
        ),
        (
            "name~=a(",
            "at byte 8: not a regular expression: unclosed group",
        ),
        ("name==a\0", "at byte 7: this character is not allowed"),
    ] {
        assert_eq!(
            Filter::parse(&[filter]).unwrap_err().reason,
            told,
            "{filter}"
        );
    }
    let error = crate::Error::from(Filter::parse(&["name=x"]).unwrap_err());
    assert_eq!(error.class(), crate::Class::Invalid);
}

#[test]
fn limits_come_first() {
    let told = |filters: &[String]| Filter::parse(filters).unwrap_err().to_string();
    assert!(told(&vec!["name".to_owned(); FILTERS_MAX + 1]).contains("256 filters"));
    let long = told(&["n".repeat(FILTERS_BYTES_MAX + 1)]);
    assert!(long.contains("64 KiB") && long.len() < 500, "{long}");
    assert!(told(&vec!["name~=a".to_owned(); EXPRESSIONS_MAX + 1]).contains("16 regular"));
    assert!(told(&["name~=(a{100}){100}{100}".to_owned()]).contains("too big"));
    assert!(told(&[format!("name~={}", "(".repeat(1000))]).contains("not a regular expression"));
    assert!(Filter::parse(&vec!["name"; FILTERS_MAX]).is_ok());
}
