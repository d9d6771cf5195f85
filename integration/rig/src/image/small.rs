//! Small images around a static busybox.

use std::fs;
use std::path::Path;

use super::{Layer, LayerBuilder, Layout, Spec};
use crate::error::{At, Result};
use crate::tools::Tool;

const APPLETS: [&str; 14] = [
    "cat",
    "chmod",
    "chown",
    "find",
    "id",
    "ln",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "sh",
    "sleep",
    "stat",
    "sha256sum",
];

/// An image of three layers that holds what a layer can do to those below it:
/// replaced and removed files and directories, opaque directories, hard links,
/// owners, setuid, extended attributes, a device and a pipe.
pub fn odd(dir: &Path) -> Result<Layout> {
    Layout::write(dir, &shell(), &[base()?, changes()?, more_changes()?])
}

/// What `find` sees of the odd image's `/data`, sorted.
pub fn odd_entries() -> Vec<&'static str> {
    vec![
        "/data",
        "/data/became-dir",
        "/data/became-dir/inner",
        "/data/became-file",
        "/data/caps",
        "/data/changed",
        "/data/kept",
        "/data/link-a",
        "/data/link-b",
        "/data/null",
        "/data/opaque",
        "/data/opaque/new",
        "/data/pipe",
        "/data/setuid",
        "/data/sticky",
        "/data/symlink",
        "/data/user",
        "/data/user/own",
    ]
}

/// An image of `count` layers; layer N adds `/n/N`, and each hides the `/n/last` of
/// the layer below it.
pub fn many_layers(dir: &Path, count: usize) -> Result<Layout> {
    let mut layers = vec![base()?];
    for number in 1..count {
        let mut layer = LayerBuilder::new();
        layer.dir("n", 0o755, 0, 0)?;
        layer.file(
            &format!("n/{number}"),
            0o644,
            0,
            0,
            format!("{number}\n").as_bytes(),
        )?;
        if number > 1 {
            layer.whiteout(&format!("n/last-{}", number - 1))?;
        }
        layer.file(&format!("n/last-{number}"), 0o644, 0, 0, b"")?;
        layers.push(layer.finish()?);
    }
    Layout::write(dir, &shell(), &layers)
}

pub(super) fn shell() -> Spec {
    Spec {
        command: vec!["/bin/sh".into()],
        environment: vec!["PATH=/bin".into()],
    }
}

/// A static busybox.
pub fn busybox() -> Result<Vec<u8>> {
    let path = Tool::Debian12.dir()?.join("busybox");
    fs::read(&path).at("read", &path)
}

pub(super) fn base() -> Result<Layer> {
    let busybox = busybox()?;
    let mut layer = LayerBuilder::new();
    for dir in [
        "bin",
        "dev",
        "etc",
        "proc",
        "sys",
        "data",
        "data/opaque",
        "data/became-file",
    ] {
        layer.dir(dir, 0o755, 0, 0)?;
    }
    layer.dir("tmp", 0o1777, 0, 0)?;
    layer.file("bin/busybox", 0o755, 0, 0, &busybox)?;
    for applet in APPLETS {
        layer.hardlink(&format!("bin/{applet}"), "bin/busybox", 0o755, 0, 0)?;
    }
    layer.file("etc/passwd", 0o644, 0, 0, b"root:x:0:0:root:/:/bin/sh\n")?;
    layer.file("etc/group", 0o644, 0, 0, b"root:x:0:\n")?;
    layer.file("data/kept", 0o644, 0, 0, b"kept\n")?;
    layer.file("data/changed", 0o600, 0, 0, b"before\n")?;
    layer.file("data/removed", 0o644, 0, 0, b"removed\n")?;
    layer.dir("data/removed-dir", 0o755, 0, 0)?;
    layer.file("data/removed-dir/inner", 0o644, 0, 0, b"inner\n")?;
    layer.file("data/opaque/old", 0o644, 0, 0, b"old\n")?;
    layer.file("data/became-dir", 0o644, 0, 0, b"a file\n")?;
    layer.file("data/became-file/inner", 0o644, 0, 0, b"inner\n")?;
    layer.finish()
}

fn changes() -> Result<Layer> {
    let mut layer = LayerBuilder::new();
    layer.dir("data", 0o755, 0, 0)?;
    layer.file("data/changed", 0o640, 0, 5, b"after\n")?;
    layer.whiteout("data/removed")?;
    layer.whiteout("data/removed-dir")?;
    layer.dir("data/opaque", 0o750, 1, 2)?;
    layer.opaque("data/opaque")?;
    layer.file("data/opaque/new", 0o644, 0, 0, b"new\n")?;
    layer.file("data/link-a", 0o644, 3, 4, b"linked\n")?;
    layer.hardlink("data/link-b", "data/link-a", 0o644, 3, 4)?;
    layer.symlink("data/symlink", "../data/kept")?;
    layer.file("data/setuid", 0o4755, 0, 0, b"setuid\n")?;
    layer.dir("data/sticky", 0o1777, 0, 0)?;
    layer.dir("data/user", 0o700, 1000, 1000)?;
    layer.xattrs(&[("user.pontoon", b"value \x01\x02")])?;
    layer.file("data/user/own", 0o600, 1000, 1000, b"own\n")?;
    // CAP_NET_RAW, permitted and effective, as setcap writes it.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    layer.xattrs(&[("security.capability", capability)])?;
    layer.file("data/caps", 0o755, 0, 0, b"caps\n")?;
    layer.finish()
}

fn more_changes() -> Result<Layer> {
    let mut layer = LayerBuilder::new();
    layer.dir("data", 0o755, 0, 0)?;
    layer.dir("data/became-dir", 0o755, 0, 0)?;
    layer.file("data/became-dir/inner", 0o644, 0, 0, b"inner\n")?;
    layer.file("data/became-file", 0o644, 0, 0, b"a file\n")?;
    layer.device("data/null", 0o666, (1, 3))?;
    layer.fifo("data/pipe", 0o622)?;
    layer.finish()
}
