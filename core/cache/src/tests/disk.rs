//! A disk that remembers the order of everything, and that can be told to fail, to be full, and what time it is.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::image::{Event, Id, Image};
use crate::disk::{Disk, Space, System};

/// An operation that is about to be done, for rules that let it fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    MakeDir,
    Create,
    Open,
    Write,
    Read,
    SetLen,
    SyncData,
    SyncDir,
    Rename,
    RemoveFile,
    RemoveDir,
}

type Rule = Box<dyn FnMut(Call, &Path) -> Option<io::Error> + Send>;

/// What is done after an operation.
type After = Box<dyn FnMut(Call, &Path) + Send>;

/// The disk.
pub(crate) struct TestDisk {
    state: Mutex<State>,
    after: Mutex<Option<After>>,
}

thread_local! {
    /// What is done after an operation is not done after its own operations.
    static AFTER: Cell<bool> = const { Cell::new(false) };
}

/// What is done after an operation has ended, also if it panicked.
struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        AFTER.set(false);
    }
}

struct State {
    root: PathBuf,
    /// The names as they are now.
    image: Image,
    start: Image,
    events: Vec<Event>,
    /// Files by device and number; they are kept open so that no number is used twice.
    files: HashMap<(u64, u64), (Id, PathBuf, File)>,
    rule: Option<Rule>,
    space: Option<Space>,
    now: Option<u64>,
    boot: Option<String>,
    record: bool,
}

impl std::fmt::Debug for TestDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDisk").finish_non_exhaustive()
    }
}

impl TestDisk {
    /// The disk whose directory `root` is the cache's.
    pub(crate) fn new(root: &Path) -> Arc<TestDisk> {
        let mut files = HashMap::new();
        let image = Image::load(root, &mut |id, path| {
            let file = File::open(path).unwrap();
            let metadata = file.metadata().unwrap();
            let number = (metadata.dev(), metadata.ino());
            files.insert(number, (id, path.to_owned(), file));
        });
        Arc::new(TestDisk {
            state: Mutex::new(State {
                root: root.to_owned(),
                start: image.clone(),
                image,
                events: Vec::new(),
                files,
                rule: None,
                space: None,
                now: None,
                boot: System.boot(),
                record: true,
            }),
            after: Mutex::default(),
        })
    }

    /// The same, without remembering.
    pub(crate) fn forgetful(root: &Path) -> Arc<TestDisk> {
        let empty = tempfile::tempdir().unwrap();
        let disk = TestDisk::new(empty.path());
        let mut state = disk.state.lock().unwrap();
        state.record = false;
        state.root = root.to_owned();
        drop(state);
        disk
    }

    pub(crate) fn fail(&self, rule: impl FnMut(Call, &Path) -> Option<io::Error> + Send + 'static) {
        self.state.lock().unwrap().rule = Some(Box::new(rule));
    }

    /// Does `work`, and nothing after its operations.
    pub(crate) fn unwatched<T>(work: impl FnOnce() -> T) -> T {
        AFTER.set(true);
        let _ends = Ends;
        work()
    }

    /// `after` is done after every operation.
    pub(crate) fn after(&self, after: impl FnMut(Call, &Path) + Send + 'static) {
        *self.after.lock().unwrap() = Some(Box::new(after));
    }

    pub(crate) fn work(&self) {
        self.state.lock().unwrap().rule = None;
    }

    pub(crate) fn set_space(&self, total: u64, free: u64) {
        self.state.lock().unwrap().space = Some(Space { total, free });
    }

    pub(crate) fn set_now(&self, now: u64) {
        self.state.lock().unwrap().now = Some(now);
    }

    /// The machine was started anew, or does not tell.
    pub(crate) fn set_boot(&self, boot: Option<&str>) {
        self.state.lock().unwrap().boot = boot.map(str::to_owned);
    }

    /// Something is promised from here on.
    pub(crate) fn promise(&self, promise: BTreeMap<crate::Key, Vec<usize>>) {
        self.state
            .lock()
            .unwrap()
            .events
            .push(Event::Promise(promise));
    }

    /// What was there when it began, and what happened.
    pub(crate) fn recording(&self) -> (Image, Vec<Event>) {
        let state = self.state.lock().unwrap();
        (state.start.clone(), state.events.clone())
    }

    fn run<T>(
        &self,
        call: Call,
        path: &Path,
        run: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state.lock().unwrap();
        let failure = state.rule.as_mut().and_then(|rule| rule(call, path));
        let done = failure.map_or_else(|| run(&mut state), Err);
        drop(state);
        if !AFTER.replace(true) {
            let _ends = Ends;
            // Some of what is done panics.
            let mut after = self.after.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(after) = &mut *after {
                after(call, path);
            }
        }
        done
    }

