//! The reference for an order that was learned: an image that holds only what the start opens.
//!
//! What is opened is seen by fanotify(7) on the root file system of a container on overlayfs. The image has one layer with
//! the files that were opened, and with every directory and symbolic link, because following one is not seen. Of Python's
//! sources only size and time are looked at when they were compiled before: zeros stand for them.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use pontoon_rig::checkout;
use pontoon_rig::gate::Link;
use pontoon_rig::image::{LayerBuilder, Layout, Workload};

use super::node::{Column, Node, Settings};
use super::store::{Form, Store};
use super::timed;

/// How long the listener waits before it looks again.
const PERIOD: Duration = Duration::from_millis(2);

/// Another number for another way to make them: what was kept is not used any more.
const RECIPE: u32 = 1;

/// Stores the reduced image of `workload`, whose image is `plain`. It is made on the first call.
pub(super) fn store(
    store: &mut Store,
    workload: Workload,
    plain: &Layout,
    settings: &Settings,
) -> Result<(), Box<dyn Error>> {
    let digest = plain.manifest_digest()?;
    let hex = digest.split(':').nth(1).unwrap_or_default();
    // Enough of it that two images never meet.
    let short = hex.get(..16).unwrap_or(hex);
    let dir = checkout::rig_dir().join(format!("images/floor-{short}-{RECIPE}"));
    if Layout::open(&dir).is_err() {
        make(store, workload, settings, &dir)?;
    }
    store.push(workload, Form::Floor, &Layout::open(&dir)?)
}

/// Makes the reduced image of `workload` in `into`.
fn make(
    store: &Store,
    workload: Workload,
    settings: &Settings,
    into: &Path,
) -> Result<(), Box<dyn Error>> {
    store.wire.set_link(Link::default());
    let node = Node::start(Column::Overlayfs, store, workload, settings)?;
    let reference = store.image(workload, Form::Plain)?.reference.clone();
    timed::run(&mut node.pull(&reference), None)?;
    let opened = opened(&node, workload, &reference)?;
    let image = node.sandbox.subdir("image")?;
    node.containerd
        .ctr(["images", "mount", &reference, &text(&image)])?;
    let mut layer = LayerBuilder::new().well_compressed();
    for path in kept(&image, &opened)? {
        layer.tree_entry(&image, &path)?;
    }
    for path in opened.iter().filter_map(|path| source(path)) {
        zeros(&mut layer, &image, &path)?;
    }
    let layer = layer.finish()?;
    node.containerd.ctr(["images", "unmount", &text(&image)])?;
    let dir = node.sandbox.subdir("floor")?;
    let layout = Layout::write(&dir, &workload.spec(), &[layer])?;
    eprintln!(
        "{}: a start opens {} files; an image of them has {:.1} MB",
        workload.name(),
        opened.len(),
        layout.size()? as f64 / 1e6,
    );
    // What is there under its name is whole.
    fs::rename(dir, into)?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Which files a start of `workload` opens, relative to its root.
fn opened(
    node: &Node,
    workload: Workload,
    reference: &str,
) -> Result<BTreeSet<PathBuf>, Box<dyn Error>> {
    let root = node.sandbox.subdir("traced")?;
    let containerd = &node.containerd;
    containerd.ctr(["images", "mount", "--rw", reference, &text(&root)])?;
    let listener = Listener::start(&root)?;
    let mut command = containerd.ctr_command();
    command.args(["run", "--rm", "--rootfs"]);
    for variable in workload.spec().environment {
        command.args(["--env", &variable]);
    }
    command.args([&text(&root), "traced"]);
    command.args(workload.command());
    timed::run(&mut command, Some(workload.line()))?;
    let opened = listener.end()?;
    containerd.ctr(["images", "unmount", &text(&root)])?;
    Ok(opened)
}

/// Sees what is opened on one file system, while it lives.
struct Listener {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<BTreeSet<PathBuf>, nix::Error>>>,
}

impl Listener {
    fn start(root: &Path) -> Result<Self, Box<dyn Error>> {
        let init = InitFlags::FAN_CLASS_NOTIF
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_UNLIMITED_QUEUE;
        let flags = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC;
        let group = Fanotify::init(init, flags)?;
        // Whatever the mount namespace: containers are in their own.
        let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        let mask = MaskFlags::FAN_OPEN | MaskFlags::FAN_OPEN_EXEC;
        group.mark(mark, mask, rustix::fs::CWD, Some(root))?;
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (over, root) = (Arc::clone(&over), root.to_owned());
            move || listen(&group, &root, &over)
        });
        Ok(Listener {
            over,
            thread: Some(thread),
        })
    }

    fn end(mut self) -> Result<BTreeSet<PathBuf>, Box<dyn Error>> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("the listener has ended")?;
        Ok(thread.join().map_err(|_| "the listener panicked")??)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Nobody wants what it has found.
            let _ = thread.join();
        }
    }
}

