//! A filesystem as data, and what a crash leaves of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::Random;
use crate::Key;

/// A file or directory. The root is 0.
pub(crate) type Id = usize;

const SECTOR: usize = 512;

/// Something that happened to a filesystem.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Link {
        dir: Id,
        name: String,
        node: Id,
        is_dir: bool,
    },
    Rename {
        from: (Id, String),
        to: (Id, String),
        node: Id,
    },
    Unlink {
        dir: Id,
        name: String,
    },
    Write {
        file: Id,
        offset: u64,
        data: Vec<u8>,
    },
    SetLen {
        file: Id,
        len: u64,
    },
    /// Of a file's content or a directory's names.
    Sync(Id),
    /// From here on a crash must leave these chunks.
    Promise(BTreeMap<Key, Vec<usize>>),
}

/// What becomes of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The process was killed: the page cache has it all.
    Nothing,
    Everything,
    /// Names and lengths are in the journal, contents are not.
    Contents,
    /// Contents are there, names and lengths are not.
    Names,
    /// Names up to some moment; each sector of contents by chance.
    Some(u64),
}

/// A filesystem.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>),
    Dir(BTreeMap<String, Id>),
    /// Its number is taken.
    Unborn,
}

impl Image {
    /// The filesystem below `root`; `see` is shown every file.
    pub(crate) fn load(root: &Path, see: &mut dyn FnMut(Id, &Path)) -> Image {
        let mut image = Image::default();
        image.load_node(root, see);
        image
    }

    fn load_node(&mut self, path: &Path, see: &mut dyn FnMut(Id, &Path)) -> Id {
        let id = self.new_id();
        if path.is_file() {
            self.nodes[id] = Node::File(fs::read(path).unwrap());
            see(id, path);
            return id;
        }
        let mut names = BTreeMap::new();
        if path.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                names.insert(name, self.load_node(&entry.path(), see));
            }
        }
        self.nodes[id] = Node::Dir(names);
        id
    }

    /// Writes the filesystem to the empty directory `root`.
    pub(crate) fn store(&self, root: &Path) {
        let mut next = vec![(0, root.to_owned())];
        while let Some((id, path)) = next.pop() {
            match self.nodes.get(id) {
                Some(Node::Dir(names)) => {
                    if !path.is_dir() {
                        fs::create_dir(&path).unwrap();
                    }
                    let below = names.iter().map(|(name, id)| (*id, path.join(name)));
                    next.extend(below);
                }
                Some(Node::File(content)) => fs::write(&path, content).unwrap(),
                _ => {}
            }
        }
    }

    pub(crate) fn new_id(&mut self) -> Id {
        self.nodes.push(Node::Unborn);
        self.nodes.len() - 1
    }

    pub(crate) fn find(&self, path: &Path) -> Option<Id> {
        let mut id = 0;
        for name in path {
            let Node::Dir(names) = &self.nodes[id] else {
                return None;
            };
            id = *names.get(name.to_str()?)?;
        }
        Some(id)
    }

    fn bear(&mut self, id: Id, node: Node) {
        if self.nodes.len() <= id {
            self.nodes.resize(id + 1, Node::Unborn);
        }
        if matches!(self.nodes[id], Node::Unborn) {
            self.nodes[id] = node;
        }
    }

    fn names(&mut self, id: Id) -> &mut BTreeMap<String, Id> {
        self.bear(id, Node::Dir(BTreeMap::new()));
        match &mut self.nodes[id] {
            Node::Dir(names) => names,
            node => panic!("{node:?} is no directory"),
        }
    }

    fn content(&mut self, id: Id) -> &mut Vec<u8> {
        self.bear(id, Node::File(Vec::new()));
        match &mut self.nodes[id] {
            Node::File(content) => content,
            node => panic!("{node:?} is no file"),
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Link {
                dir,
                name,
                node,
                is_dir,
            } => {
                match is_dir {
                    true => self.bear(*node, Node::Dir(BTreeMap::new())),
                    false => self.bear(*node, Node::File(Vec::new())),
                }
                self.names(*dir).insert(name.clone(), *node);
            }
            Event::Rename { from, to, node } => {
                let names = self.names(from.0);
                if names.get(&from.1) == Some(node) {
                    names.remove(&from.1);
                }
                self.names(to.0).insert(to.1.clone(), *node);
            }
            Event::Unlink { dir, name } => {
                self.names(*dir).remove(name);
            }
            Event::Write { file, offset, data } => {
                let start = *offset as usize;
                let content = self.content(*file);
                content.resize(content.len().max(start + data.len()), 0);
                content[start..start + data.len()].copy_from_slice(data);
            }
            Event::SetLen { file, len } => self.content(*file).resize(*len as usize, 0),
            Event::Sync(_) | Event::Promise(_) => {}
        }
    }
}

