use super::*;

fn archive(bytes: &[u8]) -> Archive<&[u8]> {
    Archive::new(bytes, &Limits::default())
}

/// A header as the `tar` crate makes it.
fn header(change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path("name").unwrap();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    change(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn one(bytes: &[u8]) -> Entry {
    archive(bytes).next().unwrap().unwrap()
}

#[test]
fn an_archive_ends_with_zeros_or_with_the_file() {
    let one = header(|_| {});
    for end in [0, 512, 1024, 10240] {
        let bytes = [&one[..], &vec![0; end]].concat();
        let mut archive = archive(&bytes);
        assert!(archive.next().unwrap().is_some());
        assert_eq!(archive.next().unwrap(), None);
    }
    let mut cut = archive(&one[..300]);
    assert!(cut.next().is_err());
    let bytes = [&[0; 512][..], &one].concat();
    assert!(archive(&bytes).next().is_err());
}

#[test]
fn prefixes_belong_to_their_formats() {
    let long = format!("{}/{}", "p".repeat(90), "n".repeat(80));
    let entry = one(&header(|header| header.set_path(&long).unwrap()));
    assert_eq!(entry.path, long.as_bytes());
    // GNU has times where ustar has the prefix.
    let gnu = header(|header| {
        let mut gnu = tar::Header::new_gnu();
        gnu.set_path("name").unwrap();
        gnu.set_size(0);
        gnu.set_mode(0o644);
        gnu.as_gnu_mut().unwrap().atime = *b"12345670123\0";
        *header = gnu;
    });
    assert_eq!(one(&gnu).path, b"name");
}

#[test]
fn old_archives_say_directory_by_a_slash() {
    let old = |name: &str| {
        header(|header| {
            let mut old = tar::Header::new_old();
            old.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            old.as_old_mut().linkflag = [0];
            old.set_size(0);
            *header = old;
        })
    };
    assert_eq!(one(&old("dir/")).kind, Kind::Directory);
    assert_eq!(one(&old("file")).kind, Kind::File);
}

#[test]
fn only_files_have_data() {
    let link = header(|header| {
        header.set_entry_type(tar::EntryType::Link);
        header.set_link_name("target").unwrap();
        header.set_size(700);
    });
    let bytes = [link, header(|_| {})].concat();
    let mut archive = archive(&bytes);
    let link = archive.next().unwrap().unwrap();
    assert_eq!(
        (link.kind, &link.target[..]),
        (Kind::HardLink, &b"target"[..])
    );
    assert_eq!(archive.data_bytes(), 0);
    assert_eq!(archive.next().unwrap().unwrap().path, b"name");
}

#[test]
fn what_is_not_read_is_skipped() {
    let file = header(|header| header.set_size(700));
    let global = header(|header| {
        header.set_entry_type(tar::EntryType::XGlobalHeader);
        header.set_size(10);
    });
    let bytes = [&file[..], &[1; 1024], &global, &[2; 512], &file, &[3; 700]].concat();
    let mut archive = archive(&bytes);
    archive.next().unwrap().unwrap();
    archive.next().unwrap().unwrap();
    let mut data = Vec::new();
    archive
        .data(|piece| {
            data.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
    assert_eq!(data, [3; 700]);
    assert_eq!(archive.next().unwrap(), None);
}

#[test]
fn what_is_recorded_and_the_data_are_the_archive() {
    let long = header(|header| {
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(5);
    });
    let file = header(|header| header.set_size(700));
    let end = [0; 1536];
    let mut bytes = [&long[..], b"long\0", &[0; 507], &file, &[7; 1024], &end].concat();
    bytes.extend(b"behind");
    let mut archive = Archive::recording(&bytes[..], &Limits::default());
    let mut again = Vec::new();
    while let Some(entry) = archive.next().unwrap() {
        assert_eq!(entry.path, b"long");
        again.extend(archive.take_raw());
        archive.read(&mut again, 600).unwrap();
        assert_eq!(archive.data_bytes(), 100);
        archive.read(&mut again, 600).unwrap();
        archive.skip().unwrap();
        again.extend(archive.take_raw());
    }
    again.extend(archive.take_raw());
    archive.rest(&mut again, 100).unwrap();
    archive.rest(&mut again, usize::MAX).unwrap();
    assert!(again == bytes, "{} bytes of {}", again.len(), bytes.len());
}

#[test]
fn what_is_recorded_has_a_limit() {
    let limits = Limits {
        extension_bytes_max: 1024,
        ..Limits::default()
    };
    let global = header(|header| {
        header.set_entry_type(tar::EntryType::XGlobalHeader);
        header.set_size(512);
    });
    let bytes = [&global[..], &[1; 512]].concat().repeat(5);
    let mut archive = Archive::recording(&bytes[..], &limits);
    assert!(matches!(archive.next(), Err(Error::TooLarge { .. })));
    // Who does not want them is not bothered.
    let mut archive = Archive::new(&bytes[..], &limits);
    assert_eq!(archive.next().unwrap(), None);
}

#[test]
fn what_an_archive_says_literally_is_kept() {
    let mut gnu = tar::Header::new_gnu();
    gnu.set_path("name").unwrap();
    gnu.set_size(0);
    gnu.set_mode(0o100_755);
    gnu.as_gnu_mut().unwrap().atime = *b"00000000012\0";
    gnu.as_gnu_mut().unwrap().mtime = *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    gnu.set_cksum();
    let entry = one(gnu.as_bytes());
    assert_eq!((entry.mode, entry.stored.mode), (0o755, 0o100_755));
    let seconds = |time: Time| time.seconds;
    assert_eq!(entry.stored.atime.map(seconds), Some(10));
    assert_eq!(entry.stored.ctime, None);
    assert_eq!((entry.mtime.seconds, entry.stored.mtime.seconds), (0, -1));
}
