//! Reading an image's files, and looking at their names and attributes: through Pontoon and through overlayfs on the
//! node's own file system.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pontoon_rig::image::Workload;
use pontoon_rig::wait;

use super::measure::{Road, quiet};
use super::node::{Column, Node, Settings, drop_caches};
use super::store::Store;
use super::table::Judged;
use super::timed;
use crate::metadata::middle;
use crate::report::Goal;

/// For how long names and attributes are asked for, at least.
const SPAN: Duration = Duration::from_millis(500);

/// One number of [`Numbers`].
type Number = fn(&Numbers) -> f64;

/// Who is compared, ours last.
const SIDES: [Column; 2] = [Column::Overlayfs, Column::Cold];

/// What one visit of an image gives.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    pulled_s: f64,
    /// From the begin of the pull until every file was read.
    read_s: f64,
    /// The first walk over all names and attributes, after the caches were dropped.
    walk_s: f64,
    warm_mb_s: f64,
    stats_s: f64,
    lists_s: f64,
    xattrs_s: f64,
}

/// The files and directories of an image.
#[derive(Debug, Default)]
struct Tree {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

impl Tree {
    /// Lists what is below `root`, with the attributes of everything, as `find -ls` does.
    fn walk(root: &Path) -> Result<Self, Box<dyn Error>> {
        let mut tree = Tree::default();
        let mut left = vec![root.to_owned()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir)? {
                let path = entry?.path();
                let kind = fs::symlink_metadata(&path)?.file_type();
                if kind.is_dir() {
                    left.push(path);
                } else if kind.is_file() {
                    tree.files.push(path);
                } else {
                    tree.others.push(path);
                }
            }
            tree.dirs.push(dir);
        }
        Ok(tree)
    }

    /// Reads every file and returns how many bytes there were.
    fn read(&self) -> Result<u64, Box<dyn Error>> {
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        for path in &self.files {
            wait::check_interrupt()?;
            let mut file = File::open(path)?;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    length => bytes += length as u64,
                }
            }
        }
        Ok(bytes)
    }

    fn stat(&self) -> Result<usize, Box<dyn Error>> {
        let all = [&self.files, &self.dirs, &self.others];
        for path in all.into_iter().flatten() {
            fs::symlink_metadata(path)?;
        }
        Ok(all.iter().map(|paths| paths.len()).sum())
    }

    fn list(&self) -> Result<usize, Box<dyn Error>> {
        let mut names = 0;
        for dir in &self.dirs {
            names += fs::read_dir(dir)?.count();
        }
        Ok(names)
    }

    /// Asks each file for its capabilities, as the kernel does when one is executed.
    fn xattr(&self) -> Result<usize, Box<dyn Error>> {
        let mut value = [0; 64];
        for path in &self.files {
            match rustix::fs::lgetxattr(path, "security.capability", &mut value[..]) {
                Ok(_) | Err(rustix::io::Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.files.len())
    }
}

/// How often a second what `ask` counts is done, warm.
fn rate(mut ask: impl FnMut() -> Result<usize, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    ask()?;
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < SPAN {
        count += ask()?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// The medians of `rounds` visits of the image of `workload`.
pub(super) fn measure(
    store: &Store,
    workload: Workload,
    rounds: u32,
    settings: &Settings,
) -> Result<Vec<Judged>, Box<dyn Error>> {
    let mut visits: Vec<[Numbers; 2]> = Vec::new();
    let mut kernel = false;
    for round in 0..rounds {
        let mut numbers = Vec::new();
        for column in SIDES {
            let (visited, erofs) = visit(store, workload, column, settings)?;
            kernel |= erofs;
            numbers.push(visited);
        }
        eprintln!("round {}: {}: {numbers:?}", round + 1, workload.name());
        visits.extend(<[Numbers; 2]>::try_from(numbers).ok());
    }
    let median = |side: usize, number: Number| {
        middle(visits.iter().map(|visit| number(&visit[side])).collect())
    };
    let name = |what: &str| format!("{}, {}: {what}", workload.name(), Road::Fast.title());
    let read = median(1, |n| n.read_s);
    let unpacked = ("overlayfs, pull", median(0, |n| n.pulled_s));
    let what = name("pull and read every file");
    let mut rows = vec![Judged::ratio(what, "s", read, unpacked, Goal::AtMost(1.0))];
    // Through FUSE no goal is set.
    let goal = if kernel {
        Goal::AtLeast(0.95)
    } else {
        Goal::None
    };
    let rates: [(&str, &str, Number); 4] = [
        ("warm read", "MB/s", |n| n.warm_mb_s),
        ("stat, warm", "1/s", |n| n.stats_s),
        ("names in readdir, warm", "1/s", |n| n.lists_s),
        ("getxattr, warm", "1/s", |n| n.xattrs_s),
    ];
    for (what, unit, number) in rates {
        let beside = ("overlayfs on its own files", median(0, number));
        rows.push(Judged::ratio(
            name(what),
            unit,
            median(1, number),
            beside,
            goal,
        ));
    }
    let walk: Number = |n| n.walk_s;
    let beside = ("overlayfs on its own files", median(0, walk));
    let what = name("find -ls, caches dropped");
    rows.push(Judged::ratio(
        what,
        "s",
        median(1, walk),
        beside,
        Goal::None,
    ));
    Ok(rows)
}

/// Visits the image once; also whether it was mounted with the kernel's own EROFS.
fn visit(
    store: &Store,
    workload: Workload,
    column: Column,
    settings: &Settings,
) -> Result<(Numbers, bool), Box<dyn Error>> {
    let image = store.image(workload, column.form())?;
    let node = Node::start(column, store, workload, settings)?;
    drop_caches(settings)?;
    image.warm()?;
    store.wire.set_link(Road::Fast.link());
    let pull = timed::run(&mut node.pull(&image.reference), None)?;
    let root = node.mount(&image.reference)?;
    let tree = Tree::walk(&root)?;
    let bytes = tree.read()?;
    let read_s = pull.began.elapsed().as_secs_f64();
    quiet(store)?;
    let warm = rate(|| Ok(usize::try_from(tree.read()?)?))?;
    let (stats_s, lists_s) = (rate(|| tree.stat())?, rate(|| tree.list())?);
    let xattrs_s = rate(|| tree.xattr())?;
    drop_caches(settings)?;
    let began = Instant::now();
    Tree::walk(&root)?;
    let walk_s = began.elapsed().as_secs_f64();
    let kernel = node.has_erofs()?;
    node.unmount(&root)?;
    if bytes == 0 {
        return Err(format!("the image of {} has no files", workload.name()).into());
    }
    let numbers = Numbers {
        pulled_s: (pull.line - pull.began).as_secs_f64(),
        read_s,
        walk_s,
        warm_mb_s: warm / 1e6,
        stats_s,
        lists_s,
        xattrs_s,
    };
    Ok((numbers, kernel))
}