impl Event {
    /// Whose sync makes it durable.
    fn touched(&self) -> Vec<Id> {
        match self {
            Event::Link { dir, .. } | Event::Unlink { dir, .. } => vec![*dir],
            Event::Rename { from, to, .. } => vec![from.0, to.0],
            Event::Write { file, .. } | Event::SetLen { file, .. } => vec![*file],
            Event::Sync(_) | Event::Promise(_) => Vec::new(),
        }
    }

    fn is_name(&self) -> bool {
        matches!(
            self,
            Event::Link { .. } | Event::Rename { .. } | Event::Unlink { .. }
        )
    }
}

/// What is left of `start` after a crash that let only `events` happen.
pub(crate) fn image_after(start: &Image, events: &[Event], loss: Loss) -> Image {
    let mut durable = vec![false; events.len()];
    let mut synced = BTreeSet::new();
    for (index, event) in events.iter().enumerate().rev() {
        if let Event::Sync(id) = event {
            synced.insert(*id);
        }
        durable[index] = event.touched().iter().any(|id| synced.contains(id));
    }
    let seed = match loss {
        Loss::Some(seed) => seed * 100_000 + events.len() as u64,
        _ => 0,
    };
    let mut random = Random::new(seed);
    // Recent names are the ones in doubt.
    let names_until = events.len() - random.below(events.len().min(12) + 1);
    let mut image = start.clone();
    for (index, event) in events.iter().enumerate() {
        let survives = durable[index]
            || match loss {
                Loss::Nothing => true,
                Loss::Everything => false,
                Loss::Contents => !matches!(event, Event::Write { .. }),
                Loss::Names => matches!(event, Event::Write { .. }),
                Loss::Some(_) if event.is_name() => index < names_until,
                Loss::Some(_) => random.coin(),
            };
        match event {
            _ if survives => image.apply(event),
            Event::Write { file, offset, data } if matches!(loss, Loss::Some(_)) => {
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    if random.coin() {
                        let offset = offset + (number * SECTOR) as u64;
                        let data = sector.to_vec();
                        image.apply(&Event::Write {
                            file: *file,
                            offset,
                            data,
                        });
                    }
                }
            }
            _ => {}
        }
    }
    image
}

/// Every moment at which a crash can leave something new.
pub(crate) fn cuts(events: &[Event]) -> impl Iterator<Item = &[Event]> {
    (0..=events.len())
        .filter(|end| !matches!(events.get(*end), Some(Event::Promise(_))))
        .map(|end| &events[..end])
}

/// What must be there after a crash that let only `events` happen.
pub(crate) fn promised(events: &[Event]) -> BTreeMap<Key, Vec<usize>> {
    let mut promises = events.iter().rev().filter_map(|event| match event {
        Event::Promise(promise) => Some(promise.clone()),
        _ => None,
    });
    promises.next().unwrap_or_default()
}

/// The path of a file below a layer's directory.
pub(crate) fn layer_file(dir: &Path, key: &Key, file: &str) -> PathBuf {
    crate::dir::place(dir, key).join(file)
}
