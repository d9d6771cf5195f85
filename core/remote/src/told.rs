//! What an image tells of its start without being started: its command, the interpreter of a script, the libraries of a
//! program, and what lies beside what is named. It is advice for what to fetch first; whatever is wrong with it, nothing
//! but bandwidth is lost.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pontoon_lazyfs::{Prefetch, Read};
use serde::Deserialize;
use serde_json::Value;

use crate::elf::{self, Head};
use crate::merged::{Found, Merged, PATH_BYTES_MAX};

/// How long programs are looked at: a registry may be slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// The most files that are looked at, and words of a command.
const FILES_MAX: usize = 512;
const WORDS_MAX: usize = 64;

/// Of a file larger than this, in bytes, only the beginning is fetched, and what was looked at.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// Of files beside what is named, those up to this are fetched, up to so many bytes of one directory's and of all. Each
/// counts as a block at least.
const BESIDE_FILE_BYTES_MAX: u64 = 64 << 10;
const BESIDE_BYTES_MAX: u64 = 4 << 20;
const BESIDE_ALL_BYTES_MAX: u64 = 16 << 20;
const BLOCK_BYTES: u64 = 4096;

/// The most bytes of the directories that one program's libraries are looked for in.
const PLACES_BYTES_MAX: usize = 16 << 10;

/// Where commands are looked for if the image does not say, as runc does.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where libraries are looked for at last.
const LIBRARIES: [&str; 6] = [
    "/lib",
    "/usr/lib",
    "/lib64",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
];

/// What an image's configuration says about its start (OCI image specification, `config`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Start {
    #[serde(rename = "Entrypoint")]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Cmd")]
    command: Option<Vec<String>>,
    #[serde(rename = "Env")]
    environment: Option<Vec<String>>,
    #[serde(rename = "WorkingDir")]
    directory: Option<String>,
}

impl Start {
    /// Whatever is no such thing says nothing.
    pub(crate) fn read(config: Option<Value>) -> Self {
        let read = config.map(serde_json::from_value);
        read.and_then(Result::ok).unwrap_or_default()
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.environment.iter().flatten();
        variables.find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
    }

    /// All words of the command that may name a file. That of a shell is taken apart at its spaces.
    fn words(&self) -> Vec<&str> {
        let command = self.entrypoint.iter().chain(&self.command).flatten();
        let words = command.flat_map(|word| word.split_whitespace());
        let is_name = |word: &&str| !word.starts_with('-') && !word.contains(['$', '*', ';', '|']);
        words.filter(is_name).take(WORDS_MAX).collect()
    }
}

/// Has fetched what the start of an image with these layers needs.
#[derive(Debug)]
pub(crate) struct Teller {
    merged: Merged,
    start: Start,
    /// Files that were looked at, by layer and inode.
    seen: HashSet<(usize, u64)>,
    /// Programs and libraries to be looked at, and where their own libraries may be.
    programs: VecDeque<(Found, Places)>,
    /// How many of [`BESIDE_ALL_BYTES_MAX`] are left.
    beside_bytes: u64,
}

/// Directories. All libraries of a program share its own.
type Places = Arc<[Vec<u8>]>;

impl Teller {
    pub(crate) fn new(merged: Merged, start: Start) -> Self {
        Teller {
            merged,
            start,
            seen: HashSet::new(),
            programs: VecDeque::new(),
            beside_bytes: BESIDE_ALL_BYTES_MAX,
        }
    }

    /// Looks at the command and at all that it leads to. What is found is on its way before that ends.
    pub(crate) async fn tell(mut self) {
        // Late advice is none.
        let _ = tokio::time::timeout(PATIENCE, self.look_at_all()).await;
    }

    async fn look_at_all(&mut self) {
        let start = self.start.clone();
        let mut named = Vec::new();
        for word in start.words() {
            match self.command(word) {
                Some(found) if found.inode.mode & 0o111 != 0 => self.add(found, &Places::default()),
                Some(found) => named.push(found),
                None => {}
            }
        }
        if let Some(found) = self.merged.find(b"/", b"/etc/ld.so.cache") {
            self.fetch(&found);
        }
        while let Some((found, directories)) = self.programs.pop_front() {
            // What cannot be read now says nothing.
            let _ = self.look_at(&found, &directories).await;
        }
        for found in named {
            self.fetch(&found);
            self.fetch_beside(&found);
        }
    }

    /// The file that a word of the command stands for.
    fn command(&self, word: &str) -> Option<Found> {
        let directory = self.start.directory.as_deref().unwrap_or("/");
        if word.contains('/') {
            return self.merged.find(directory.as_bytes(), word.as_bytes());
        }
        let path = self.start.variable("PATH").unwrap_or(PATH);
        let mut places = path.split(':').take(WORDS_MAX).chain([directory]);
        places.find_map(|place| self.merged.find(place.as_bytes(), word.as_bytes()))
    }

    /// `found` is needed, and is to be looked at.
    fn add(&mut self, found: Found, directories: &Places) {
        if self.seen.len() < FILES_MAX && self.fetch(&found) {
            self.programs.push_back((found, Arc::clone(directories)));
        }
    }

