//! A small image with everything that is awkward to load lazily.

use std::fs;
use std::iter;
use std::path::Path;

use super::small::{base, shell};
use super::{Layer, LayerBuilder, Layout};
use crate::checkout;
use crate::error::{At, Result};
use crate::tools::{self, Tool};

/// The directories whose modification time is that of the unpacking: the layer on top
/// does not list them, and containerd, which takes mode, owner and attributes from the
/// layer below, does not take the time. The last two are listed nowhere.
pub const UNLISTED: [&str; 9] = [
    "odd",
    "odd/attributed",
    "odd/opaque",
    "odd/sticky",
    "odd/there",
    "tmp",
    "zeros",
    "made",
    "made/up",
];

/// The sizes in bytes of the files `/sizes/<size>`.
pub const SIZES: [usize; 9] = [0, 1, 4095, 4096, 4097, 65_536, 100_000, 1 << 20, 5_000_001];

/// The image, made on the first call and kept in `target/rig`: five layers with
/// whiteouts and opaque directories, hard links across directories, devices, pipes,
/// extended attributes, setuid, odd owners and times, long and odd names, empty, small,
/// large and sparse files, and a layer that does not list the directories of its files.
///
/// `/bin` is a static busybox. Times are whole seconds, as tables of contents are.
pub fn lazy_fixture() -> Result<Layout> {
    let dir = checkout::rig_dir().join("images/lazy");
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    tools::once(&dir, &format!("{} 1", Tool::Debian12.version()?), || {
        lazy_fixture_in(&dir).map(drop)
    })?;
    Layout::open(&dir)
}

/// Writes the image of [`lazy_fixture`] to `dir`.
pub fn lazy_fixture_in(dir: &Path) -> Result<Layout> {
    let layers = [base()?, contents()?, oddities()?, changes()?, unlisted()?];
    Layout::write(dir, &shell(), &layers)
}

/// `length` bytes that do not compress, the same for the same `seed` (xorshift64).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Files of every size around the borders of blocks and chunks.
fn contents() -> Result<Layer> {
    let mut layer = LayerBuilder::new();
    layer.dir("sizes", 0o755, 0, 0)?;
    for size in SIZES {
        let path = format!("sizes/{size}");
        layer.file(&path, 0o644, 0, 0, &noise(size as u64, size))?;
    }
    layer.dir("zeros", 0o755, 0, 0)?;
    layer.file("zeros/small", 0o644, 0, 0, &[0; 5000])?;
    layer.file("zeros/large", 0o644, 0, 0, &vec![0; 9 << 20])?;
    let mut islands = vec![0; 6 << 20];
    for (number, island) in islands.chunks_mut(1 << 20).enumerate() {
        if let Some(island) = island.get_mut(..10_000) {
            island.copy_from_slice(&noise(number as u64, 10_000));
        }
    }
    layer.file("zeros/islands", 0o644, 0, 0, &islands)?;
    // The same content twice, and content that compresses well.
    layer.dir("twice", 0o755, 0, 0)?;
    layer.file("twice/one", 0o644, 0, 0, &noise(7, 70_000))?;
    layer.file("twice/two", 0o640, 1, 1, &noise(7, 70_000))?;
    let text: String = (0..60_000).map(|n| format!("line {n}\n")).collect();
    layer.file("text", 0o644, 0, 0, text.as_bytes())?;
    layer.dir("many", 0o755, 0, 0)?;
    for number in 0..300_usize {
        let path = format!("many/{number:03}");
        layer.file(&path, 0o644, 0, 0, &noise(number as u64, number * 17))?;
    }
    layer.finish()
}