    fn run_on<T>(
        &self,
        call: Call,
        file: &File,
        run: impl FnOnce(&mut State, Id) -> io::Result<T>,
    ) -> io::Result<T> {
        let (id, path) = self.state.lock().unwrap().file(file);
        self.run(call, &path, |state| run(state, id))
    }
}

impl State {
    fn file(&self, file: &File) -> (Id, PathBuf) {
        if !self.record {
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            return (0, fs::read_link(link).unwrap());
        }
        let metadata = file.metadata().unwrap();
        let (id, path, _) = &self.files[&(metadata.dev(), metadata.ino())];
        (*id, path.clone())
    }

    fn record(&mut self, event: impl FnOnce(&mut State) -> Event) {
        if self.record {
            let event = event(self);
            self.image.apply(&event);
            self.events.push(event);
        }
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap().to_owned()
    }

    fn link(&mut self, path: &Path, is_dir: bool) -> Event {
        let (dir, name) = self.place(path);
        let node = self.image.new_id();
        Event::Link {
            dir,
            name,
            node,
            is_dir,
        }
    }

    fn unlink(&self, path: &Path) -> Event {
        let (dir, name) = self.place(path);
        Event::Unlink { dir, name }
    }

    /// The directory of `path` and the name in it.
    fn place(&self, path: &Path) -> (Id, String) {
        let path = self.relative(path);
        let dir = self.image.find(path.parent().unwrap()).unwrap();
        (dir, path.file_name().unwrap().to_str().unwrap().to_owned())
    }
}

impl Disk for TestDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Call::MakeDir, path, |state| {
            System.make_dir(path)?;
            state.record(|state| state.link(path, true));
            Ok(())
        })
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.run(Call::Create, path, |state| {
            let file = System.create(path)?;
            state.record(|state| {
                let event = state.link(path, false);
                let metadata = file.metadata().unwrap();
                let number = (metadata.dev(), metadata.ino());
                if let Event::Link { node, .. } = &event {
                    let kept = (*node, path.to_owned(), file.try_clone().unwrap());
                    state.files.insert(number, kept);
                }
                event
            });
            Ok(file)
        })
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.run(Call::Open, path, |_| System.open(path))
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.run_on(Call::Write, file, |state, id| {
            System.write_at(file, bytes, offset)?;
            let data = bytes.to_vec();
            state.record(|_| Event::Write {
                file: id,
                offset,
                data,
            });
            Ok(())
        })
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.run_on(Call::Read, file, |_, _| {
            System.read_at(file, buffer, offset)
        })
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.run_on(Call::SetLen, file, |state, id| {
            System.set_len(file, len)?;
            state.record(|_| Event::SetLen { file: id, len });
            Ok(())
        })
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        self.run_on(Call::SyncData, file, |state, id| {
            state.record(|_| Event::Sync(id));
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Call::SyncDir, path, |state| {
            // It may have been taken away, and then this fails.
            System.sync_dir(path)?;
            state.record(|state| Event::Sync(state.image.find(&state.relative(path)).unwrap()));
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Call::Rename, from, |state| {
            System.rename(from, to)?;
            state.record(|state| Event::Rename {
                from: state.place(from),
                to: state.place(to),
                node: state.image.find(&state.relative(from)).unwrap(),
            });
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.run(Call::RemoveFile, path, |state| {
            System.remove_file(path)?;
            state.record(|state| state.unlink(path));
            Ok(())
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Call::RemoveDir, path, |state| {
            System.remove_dir(path)?;
            state.record(|state| state.unlink(path));
            Ok(())
        })
    }

    fn touch(&self, path: &Path, milliseconds: u64) -> io::Result<()> {
        System.touch(path, milliseconds)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let space = self.state.lock().unwrap().space;
        space.map_or_else(|| System.space(path), Ok)
    }

    fn now(&self) -> u64 {
        let now = self.state.lock().unwrap().now;
        now.unwrap_or_else(|| System.now())
    }

    fn boot(&self) -> Option<String> {
        self.state.lock().unwrap().boot.clone()
    }
}

/// What a full disk answers.
pub(crate) fn full() -> io::Error {
    rustix::io::Errno::NOSPC.into()
}

/// What a broken disk answers.
pub(crate) fn broken() -> io::Error {
    rustix::io::Errno::IO.into()
}

/// The names in a directory.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
