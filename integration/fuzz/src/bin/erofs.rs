//! A metadata image from a disk. Length and checksum are made right, for nothing would get past them otherwise.
#![no_main]

use std::collections::HashSet;
use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use pontoon_erofs::{DirEntry, FileType, Image, Nid};

const BLOCK: usize = 4096;

/// Damaged directories may list each other for ever.
const QUESTIONS_MAX: usize = 20_000;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = Image::open(bytes) {
        explore(&image);
    }
    let mut sealed = bytes.to_vec();
    sealed.resize(bytes.len().next_multiple_of(BLOCK).max(BLOCK), 0);
    let blocks = (sealed.len() / BLOCK) as u32;
    sealed[1024 + 36..1024 + 40].copy_from_slice(&blocks.to_le_bytes());
    sealed[1024 + 4..1024 + 8].fill(0);
    let checksum = crc32c(&sealed[1024..BLOCK]);
    sealed[1024 + 4..1024 + 8].copy_from_slice(&checksum.to_le_bytes());
    if let Ok(image) = Image::open(&sealed) {
        let _ = image.verify().is_ok();
        explore(&image);
    }
    if let Ok(image) = Image::open(&sealed[..sealed.len() - BLOCK]) {
        explore(&image);
    }
});

/// Asks for everything that can be reached, and for inodes that nothing leads to.
fn explore<B: AsRef<[u8]>>(image: &Image<B>) {
    let bytes = image.data_bytes() ^ image.inodes();
    let strays = [
        0,
        1,
        32,
        36,
        127,
        128,
        bytes,
        u64::MAX,
        u64::MAX / 32,
        1 << 59,
    ];
    let mut open: Vec<Nid> = strays.map(Nid::new).to_vec();
    open.push(image.root());
    let mut seen: HashSet<Nid> = open.iter().copied().collect();
    let mut questions = 0;
    while let Some(nid) = open.pop() {
        if questions > QUESTIONS_MAX {
            return;
        }
        questions += 1;
        let inode = image.inode(nid);
        if let Ok(xattrs) = image.xattrs(nid) {
            for xattr in xattrs.flatten().take(1000) {
                // The first of a name is what is answered.
                assert!(
                    image
                        .xattr(nid, &xattr.name())
                        .is_ok_and(|value| value.is_some())
                );
                questions += 1;
            }
        }
        let _ = image.xattr(nid, b"security.capability").is_ok();
        match (image.read_link(nid), &inode) {
            (Ok(target), Ok(inode)) => {
                assert_eq!(inode.file_type, FileType::Symlink);
                assert_eq!(target.len() as u64, inode.size);
            }
            (Ok(_), Err(_)) => panic!("a link that is no inode"),
            (Err(_), _) => {}
        }
        if let Ok(inode) = inode {
            assert!(inode.mode <= 0o7777 && inode.mtime.nanoseconds < 1_000_000_000);
            assert!(inode.data_offset.is_multiple_of(BLOCK as u64));
            if inode.file_type == FileType::File && inode.size > 0 {
                assert!(inode.data_offset + inode.size <= image.data_bytes());
            }
        }
        let mut listed = |entry: DirEntry<'_>| {
            questions += 1;
            if seen.insert(entry.nid) {
                open.push(entry.nid);
            }
        };
        list(image, nid, &mut listed);
    }
}

/// Lists a directory, and looks its first entries up.
fn list<B: AsRef<[u8]>>(image: &Image<B>, nid: Nid, listed: &mut impl FnMut(DirEntry<'_>)) {
    let (mut cookie, mut count) = (0, 0);
    let mut middle = None;
    let _ = image.read_dir(nid, 0, |entry| {
        assert!(entry.next_cookie > cookie && entry.next_cookie < 1 << 63);
        assert!((1..256).contains(&entry.name.len()));
        if count < 64 {
            let _ = image.lookup(nid, entry.name).is_ok();
        }
        if let Some(at) = middle.take() {
            // Going on behind an entry leads to the next one.
            let _ = image.read_dir(nid, at, |again| {
                assert_eq!((again.name, again.nid), (entry.name, entry.nid));
                ControlFlow::Break(())
            });
        }
        if count == 3 {
            middle = Some(entry.next_cookie);
        }
        (cookie, count) = (entry.next_cookie, count + 1);
        listed(entry);
        match count < 1000 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    for cookie in [1, 4095, 4096, 4097, 1 << 63, u64::MAX << 12, u64::MAX] {
        let _ = image.read_dir(nid, cookie, |_| ControlFlow::Break(()));
    }
    for name in [&b""[..], b".", b"..", b"links", b"\xff", &[b'f'; 300]] {
        let _ = image.lookup(nid, name).is_ok();
    }
}

/// Without the inversions at both ends.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}
