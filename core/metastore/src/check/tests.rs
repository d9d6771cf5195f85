//! Each damage, its finding, and that a repair leaves nothing to find and every sound record as it was.

use std::time::UNIX_EPOCH;

use pontoon_snapshot::{Info, Key, Kind, Labels, SnapshotterName};

use super::plan::{Edit, Plan, plan};
use super::*;
use crate::schema::{INDEX_CHILD, INDEX_ID, INDEX_REMOVED, row_key};
use crate::stored::{Row, encode_removed};
use crate::{Record, SnapshotId};

fn name() -> SnapshotterName {
    SnapshotterName::new("n").unwrap()
}

fn row(key: &str) -> Vec<u8> {
    row_key(&name(), &Key::new(key).unwrap())
}

impl Tables {
    /// base(1) <- top(2) <- work(3, active); removed 4.
    fn sound() -> Self {
        let mut tables = Tables {
            next_id: 100,
            ..Tables::default()
        };
        tables.add("base", 1, Kind::Committed, None);
        tables.add("top", 2, Kind::Committed, Some(("base", 1)));
        tables.add("work", 3, Kind::Active, Some(("top", 2)));
        tables
            .index
            .insert((INDEX_REMOVED, 4, 0), encode_removed(Some(b"layer")));
        tables
    }

    fn add(&mut self, key: &str, id: u64, kind: Kind, parent: Option<(&str, u64)>) {
        self.put(key, id, kind, parent);
        self.index.insert((INDEX_ID, id, 0), row(key));
        if let Some((_, parent_id)) = parent {
            self.index.insert((INDEX_CHILD, parent_id, id), Vec::new());
        }
    }

    /// The record without its index.
    fn put(&mut self, key: &str, id: u64, kind: Kind, parent: Option<(&str, u64)>) {
        let info = Info {
            key: Key::new(key).unwrap(),
            parent: parent.map(|(parent, _)| Key::new(parent).unwrap()),
            kind,
            created: UNIX_EPOCH,
            updated: UNIX_EPOCH,
            labels: Labels::default(),
        };
        let record = Record {
            id: SnapshotId::new(id),
            info,
            usage: None,
            layer: None,
        };
        let parent_id = parent.map(|(_, id)| SnapshotId::new(id));
        self.snapshots
            .insert(row(key), Row { record, parent_id }.encode());
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            match edit {
                Edit::DropSnapshot(key) => drop(self.snapshots.remove(&key)),
                Edit::PutSnapshot(key, bytes) => drop(self.snapshots.insert(key, bytes)),
                Edit::DropIndex(key) => drop(self.index.remove(&key)),
                Edit::PutIndex(key, bytes) => drop(self.index.insert(key, bytes)),
                Edit::NextId(next_id) => self.next_id = next_id,
            }
        }
    }
}

/// Repairs `tables` and checks what was said and what is left.
fn repaired(mut tables: Tables, problems: &[&str], kept: &[&str]) -> Tables {
    let before = tables.snapshots.clone();
    let Plan {
        findings,
        edits,
        snapshots,
    } = plan(&tables);
    for problem in problems {
        let told = |finding: &Finding| finding.to_string().contains(problem);
        assert!(findings.iter().any(told), "{problem}: {findings:?}");
    }
    assert!(!findings.is_empty() && findings.iter().all(|finding| finding.repairable));
    tables.apply(edits);
    assert_eq!(snapshots, kept.len() as u64);
    let left: Vec<_> = tables.snapshots.keys().cloned().collect();
    assert_eq!(left, kept.iter().map(|key| row(key)).collect::<Vec<_>>());
    assert!(plan(&tables).findings.is_empty(), "{:?}", plan(&tables));
    assert!(before.keys().len() >= kept.len());
    tables
}

const ALL: [&str; 3] = ["base", "top", "work"];

#[test]
fn a_sound_store_has_no_findings() {
    let plan = plan(&Tables::sound());
    assert!(
        plan.findings.is_empty() && plan.edits.is_empty(),
        "{plan:?}"
    );
    assert_eq!(plan.snapshots, 3);
}

