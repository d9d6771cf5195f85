//! What `docs/stargz.md` says is what the programs say.

use std::fs;
use std::path::Path;

fn repository(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

#[test]
fn every_reason_for_not_being_lazy_has_a_remedy() {
    let page = repository("docs/stargz.md");
    let source = repository("core/remote/src/reason.rs");
    let constants = source.split("pub(crate) const ").skip(1);
    let reasons: Vec<&str> = constants
        .filter_map(|constant| constant.split('"').nth(1))
        .collect();
    assert!(reasons.len() > 10, "{reasons:?}");
    for reason in &reasons {
        assert!(page.contains(&format!("\n| {reason} | ")), "{reason}");
    }
    let (_, table) = page.split_once("## Why is it not lazy?").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    for row in rows {
        let reason = row.split(" | ").next().unwrap().trim_start_matches("| ");
        assert!(reasons.contains(&reason), "{reason:?} is nobody's reason");
    }
}

#[test]
fn keys_that_replace_others_are_there() {
    keys_of("stargz", 10);
    keys_of("nydus", 8);
}

fn keys_of(plugin: &str, least: usize) {
    let reference = repository(&format!("docs/{plugin}-config.md"));
    let page = repository(&format!("docs/{plugin}.md"));
    let start = format!("| `/etc/pontoon/{plugin}.toml` |");
    let (_, table) = page.split_once(&start).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let mut keys = 0;
    for row in table.lines().skip(2) {
        let ours = row.split(" | ").nth(1).unwrap();
        let spans = ours.split('`').skip(1).step_by(2);
        for span in spans.filter(|span| span.starts_with('[')) {
            let (section, key) = span.split_once(' ').unwrap();
            let (_, section) = reference.split_once(&format!("\n## {section}\n")).unwrap();
            let section = section.split("\n## ").next().unwrap();
            assert!(section.contains(&format!("\n| `{key}` | ")), "{span}");
            keys += 1;
        }
    }
    assert!(keys > least, "{keys}");
}