/// Everything but plain files.
fn oddities() -> Result<Layer> {
    let mut layer = LayerBuilder::new();
    layer.dir("odd", 0o755, 0, 0)?;
    names(&mut layer)?;
    layer.dir("odd/here", 0o755, 0, 0)?;
    layer.dir("odd/there", 0o2775, 7, 8)?;
    layer.file("odd/here/first", 0o4711, 3, 4, b"linked\n")?;
    layer.hardlink("odd/there/second", "odd/here/first", 0o4711, 3, 4)?;
    layer.hardlink("odd/third", "odd/there/second", 0o4711, 3, 4)?;
    layer.file("odd/pair", 0o644, 0, 0, b"pair\n")?;
    layer.hardlink("odd/pair-removed-later", "odd/pair", 0o644, 0, 0)?;
    layer.symlink("odd/relative", "../sizes/4097")?;
    layer.symlink("odd/absolute", "/sizes/1")?;
    layer.symlink("odd/dangling", "no/where")?;
    layer.symlink("odd/loop", "loop")?;
    layer.symlink("odd/long", &"../odd/".repeat(60))?;
    layer.device("odd/null", 0o666, (1, 3))?;
    layer.device("odd/big-minor", 0o600, (300, 70_000))?;
    layer.block_device("odd/block", 0o660, (7, 1))?;
    layer.fifo("odd/pipe", 0o622)?;
    layer.file("odd/setgid", 0o2755, 0, 42, b"setgid\n")?;
    layer.file("odd/no-mode", 0, 0, 0, b"nobody may\n")?;
    layer.file("odd/big-owner", 0o644, 4_000_000_000, 3_000_000, b"big\n")?;
    layer.dir("odd/sticky", 0o1777, 0, 0)?;
    layer.time(0).file("odd/old", 0o644, 0, 0, b"1970\n")?;
    layer
        .time(5_000_000_000)
        .file("odd/future", 0o644, 0, 0, b"2128\n")?;
    // CAP_NET_RAW, permitted and effective, as setcap writes it.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    layer.xattrs(&[("security.capability", capability), ("user.more", b"1")])?;
    layer.file("odd/capable", 0o755, 0, 0, b"capable\n")?;
    layer.xattrs(&[
        ("user.binary", b"a\x01\xff\nb"),
        ("user.large", &noise(3, 2000)),
        ("trusted.kept", b"trusted"),
    ])?;
    layer.file("odd/attributes", 0o644, 0, 0, b"attributes\n")?;
    layer.xattrs(&[("user.dir", b"of a directory")])?;
    layer.dir("odd/attributed", 0o750, 1000, 1000)?;
    layer.file("odd/attributed/file", 0o644, 1000, 1000, b"in it\n")?;
    layer.dir("odd/opaque", 0o755, 0, 0)?;
    layer.file("odd/opaque/hidden", 0o644, 0, 0, b"hidden later\n")?;
    layer.dir("odd/opaque/inner", 0o755, 0, 0)?;
    layer.file("odd/opaque/inner/hidden", 0o644, 0, 0, b"hidden later\n")?;
    layer.dir("odd/removed", 0o755, 0, 0)?;
    layer.file("odd/removed/inner", 0o644, 0, 0, b"removed later\n")?;
    layer.file("odd/same", 0o644, 0, 0, &noise(9, 20_000))?;
    layer.symlink("odd/becomes-dir", "here")?;
    layer.dir("odd/becomes-link", 0o755, 0, 0)?;
    layer.finish()
}

fn names(layer: &mut LayerBuilder) -> Result<()> {
    layer.dir("odd/names", 0o755, 0, 0)?;
    for name in [
        "with space",
        "with\nline feed",
        "back\\slash",
        "quote'\"",
        "ünïcödé-文件",
        "-dash",
        "..three",
        "%41percent",
        "wh.not-a-whiteout",
        "stargz.index.json",
    ] {
        layer.file(&format!("odd/names/{name}"), 0o644, 0, 0, name.as_bytes())?;
    }
    // The longest name, and a path longer than any field of a tar header.
    layer.file(
        &format!("odd/names/{}", "n".repeat(255)),
        0o644,
        0,
        0,
        b"long\n",
    )?;
    let mut path = "odd/names".to_owned();
    for depth in 0..12 {
        path.push_str(&format!("/depth-{depth:02}-{}", "d".repeat(40)));
        layer.dir(&path, 0o755, 0, 0)?;
    }
    layer.file(&format!("{path}/deep"), 0o644, 0, 0, b"deep\n")?;
    Ok(())
}

/// What a layer does to those below it.
fn changes() -> Result<Layer> {
    let mut layer = LayerBuilder::new();
    layer.dir("odd", 0o755, 0, 0)?;
    layer.whiteout("odd/removed")?;
    layer.whiteout("odd/pair-removed-later")?;
    layer.dir("odd/opaque", 0o711, 5, 6)?;
    layer.opaque("odd/opaque")?;
    layer.file("odd/opaque/new", 0o644, 0, 0, b"new\n")?;
    layer.dir("odd/becomes-dir", 0o755, 0, 0)?;
    layer.file("odd/becomes-dir/inner", 0o644, 0, 0, b"inner\n")?;
    layer.symlink("odd/becomes-link", "here")?;
    // Only the mode differs.
    layer.file("odd/same", 0o600, 0, 0, &noise(9, 20_000))?;
    layer.whiteout("text")?;
    layer.dir("many", 0o755, 0, 0)?;
    for number in (0..300).step_by(3) {
        layer.whiteout(&format!("many/{number:03}"))?;
    }
    layer.finish()
}

/// Files whose directories are listed below, or nowhere.
fn unlisted() -> Result<Layer> {
    let mut layer = LayerBuilder::new();
    layer.file("tmp/left", 0o644, 0, 0, b"in a sticky directory\n")?;
    layer.file("odd/there/added", 0o644, 0, 0, &noise(11, 9000))?;
    layer.file("odd/attributed/added", 0o644, 0, 0, b"beside attributes\n")?;
    layer.file("odd/opaque/added", 0o644, 0, 0, b"in an opaque one\n")?;
    layer.whiteout("odd/sticky/never-was")?;
    layer.whiteout("zeros/small")?;
    layer.file("made/up/file", 0o644, 0, 0, b"made up\n")?;
    layer.finish()
}