#[test]
fn an_unreadable_record_goes_with_what_is_built_on_it() {
    let mut tables = Tables::sound();
    tables.snapshots.insert(row("top"), b"\xff\xff".to_vec());
    let told = ["record n\\x00top", "parent top is missing"];
    let tables = repaired(tables, &told, &["base"]);
    for id in [2, 3, 4] {
        assert!(
            tables.index.contains_key(&(INDEX_REMOVED, id, 0)),
            "directory {id}"
        );
    }
}

#[test]
fn a_row_whose_key_is_none_goes() {
    let mut tables = Tables::sound();
    tables
        .snapshots
        .insert(b"no separator".to_vec(), Vec::new());
    repaired(tables, &["no separator"], &ALL);
}

#[test]
fn a_missing_parent_takes_all_above_it_along() {
    let mut tables = Tables::sound();
    tables.snapshots.remove(&row("base"));
    let told = ["parent base is missing", "below it is dropped"];
    repaired(tables, &told, &[]);
}

#[test]
fn a_parent_that_is_not_committed_is_no_parent() {
    let mut tables = Tables::sound();
    tables.add("base", 1, Kind::Active, None);
    repaired(tables, &["parent base is active"], &["base"]);
}

#[test]
fn a_circle_goes() {
    let mut tables = Tables::sound();
    tables.add("base", 1, Kind::Committed, Some(("top", 2)));
    repaired(tables, &["own ancestors"], &[]);
}

#[test]
fn a_wrong_parent_id_is_corrected() {
    let mut tables = Tables::sound();
    tables.put("top", 2, Kind::Committed, Some(("base", 77)));
    repaired(tables, &["wrong id for its parent"], &ALL);
}

#[test]
fn of_two_records_in_one_directory_the_indexed_one_stays() {
    let mut tables = Tables::sound();
    tables.put("another", 3, Kind::Active, None);
    repaired(tables, &["snapshot another of n: its directory 3"], &ALL);
}

#[test]
fn the_index_is_rebuilt() {
    let mut tables = Tables::sound();
    let whole = tables.index.clone();
    tables.index.retain(|key, _| key.0 == INDEX_REMOVED);
    let tables = repaired(
        tables,
        &["index of id 1: it is missing", "child 3 of 2"],
        &ALL,
    );
    assert_eq!(tables.index, whole);

    let mut tables = Tables::sound();
    tables.index.insert((INDEX_ID, 50, 0), row("gone"));
    tables.index.insert((INDEX_CHILD, 1, 50), Vec::new());
    tables.index.insert((INDEX_ID, 2, 0), row("work"));
    tables.index.insert((99, 0, 0), Vec::new());
    let told = [
        "index of id 50",
        "child 50 of 1",
        "index of id 2",
        "row (99",
    ];
    assert_eq!(repaired(tables, &told, &ALL).index, whole);
}

#[test]
fn a_snapshot_in_use_is_not_a_removed_one() {
    let mut tables = Tables::sound();
    tables
        .index
        .insert((INDEX_REMOVED, 2, 0), encode_removed(None));
    tables.index.insert((INDEX_REMOVED, 9, 0), b"\xff".to_vec());
    let told = ["removed snapshot 2: no record", "removed snapshot 9"];
    repaired(tables, &told, &ALL);
}

#[test]
fn the_next_id_is_above_all() {
    let mut tables = Tables::sound();
    tables.next_id = 2;
    assert_eq!(repaired(tables, &["next id"], &ALL).next_id, 5);
}

#[test]
fn the_next_id_is_above_what_is_dropped_too() {
    let mut tables = Tables::sound();
    tables.add("late", 9, Kind::Active, Some(("gone", 8)));
    tables.next_id = 0;
    assert_eq!(
        repaired(tables, &["parent gone", "next id"], &ALL).next_id,
        10
    );
}

#[test]
fn a_mix_of_styles_is_told_and_left_alone() {
    let mut tables = Tables::sound();
    tables.add("default/5/x", 5, Kind::Active, None);
    let plan = plan(&tables);
    assert_eq!(plan.findings.len(), 1, "{plan:?}");
    assert!(!plan.findings[0].repairable && plan.edits.is_empty());
}
