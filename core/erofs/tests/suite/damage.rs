//! Damaged images lead to errors, not to panics or endless loops.

use std::collections::HashSet;
use std::ops::ControlFlow;

use pontoon_erofs::{FileType, Image, Nid, ReadError};
use pontoon_layer::EntryKind;

use crate::sample::{Draft, Sample, entry, everything, xattr};

/// Asks for everything that can be reached, within bounds: damaged directories may list each other for ever.
/// Whether anything was wrong.
fn explore<B: AsRef<[u8]>>(image: &Image<B>, questions_max: usize) -> bool {
    let mut wrong = false;
    let mut seen = HashSet::from([image.root()]);
    let mut open = vec![image.root()];
    let mut questions = 0;
    while let Some(nid) = open.pop() {
        questions += 1;
        if questions > questions_max {
            break;
        }
        let Ok(inode) = image.inode(nid) else {
            wrong = true;
            continue;
        };
        match image.xattrs(nid) {
            Ok(xattrs) => wrong |= xattrs.into_iter().any(|xattr| xattr.is_err()),
            Err(_) => wrong = true,
        }
        wrong |= image.xattr(nid, b"security.capability").is_err();
        match inode.file_type {
            FileType::Symlink => wrong |= image.read_link(nid).is_err(),
            FileType::Directory => {
                let mut cookie = 0;
                let listed = image.read_dir(nid, 0, |entry| {
                    assert!(entry.next_cookie > cookie && entry.name.len() <= 255);
                    cookie = entry.next_cookie;
                    questions += 1;
                    if seen.insert(entry.nid) {
                        open.push(entry.nid);
                    }
                    if questions > questions_max {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
                wrong |= listed.is_err();
                for name in [&b"links"[..], b"zzz", b"!", &[b'f'; 255]] {
                    wrong |= image.lookup(nid, name).is_err();
                }
                for cookie in [1, 4095, 4096, 4097, u64::MAX, 1 << 63, u64::MAX << 12] {
                    let _ = image.read_dir(nid, cookie, |_| ControlFlow::Break(()));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// A tree with one of each, small enough that most bytes of its image mean something.
fn small() -> Sample {
    let mut draft = Draft::new();
    let file = || entry(EntryKind::File { data_offset: 0 });
    let label = || xattr("security.selinux", "label");
    draft.file(
        "links/file",
        10,
        pontoon_layer::Entry {
            xattrs: vec![label()],
            ..file()
        },
    );
    draft.file(
        "links/other",
        (3 << 30) + 1,
        pontoon_layer::Entry {
            xattrs: vec![label(), xattr("user.a", "b")],
            ..file()
        },
    );
    draft.add("links/symlink", entry(EntryKind::Symlink(b"target")));
    draft.add("null", entry(EntryKind::CharDevice { major: 1, minor: 3 }));
    for number in 0..120 {
        draft.file(format!("many/{number}{}", "n".repeat(40)), 0, file());
    }
    draft.done()
}

/// Numbers that are different in every run but for the same seed the same (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn rounds() -> usize {
    if std::env::var_os("PONTOON_FULL").is_some() {
        50_000
    } else {
        3000
    }
}

#[test]
fn flipped_bytes_are_found_or_harmless() {
    let whole = small().image();
    assert!(!explore(&Image::open(&whole).unwrap(), 10_000));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut opened, mut wrong) = (0, 0);
    for round in 0..rounds() {
        let mut bytes = whole.clone();
        // Mostly not in the superblock, whose checksum finds everything.
        let first = if round % 10 == 0 { 1024 } else { 1280 };
        for _ in 0..=random.below(4) {
            let at = first + random.below(bytes.len() - first);
            bytes[at] = if random.below(2) == 0 {
                random.below(256) as u8
            } else {
                bytes[at] ^ (1 << random.below(8))
            };
        }
        if let Some(checksum) = checksum(&bytes) {
            bytes[1028..1032].copy_from_slice(&checksum.to_le_bytes());
        }
        if let Ok(image) = Image::open(&bytes) {
            opened += 1;
            wrong += usize::from(explore(&image, 10_000));
            assert_eq!(image.verify().is_ok(), bytes == whole);
        }
    }
    assert!(
        opened > rounds() / 2 && wrong > rounds() / 20,
        "{opened} opened, {wrong} of them wrong"
    );
}

#[test]
fn a_damaged_image_of_everything_is_survived() {
    let whole = everything().image();
    let mut random = Random(42);
    for _ in 0..rounds() / 100 {
        let mut bytes = whole.clone();
        for _ in 0..100 {
            let at = 4096 + random.below(bytes.len() - 4096);
            bytes[at] = random.below(256) as u8;
        }
        explore(&Image::open(&bytes).unwrap(), 20_000);
    }
}

#[test]
fn nids_that_no_inode_has_are_refused() {
    let bytes = everything().image();
    let image = Image::open(&bytes).unwrap();
    for number in
        (0..bytes.len() as u64 / 32 + 10).chain([u64::MAX, u64::MAX / 32, 1 << 40, 1 << 63])
    {
        let nid = Nid::new(number);
        let _ = image.lookup(nid, b"x");
        let _ = image.read_link(nid);
        let _ = image.xattrs(nid).map(|xattrs| xattrs.count());
        let _ = image.read_dir(nid, 0, |_| ControlFlow::Continue(()));
    }
    assert!(matches!(
        image.inode(Nid::new(u64::MAX)),
        Err(ReadError::Damaged { .. })
    ));
}

#[test]
fn half_an_image_is_none() {
    let whole = small().image();
    for length in (0..whole.len())
        .step_by(61)
        .chain([1023, 1024, 4095, 4096, whole.len() - 1])
    {
        let error = Image::open(&whole[..length]).unwrap_err();
        assert!(
            matches!(error, ReadError::NotAnImage(_)),
            "{length}: {error}"
        );
    }
    let longer = [&whole[..], &[0; 4096]].concat();
    Image::open(&longer).unwrap_err();
    Image::open(vec![0xff; 8192]).unwrap_err();
}

/// The checksum that the superblock should have; computed a second time, so that the writer's is checked.
fn checksum(image: &[u8]) -> Option<u32> {
    let mut block = image.get(1024..4096)?.to_vec();
    block[4..8].fill(0);
    let mut crc = u32::MAX;
    for byte in block {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    Some(crc)
}

#[test]
fn the_checksum_is_that_of_the_format() {
    let bytes = small().image();
    assert_eq!(bytes[1028..1032], checksum(&bytes).unwrap().to_le_bytes());
}
