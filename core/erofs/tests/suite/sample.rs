//! Trees to make images of.

use std::fs::File;
use std::os::unix::fs::FileExt;

use pontoon_erofs::write;
use pontoon_layer::{Entry, EntryKind, Limits, NodeId, OpaqueXattr, Time, Tree, TreeBuilder};

pub(crate) const BLOCK: u64 = 4096;

/// Files up to this size have data in the data file everywhere; larger ones here and there.
pub(crate) const DENSE: u64 = 1 << 20;

/// A tree while it is made. Data is laid out as the files come.
pub(crate) struct Draft {
    builder: TreeBuilder,
    data_size: u64,
    /// Where the data of files is, and how long it is.
    files: Vec<(u64, u64)>,
}

/// What is not said of an entry otherwise.
pub(crate) fn entry(kind: EntryKind<'_>) -> Entry<'_> {
    Entry {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time {
            seconds: 1_700_000_000,
            nanoseconds: 123_456_789,
        },
        size: 0,
        xattrs: Vec::new(),
    }
}

pub(crate) fn xattr(name: &str, value: impl AsRef<[u8]>) -> (Vec<u8>, Vec<u8>) {
    (name.as_bytes().to_vec(), value.as_ref().to_vec())
}

impl Draft {
    pub(crate) fn new() -> Self {
        Draft {
            builder: TreeBuilder::new(OpaqueXattr::Trusted, &Limits::default()),
            data_size: 0,
            files: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, path: impl AsRef<[u8]>, entry: Entry<'_>) -> Option<NodeId> {
        self.builder.add(path.as_ref(), entry).unwrap()
    }

    /// Adds the attributes of `entry` as a file of this size.
    pub(crate) fn file(&mut self, path: impl AsRef<[u8]>, size: u64, entry: Entry<'_>) {
        let data_offset = match size {
            0 => 0,
            _ => self.data_size.next_multiple_of(BLOCK),
        };
        self.data_size = self.data_size.max(data_offset + size);
        self.files.push((data_offset, size));
        let kind = EntryKind::File { data_offset };
        self.add(
            path,
            Entry {
                kind,
                size,
                ..entry
            },
        );
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.builder
            .link(path.as_bytes(), target.as_bytes())
            .unwrap();
    }

    /// Adds what a layer might list; of a regular file the size counts.
    pub(crate) fn try_add(&mut self, path: &str, size: u64, entry: Entry<'_>) {
        if let EntryKind::File { .. } = entry.kind {
            let data_offset = self.data_size.next_multiple_of(BLOCK);
            let kind = EntryKind::File { data_offset };
            self.data_size = data_offset + size;
            let _ = self.builder.add(
                path.as_bytes(),
                Entry {
                    kind,
                    size,
                    ..entry
                },
            );
        } else {
            let _ = self.builder.add(path.as_bytes(), entry);
        }
    }

    pub(crate) fn try_link(&mut self, path: &str, target: &str) {
        let _ = self.builder.link(path.as_bytes(), target.as_bytes());
    }

    pub(crate) fn done(self) -> Sample {
        self.try_done().unwrap()
    }

    /// None if a hard link leads nowhere.
    pub(crate) fn try_done(self) -> Option<Sample> {
        Some(Sample {
            tree: self.builder.finish().ok()?,
            data_size: self.data_size,
            files: self.files,
        })
    }
}

/// A tree and where its data is.
pub(crate) struct Sample {
    pub(crate) tree: Tree,
    pub(crate) data_size: u64,
    files: Vec<(u64, u64)>,
}

impl Sample {
    pub(crate) fn image(&self) -> Vec<u8> {
        write(&self.tree, self.data_size).unwrap()
    }

    /// Writes data that is different everywhere.
    pub(crate) fn store_data(&self, file: &File) {
        // A file of half a block cannot be read to its end (EIO).
        file.set_len(self.data_size.next_multiple_of(BLOCK))
            .unwrap();
        for (offset, size) in &self.files {
            for (start, length) in parts(*size) {
                let words = (offset + start..)
                    .step_by(8)
                    .map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let mut bytes: Vec<u8> = words
                    .take(length / 8 + 1)
                    .flat_map(u64::to_le_bytes)
                    .collect();
                bytes.truncate(length);
                file.write_all_at(&bytes, offset + start).unwrap();
            }
        }
    }
}

/// What of a file of this size is written and compared: everything, or a few blocks around the ends of its chunks.
pub(crate) fn parts(size: u64) -> Vec<(u64, usize)> {
    if size <= DENSE {
        return vec![(0, size as usize)];
    }
    let ends = (0..size).step_by(1 << 30).chain([size]);
    ends.map(|end| {
        let start = end.saturating_sub(2 * BLOCK) & !(BLOCK - 1);
        (start, (size - start).min(4 * BLOCK) as usize)
    })
    .collect()
}

fn file() -> Entry<'static> {
    entry(EntryKind::File { data_offset: 0 })
}

fn directory(mode: u16) -> Entry<'static> {
    Entry {
        mode,
        ..entry(EntryKind::Directory)
    }
}

/// Everything that a layer can hold.
pub(crate) fn everything() -> Sample {
    let mut draft = Draft::new();
    draft.add("", directory(0o755));
    draft.add("tmp", directory(0o1777));
    let owned = Entry {
        uid: 70_000,
        gid: 4_000_000_000,
        ..directory(0o700)
    };
    draft.add("empty-dir", owned);
    files(&mut draft);
    links(&mut draft);
    devices(&mut draft);
    draft.file("gone/.wh.removed", 0, file());
    draft.file("opaque/.wh..wh..opq", 0, file());
    draft.file("opaque/new", 5, file());
    few_xattrs(&mut draft);
    many_xattrs(&mut draft);
    acls(&mut draft);
    names(&mut draft);
    // Last, so that the data ends within a block.
    draft.file("files/last", 12_345, file());
    draft.done()
}