    /// Has a file fetched. False if it was already.
    fn fetch(&mut self, found: &Found) -> bool {
        let layer = Arc::as_ptr(&found.layer) as usize;
        if !self.seen.insert((layer, found.inode.nid.get())) {
            return false;
        }
        let whole = found.inode.size <= FILE_BYTES_MAX;
        let bytes = if whole { found.inode.size } else { 1 };
        let start = found.inode.data_offset;
        let chunks = found.layer.cached().chunks().find(start..start + bytes);
        let chunks = chunks.filter_map(|index| u32::try_from(index).ok());
        found.layer.prefetch(Prefetch::Chunks(chunks.collect()));
        true
    }

    /// Small files beside one that is named.
    fn fetch_beside(&mut self, found: &Found) {
        let mut left = BESIDE_BYTES_MAX.min(self.beside_bytes);
        if left < BLOCK_BYTES {
            return;
        }
        for inode in self.merged.beside(found) {
            let bytes = inode.size.max(BLOCK_BYTES);
            if inode.size <= BESIDE_FILE_BYTES_MAX && bytes <= left {
                let beside = Found {
                    inode,
                    ..found.clone()
                };
                if self.fetch(&beside) {
                    left -= bytes;
                    self.beside_bytes -= bytes;
                }
            }
        }
    }

    async fn look_at(&mut self, found: &Found, directories: &Places) -> Option<()> {
        let head = read(found, 0..elf::HEAD_BYTES as u64).await?;
        if head.starts_with(b"#!") {
            self.look_at_script(found, &head);
            return Some(());
        }
        let head = Head::read(&head)?;
        if let Some(place) = &head.interpreter {
            let path = read(found, place.clone()).await?;
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            if let Some(interpreter) = self.merged.find(b"/", path) {
                self.add(interpreter, &Places::default());
            }
        }
        let dynamic = read(found, head.dynamic.clone()?).await?;
        let dynamic = head.dynamic(&dynamic)?;
        let strings = read(found, dynamic.strings.clone()).await?;
        let text = |offset| elf::string(&strings, offset);
        let mut places = directories.to_vec();
        for list in [dynamic.rpath, dynamic.runpath].into_iter().flatten() {
            places.extend(text(list).into_iter().flat_map(|list| origins(list, found)));
        }
        let places = bounded(places);
        for name in dynamic.needed.iter().filter_map(|offset| text(*offset)) {
            if let Some(library) = self.library(name, &places, &head) {
                self.add(library, &places);
            }
        }
        Some(())
    }

    fn look_at_script(&mut self, found: &Found, head: &[u8]) {
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line.get(2..).unwrap_or_default()).into_owned();
        // `env` finds its argument, and one of `-S` that is split.
        for word in line.split_whitespace().take(4) {
            if let Some(program) = self.command(word).filter(|_| !word.starts_with('-')) {
                self.add(program, &Places::default());
            }
        }
        self.fetch_beside(found);
    }

    fn library(&self, name: &[u8], places: &[Vec<u8>], head: &Head) -> Option<Found> {
        if name.contains(&b'/') {
            return self.merged.find(b"/", name);
        }
        let given = self.start.variable("LD_LIBRARY_PATH").unwrap_or_default();
        let given = given.split(':').filter(|place| !place.is_empty());
        let given = given.take(WORDS_MAX);
        let of_machine = elf::triplet(head.machine).into_iter();
        let of_machine = of_machine.flat_map(|triplet| {
            ["/lib", "/usr/lib", "/usr/local/lib"].map(|place| format!("{place}/{triplet}"))
        });
        let last = LIBRARIES.into_iter().map(str::to_owned);
        let all = places
            .iter()
            .cloned()
            .chain(given.map(|place| place.as_bytes().to_vec()))
            .chain(of_machine.chain(last).map(String::into_bytes));
        let mut found = all.filter_map(|place| self.merged.find(&place, name));
        found.next()
    }
}

/// The directories in a list of a program, which may name its own.
fn origins(list: &[u8], found: &Found) -> Vec<Vec<u8>> {
    let list = String::from_utf8_lossy(list);
    let own = String::from_utf8_lossy(&found.directory);
    let places = list.split(':').filter(|place| !place.is_empty());
    // A name of seven bytes may stand for thousands, and there is room for hundreds of them.
    let fits = |place: &&str| {
        let names = place.matches('$').count();
        place.len() + names.saturating_mul(own.len()) <= PATH_BYTES_MAX
    };
    places
        .take(WORDS_MAX)
        .filter(fits)
        .map(|place| {
            place
                .replace("${ORIGIN}", &own)
                .replace("$ORIGIN", &own)
                .into_bytes()
        })
        .collect()
}

/// The first of `places`, as many as there may be.
fn bounded(places: Vec<Vec<u8>>) -> Places {
    let mut bytes = 0;
    let fits = |place: &Vec<u8>| {
        bytes += place.len();
        bytes <= PLACES_BYTES_MAX
    };
    places
        .into_iter()
        .take(WORDS_MAX)
        .take_while(fits)
        .collect()
}

/// The bytes `range` of a file, as far as it has them. `None` if they cannot be had.
async fn read(found: &Found, range: Range<u64>) -> Option<Vec<u8>> {
    let end = range.end.min(found.inode.size);
    let length = usize::try_from(end.checked_sub(range.start)?).ok()?;
    let mut buffer = vec![0; length];
    let offset = found.inode.data_offset.checked_add(range.start)?;
    match found.layer.look(offset, &mut buffer).ok()? {
        Read::Ready(length) => buffer.truncate(length),
        Read::Pending(bytes) => buffer = bytes.await.ok()?.to_vec(),
    }
    Some(buffer)
}

#[cfg(test)]
mod tests;
