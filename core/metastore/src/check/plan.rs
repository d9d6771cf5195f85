//! What is wrong with the tables and what to change: pure, so that every damage can be tried.

use std::collections::{BTreeMap, HashMap};

use pontoon_snapshot::{Key, KeyStyle, Kind, SnapshotterName};

use super::{Finding, Tables};
use crate::schema::{
    INDEX_BATCH, INDEX_CHILD, INDEX_ID, INDEX_REMOVED, IndexKey, row_key, split_row_key,
};
use crate::stored::{Row, decode_removed, encode_removed};

/// What was found, and what repairs it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) findings: Vec<Finding>,
    pub(super) edits: Vec<Edit>,
    /// Snapshots that are kept.
    pub(super) snapshots: u64,
}

/// A change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    DropSnapshot(Vec<u8>),
    PutSnapshot(Vec<u8>, Vec<u8>),
    DropIndex(IndexKey),
    PutIndex(IndexKey, Vec<u8>),
    NextId(u64),
}

/// A record that can be read, by its row's key.
type Rows = BTreeMap<Vec<u8>, (SnapshotterName, Row)>;

/// The rows of the index that the records call for.
type Expected = BTreeMap<IndexKey, Vec<u8>>;

pub(super) fn plan(tables: &Tables) -> Plan {
    let mut plan = Plan::default();
    let mut expected = Expected::new();
    let mut rows = plan.readable(tables, &mut expected);
    plan.one_record_per_id(tables, &mut rows);
    plan.usable_parents(&mut rows, &mut expected);
    plan.parent_ids(&mut rows);
    plan.styles(&rows);
    plan.snapshots = rows.len() as u64;
    for (key, (_, row)) in &rows {
        let id = row.record.id.get();
        expected.insert((INDEX_ID, id, 0), key.clone());
        expected.remove(&(INDEX_REMOVED, id, 0));
        if let Some(parent_id) = row.parent_id {
            expected.insert((INDEX_CHILD, parent_id.get(), id), Vec::new());
        }
    }
    let above = first_free_id(tables, &expected);
    plan.index(tables, expected);
    plan.next_id(tables, above);
    plan
}

impl Plan {
    fn found(&mut self, object: String, problem: impl Into<String>, remedy: &str) {
        self.findings.push(Finding {
            object,
            problem: problem.into(),
            remedy: remedy.to_owned(),
            repairable: true,
        });
    }

    /// The records that can be read; the others are dropped.
    fn readable(&mut self, tables: &Tables, expected: &mut Expected) -> Rows {
        let mut rows = Rows::new();
        for (row_key, bytes) in &tables.snapshots {
            let row = split_row_key(row_key)
                .ok_or_else(|| "its key is no snapshotter name and key".to_owned())
                .and_then(|(name, key)| match Row::decode(&name, &key, bytes) {
                    Ok(row) => Ok((name, row)),
                    Err(error) => Err(error.to_string()),
                });
            match row {
                Ok(row) => drop(rows.insert(row_key.clone(), row)),
                Err(problem) => {
                    let object = format!("record {}", row_key.escape_ascii());
                    self.found(object, problem, "drop the record and its directory");
                    self.edits.push(Edit::DropSnapshot(row_key.clone()));
                    // Only the index still knows which directory it had.
                    for (index_key, value) in &tables.index {
                        if index_key.0 == INDEX_ID && value == row_key {
                            let removed = (INDEX_REMOVED, index_key.1, 0);
                            expected.insert(removed, encode_removed(None));
                        }
                    }
                }
            }
        }
        rows
    }

    /// Two records in one directory: the one that the index names stays, else the first.
    fn one_record_per_id(&mut self, tables: &Tables, rows: &mut Rows) {
        let mut keys_of: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        for (key, (_, row)) in &*rows {
            let keys = keys_of.entry(row.record.id.get()).or_default();
            keys.push(key.clone());
        }
        for (id, keys) in keys_of {
            let indexed = tables.index.get(&(INDEX_ID, id, 0));
            let stays = keys.iter().find(|key| Some(*key) == indexed);
            let stays = stays.or(keys.first()).cloned();
            for key in keys {
                if Some(&key) != stays.as_ref()
                    && let Some((name, row)) = rows.remove(&key)
                {
                    let problem = format!("its directory {id} is another snapshot's");
                    self.found(object(&name, &row), problem, "drop the record");
                    self.edits.push(Edit::DropSnapshot(key));
                }
            }
        }
    }

    /// A snapshot without its parents cannot be mounted: it goes, and so do those that are built on it.
    fn usable_parents(&mut self, rows: &mut Rows, expected: &mut Expected) {
        let problems = chain_problems(rows);
        for (key, problem) in problems {
            if let Some((name, row)) = rows.remove(&key) {
                let remedy = "drop the record and its directory";
                self.found(object(&name, &row), problem, remedy);
                self.edits.push(Edit::DropSnapshot(key));
                let removed = encode_removed(row.record.layer.as_deref());
                expected.insert((INDEX_REMOVED, row.record.id.get(), 0), removed);
            }
        }
    }

    /// A record's copy of its parent's id.
    fn parent_ids(&mut self, rows: &mut Rows) {
        let id_of: HashMap<Vec<u8>, _> = rows
            .iter()
            .map(|(key, (_, row))| (key.clone(), row.record.id))
            .collect();
        for (key, (name, row)) in rows {
            let parent = row.record.info.parent.as_ref();
            let parent_id = parent.and_then(|parent| id_of.get(&row_key(name, parent)).copied());
            if row.parent_id != parent_id {
                let problem = "it has a wrong id for its parent";
                self.found(object(name, row), problem, "correct it");
                row.parent_id = parent_id;
                self.edits
                    .push(Edit::PutSnapshot(key.clone(), row.encode()));
            }
        }
    }