fn files(draft: &mut Draft) {
    let su = Entry {
        mode: 0o6755,
        uid: 1,
        ..file()
    };
    draft.file("bin/su", 100_000, su);
    draft.file("files/empty", 0, file());
    for size in [1, 4095, 4096, 4097, 65_536, 1_000_003] {
        draft.file(format!("files/{size}"), size, file());
    }
    let times = [("0", 0, 0), ("old", -1, 999_999_999), ("far", 1 << 40, 1)];
    for (name, seconds, nanoseconds) in times {
        let mtime = Time {
            seconds,
            nanoseconds,
        };
        draft.file(format!("times/{name}"), 10, Entry { mtime, ..file() });
    }
}

fn links(draft: &mut Draft) {
    use EntryKind::Symlink;
    draft.link("links/second", "bin/su");
    draft.link("links/third", "bin/su");
    draft.add("links/short", entry(Symlink(b"../bin/su")));
    draft.add("links/long", entry(Symlink("a/".repeat(2047).as_bytes())));
    for length in (3900..4096).step_by(13) {
        let target = "x".repeat(length);
        draft.add(format!("links/{length}"), entry(Symlink(target.as_bytes())));
    }
    let marked = Entry {
        xattrs: vec![xattr("trusted.marked", vec![7; 4000]), xattr("user.no", "")],
        ..entry(Symlink(b"target"))
    };
    draft.add("links/marked", marked);
}

fn devices(draft: &mut Draft) {
    use EntryKind::{BlockDevice, CharDevice, Fifo, Socket};
    let (major, minor) = (4095, 1_048_575);
    draft.add("dev/null", entry(CharDevice { major: 1, minor: 3 }));
    draft.add("dev/far", entry(CharDevice { major, minor }));
    draft.add(
        "dev/disk",
        entry(BlockDevice {
            major: 259,
            minor: 70_000,
        }),
    );
    draft.add("dev/fifo", entry(Fifo));
    draft.add("dev/socket", entry(Socket));
    draft.link("dev/fifo-too", "dev/fifo");
}

/// What many files have.
fn label() -> (Vec<u8>, Vec<u8>) {
    xattr(
        "security.selinux",
        "system_u:object_r:container_file_t:s0\0",
    )
}

fn few_xattrs(draft: &mut Draft) {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let sets = [
        (
            "capability",
            vec![xattr("security.capability", capability), label()],
        ),
        ("label", vec![label()]),
        ("empty-value", vec![xattr("user.empty", ""), label()]),
        ("big", vec![xattr("user.big", vec![9; 65_000])]),
        (
            "name",
            vec![xattr(&format!("user.{}", "n".repeat(250)), "long")],
        ),
        (
            "unknown",
            vec![xattr("com.apple.quarantine", "x"), xattr("user.", "x")],
        ),
    ];
    for (name, xattrs) in sets {
        draft.file(format!("xattrs/{name}"), 10, Entry { xattrs, ..file() });
    }
}

fn many_xattrs(draft: &mut Draft) {
    let many = || (0..250).map(|number| xattr(&format!("user.{number}"), number.to_string()));
    for name in ["many", "many-too"] {
        let xattrs = many().collect();
        draft.file(format!("xattrs/{name}"), 10, Entry { xattrs, ..file() });
    }
    // A directory whose end does not fit beside its attributes.
    let xattrs = vec![xattr("user.large", vec![8; 4000]), label()];
    let large = Entry {
        xattrs,
        ..directory(0o755)
    };
    draft.add("xattrs/dir", large);
    for number in 0..200 {
        draft.file(format!("xattrs/dir/{number}"), 1, file());
    }
}

/// An ACL as Linux hands it over: rwx for the owner, r-x for user 1000 and for the group, the mask rwx, nothing for
/// others.
fn acl() -> Vec<u8> {
    let all = u32::MAX;
    let entries = [
        (1u16, 7u16, all),
        (2, 5, 1000),
        (4, 5, all),
        (0x10, 7, all),
        (0x20, 0, all),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn acls(draft: &mut Draft) {
    let access = || xattr("system.posix_acl_access", acl());
    let with_acl = Entry {
        mode: 0o770,
        xattrs: vec![access()],
        ..file()
    };
    draft.file("acls/file", 10, with_acl);
    let with_both = Entry {
        xattrs: vec![access(), xattr("system.posix_acl_default", acl())],
        ..directory(0o770)
    };
    draft.add("acls/dir", with_both);
}

/// Names at the limits, and directories of all lengths around one block.
fn names(draft: &mut Draft) {
    for name in ["!", "-", "+,", ".a", "..b", "...", "0", "~", "\u{e9}", " "] {
        draft.file(format!("names/{name}"), 3, file());
    }
    draft.file(b"names/\xff\xfe\x01", 3, file());
    for first in 'a'..='z' {
        draft.file(
            format!("names/{}", first.to_string().repeat(255)),
            3,
            file(),
        );
    }
    for extra in 0..40 {
        for number in 0..12 {
            let name = format!("{number:02}{}", "f".repeat(250));
            draft.file(format!("full/{extra}/{name}"), 0, file());
        }
        draft.file(
            format!("full/{extra}/z{}", "z".repeat(extra * 25 % 255)),
            0,
            file(),
        );
        // Of these some end exactly with a block.
        draft.file(
            format!("ends/{extra}/{}", "e".repeat(20 + extra * 5)),
            0,
            file(),
        );
    }
}