fn listen(
    group: &Fanotify,
    root: &Path,
    over: &AtomicBool,
) -> Result<BTreeSet<PathBuf>, nix::Error> {
    let mut opened = BTreeSet::new();
    loop {
        // What was opened before the end is in the queue by then.
        let last = over.load(Ordering::Relaxed);
        match group.read_events() {
            Ok(events) => {
                for event in events {
                    let Some(fd) = event.fd() else { continue };
                    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
                    // One that was deleted meanwhile is not of the image.
                    if let Ok(path) = fs::read_link(link) {
                        // A container's paths begin at its root, ours here.
                        let inside = path.strip_prefix(root).or(path.strip_prefix("/"));
                        opened.extend(inside.ok().map(Path::to_owned));
                    }
                }
                continue;
            }
            Err(nix::Error::EAGAIN) => {}
            Err(error) => return Err(error),
        }
        if last {
            return Ok(opened);
        }
        std::thread::sleep(PERIOD);
    }
}

/// The paths of the image at `root` that are kept when `opened` is what is needed, parents first.
fn kept(root: &Path, opened: &BTreeSet<PathBuf>) -> Result<BTreeSet<PathBuf>, Box<dyn Error>> {
    let mut kept = BTreeSet::new();
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_symlink() || kind.is_dir() || opened.contains(&path) {
                kept.insert(path.clone());
            }
            if kind.is_dir() {
                left.push(path);
            }
        }
    }
    Ok(kept)
}

/// The Python source of which `path` is the compiled form (PEP 3147).
fn source(path: &Path) -> Option<PathBuf> {
    let dir = path.parent()?;
    let name = path.file_name()?.to_str()?;
    let (module, _) = name.strip_suffix(".pyc")?.split_once(".cpython-")?;
    (dir.file_name()? == "__pycache__").then(|| dir.with_file_name(format!("{module}.py")))
}

/// Adds `path` of the image at `root` with zeros in place of what is in it.
fn zeros(layer: &mut LayerBuilder, root: &Path, path: &Path) -> Result<(), Box<dyn Error>> {
    let Ok(meta) = fs::symlink_metadata(root.join(path)) else {
        return Ok(());
    };
    let bytes = vec![0; usize::try_from(meta.len())?];
    let (uid, gid) = (meta.uid().into(), meta.gid().into());
    layer.time(u64::try_from(meta.mtime())?).file(
        &text(path),
        meta.mode() & 0o7777,
        uid,
        gid,
        &bytes,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_compiled_module_is_beside_its_folder() {
        let of = |path: &str| source(Path::new(path));
        let found = of("usr/lib/python3.11/__pycache__/os.cpython-311.pyc");
        assert_eq!(found, Some("usr/lib/python3.11/os.py".into()));
        assert_eq!(of("usr/lib/python3.11/os.py"), None);
        assert_eq!(of("elsewhere/os.cpython-311.pyc"), None);
    }
}