    /// Two kinds of client under one name: nobody here can say which is right.
    fn styles(&mut self, rows: &Rows) {
        let mut first: BTreeMap<&SnapshotterName, KeyStyle> = BTreeMap::new();
        let mut told: Vec<&SnapshotterName> = Vec::new();
        for (name, row) in rows.values() {
            let style = row.record.info.key.style();
            if *first.entry(name).or_insert(style) != style && !told.contains(&name) {
                told.push(name);
                self.findings.push(Finding {
                    object: format!("snapshotter name {name}"),
                    problem: "it holds keys of containerd and raw keys, so two clients share it"
                        .to_owned(),
                    remedy: "not repairable: let one of the clients remove its snapshots, and give it a name of its own".to_owned(),
                    repairable: false,
                });
            }
        }
    }

    /// The index against the records.
    fn index(&mut self, tables: &Tables, mut expected: Expected) {
        for (key, bytes) in &tables.index {
            let unused = |expected: &Expected| !expected.contains_key(&(INDEX_ID, key.1, 0));
            match key.0 {
                INDEX_BATCH if bytes.len() == 8 => continue,
                INDEX_REMOVED if unused(&expected) && decode_removed(bytes).is_ok() => {
                    expected.insert(*key, bytes.clone());
                }
                _ => {}
            }
            if !expected.contains_key(key) {
                let problem = "no record calls for it";
                self.found(index_object(*key), problem, "drop it from the index");
                self.edits.push(Edit::DropIndex(*key));
            }
        }
        for (key, bytes) in expected {
            if tables.index.get(&key) != Some(&bytes) {
                // Rows of what is dropped here follow from findings that are told already.
                if key.0 != INDEX_REMOVED {
                    let problem = "it is missing or wrong";
                    self.found(index_object(key), problem, "make it from the record");
                }
                self.edits.push(Edit::PutIndex(key, bytes));
            }
        }
    }

    fn next_id(&mut self, tables: &Tables, above: u64) {
        if tables.next_id < above {
            let object = "next id".to_owned();
            let problem = format!(
                "it is {}, but {above} is the first free one",
                tables.next_id
            );
            self.found(object, problem, "raise it");
            self.edits.push(Edit::NextId(above));
        }
    }
}

/// Above the id of every directory that there may be: of records, of what was removed, and of what is removed here.
fn first_free_id(tables: &Tables, expected: &Expected) -> u64 {
    let names_directory = |key: &&IndexKey| matches!(key.0, INDEX_ID | INDEX_REMOVED);
    let removed = tables.index.keys().filter(|key| key.0 == INDEX_REMOVED);
    let ids = expected.keys().filter(names_directory).chain(removed);
    let greatest = ids.map(|key| key.1).max();
    greatest.map_or(1, |id| id.saturating_add(1))
}

/// What is wrong with the chains of `rows`, for each row that is on no sound chain.
fn chain_problems(rows: &Rows) -> BTreeMap<Vec<u8>, String> {
    let mut sound: HashMap<Vec<u8>, bool> = HashMap::new();
    let mut problems = BTreeMap::new();
    for start in rows.keys() {
        let mut path = Vec::new();
        let mut next = Some(start.clone());
        let mut below = true;
        while let Some(key) = next.take() {
            if let Some(known) = sound.get(&key) {
                below = *known;
                break;
            }
            if path.contains(&key) {
                problems.insert(key, "it is among its own ancestors".to_owned());
                below = false;
                break;
            }
            let Some((name, row)) = rows.get(&key) else {
                below = false;
                break;
            };
            path.push(key);
            next = row
                .record
                .info
                .parent
                .as_ref()
                .map(|parent| row_key(name, parent));
        }
        // From the bottom up: each is as sound as what is below it and its own link.
        for key in path.into_iter().rev() {
            let problem = link_problem(rows, &key);
            below = below && problem.is_none();
            if !below {
                let problem =
                    problem.unwrap_or_else(|| "a snapshot below it is dropped".to_owned());
                problems.entry(key.clone()).or_insert(problem);
            }
            sound.insert(key, below);
        }
    }
    problems
}

/// What is wrong between a row and its parent.
fn link_problem(rows: &Rows, key: &[u8]) -> Option<String> {
    let (name, row) = rows.get(key)?;
    let parent = row.record.info.parent.as_ref()?;
    match rows.get(&row_key(name, parent)) {
        None => Some(format!("its parent {parent} is missing")),
        Some((_, found)) if found.record.info.kind != Kind::Committed => Some(format!(
            "its parent {parent} is {}, not committed",
            found.record.info.kind
        )),
        Some(_) => None,
    }
}

fn object(name: &SnapshotterName, row: &Row) -> String {
    let key: &Key = &row.record.info.key;
    format!("snapshot {key} of {name}")
}

fn index_object((tag, first, second): IndexKey) -> String {
    match tag {
        INDEX_ID => format!("index of id {first}"),
        INDEX_CHILD => format!("index of child {second} of {first}"),
        INDEX_REMOVED => format!("record of removed snapshot {first}"),
        INDEX_BATCH => "count of transactions".to_owned(),
        _ => format!("row ({tag}, {first}, {second}) of the index"),
    }
}
