//! Writing layers: prepare, mount, write, unmount and commit sixteen layers of ten files of 1 MiB on each other,
//! each of which overwrites, changes or deletes files of those below.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pontoon_linux::{Mounter, SystemMounter};
use pontoon_proto::convert;
use pontoon_proto::types::Mount;

use crate::Sides;
use crate::caller::Caller;
use crate::metadata::middle;
use crate::report::{Comparison, Side};

const LAYERS: usize = 16;
const FILE_BYTES: usize = 1 << 20;

/// What is done with each of the ten files of a layer, by the layer's number modulo 3.
const PLANS: [[Step; 10]; 3] = {
    use Step::{Change, Delete, Write};
    [
        [
            Write, Write, Write, Write, Write, Write, Write, Write, Write, Write,
        ],
        [
            Change, Write, Delete, Write, Change, Delete, Write, Change, Write, Change,
        ],
        [
            Change, Change, Write, Change, Change, Write, Delete, Write, Change, Write,
        ],
    ]
};

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A whole new file.
    Write,
    /// Four bytes in the middle, which copies the file up.
    Change,
    /// Gone, or a whiteout.
    Delete,
}

/// The median times of `rounds`, in which the sides take turns.
pub(crate) fn measure(sides: &mut Sides, rounds: usize) -> Result<Vec<Comparison>, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let scratch = tempfile::tempdir()?;
    let mut times: BTreeMap<(&str, Side), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for (side, plugin) in sides.iter() {
            let spans =
                runtime.block_on(stack(plugin.socket(), scratch.path(), &format!("r{round}")))?;
            for (what, span) in ["prepare", "mount and write", "commit"]
                .into_iter()
                .zip(spans)
            {
                times
                    .entry((what, *side))
                    .or_default()
                    .push(span.as_secs_f64() * 1000.0);
            }
        }
    }
    let rows = ["prepare", "mount and write", "commit"].map(|what| {
        let row = Comparison::new(format!("{LAYERS} layers of 10 MiB: {what}"), "ms");
        [Side::Pontoon, Side::Containerd]
            .into_iter()
            .fold(row, |row, side| match times.get(&(what, side)) {
                Some(times) => row.with(side, middle(times.clone())),
                None => row,
            })
    });
    Ok(rows.into())
}

/// One stack of layers: the time in all Prepares, all writes with their mounts, all Commits.
async fn stack(
    socket: &Path,
    scratch: &Path,
    prefix: &str,
) -> Result<[Duration; 3], Box<dyn Error>> {
    let mut caller = Caller::connect(socket).await?;
    let [mut prepare, mut write, mut commit] = [Duration::ZERO; 3];
    let mut parent = String::new();
    for layer in 0..LAYERS {
        let key = format!("{prefix}-prepare-{layer}");
        let (time, mounts) = caller.prepare(&key, &parent).await?;
        prepare += time;
        let start = Instant::now();
        write_layer(mounts, scratch, layer)?;
        write += start.elapsed();
        let name = format!("{prefix}-layer-{layer}");
        commit += caller.commit(&name, &key).await?.0;
        parent = name;
    }
    Ok([prepare, write, commit])
}

fn write_layer(mounts: Vec<Mount>, target: &Path, layer: usize) -> Result<(), Box<dyn Error>> {
    let [mount] = mounts.try_into().map_err(|_| "not exactly one mount")?;
    SystemMounter.mount(&convert::mount_from(mount), target)?;
    let written = write_files(target, layer);
    SystemMounter.unmount(target)?;
    Ok(written?)
}

fn write_files(root: &Path, layer: usize) -> std::io::Result<()> {
    for (name, step) in ('a'..).zip(PLANS[layer % PLANS.len()]) {
        let path = root.join(name.to_string());
        match step {
            Step::Write => fs::write(&path, noise(layer, FILE_BYTES))?,
            Step::Change => {
                let file: File = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(&path)?;
                file.write_all_at(&noise(layer, 4), FILE_BYTES as u64 / 2)?;
            }
            Step::Delete => match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
    }
    Ok(())
}

/// Bytes that do not compress and differ from layer to layer.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 + 0x9E37_79B9_7F4A_7C15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next)
        .take(length.div_ceil(8))
        .flatten()
        .collect();
    bytes.truncate(length);
    bytes
}
