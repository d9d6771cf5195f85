use super::*;
use crate::fixture::{
    estargz_footer, external_footer, gzip_footer, skippable, stargz_footer, zstd_footer,
};

fn parse(bytes: &[u8]) -> Result<Option<Tail>, FormatError> {
    parse_tail(bytes, bytes.len() as u64, &Limits::default())
}

fn with(footer: &[u8]) -> Vec<u8> {
    [&[7; 1000], footer].concat()
}

#[test]
fn every_footer_is_known() {
    let place = |range| TocPlace {
        range,
        payload_end: 600,
    };
    assert_eq!(estargz_footer(0).len(), 51);
    assert_eq!(stargz_footer(0).len(), 47);
    assert_eq!(external_footer().len(), 46);
    let estargz = parse(&with(&estargz_footer(600))).unwrap();
    assert_eq!(estargz, Some(Tail::Estargz(place(600..1000))));
    let stargz = parse(&with(&stargz_footer(600))).unwrap();
    assert_eq!(stargz, Some(Tail::Stargz(place(600..1000))));
    let external = parse(&with(&external_footer())).unwrap();
    assert_eq!(external, Some(Tail::ExternalToc { payload_end: 1000 }));
    for magic in [b"GnUlInUx", b"GNUlInUx"] {
        let footer = zstd_footer(&[608, 100, 5000, 1], magic);
        assert_eq!(footer.len(), 48);
        let tail = parse(&with(&footer)).unwrap();
        assert_eq!(tail, Some(Tail::ZstdChunked(place(608..708))));
        let footer = zstd_footer(&[608, 100, 5000, 1, 716, 10, 20], magic);
        assert_eq!(footer.len(), TAIL_BYTES);
        let tail = parse(&with(&footer)).unwrap();
        assert_eq!(tail, Some(Tail::Podman(place(608..708))));
    }
}

#[test]
fn only_the_end_need_be_seen() {
    let blob = with(&estargz_footer(600));
    let end = &blob[blob.len() - TAIL_BYTES..];
    let tail = parse_tail(end, blob.len() as u64, &Limits::default()).unwrap();
    assert!(matches!(tail, Some(Tail::Estargz(_))));
    let end = &blob[blob.len() - TAIL_BYTES + 1..];
    assert!(parse_tail(end, blob.len() as u64, &Limits::default()).is_err());
    assert!(parse_tail(&blob, 10, &Limits::default()).is_err());
}

#[test]
fn an_ordinary_layer_has_no_footer() {
    for blob in [
        vec![],
        vec![0],
        with(&[]),
        with(&gzip_footer(b"")),
        with(&gzip_footer(b"SG\x16\0")),
        with(&gzip_footer(b"SG\x11\0STARGZEXTERNALTOB")),
        with(&skippable(b"GnUlInUx")),
        with(&skippable(&[0; 40])),
        with(&zstd_footer(&[608, 100, 5000, 1, 0], b"GnUlInUx")),
    ] {
        assert_eq!(parse(&blob), Ok(None));
    }
}

#[test]
fn a_footer_that_lies_is_refused() {
    let huge = 1 << 50;
    for footer in [
        estargz_footer(1000),
        estargz_footer(1001),
        estargz_footer(u64::MAX),
        gzip_footer(b"SG\x16\x00+00000000000025fSTARGZ"),
        gzip_footer(b"SG\x16\x00000000000000z000STARGZ"),
        stargz_footer(1000),
        stargz_footer(huge),
        zstd_footer(&[608, 100, 5000, 2], b"GnUlInUx"),
        zstd_footer(&[608, 393, 5000, 1], b"GnUlInUx"),
        zstd_footer(&[608, u64::MAX, 5000, 1], b"GnUlInUx"),
        zstd_footer(&[7, 100, 5000, 1], b"GnUlInUx"),
        zstd_footer(&[608, 0, 5000, 1], b"GnUlInUx"),
        zstd_footer(&[608, 100, huge, 1], b"GnUlInUx"),
        zstd_footer(&[u64::MAX, 1, 1, 1, 0, 0, 0], b"GNUlInUx"),
    ] {
        assert!(parse(&with(&footer)).is_err(), "{footer:?}");
    }
    let small = Limits {
        toc_bytes_max: 399,
        ..Limits::default()
    };
    let blob = with(&estargz_footer(600));
    let error = parse_tail(&blob, blob.len() as u64, &small).unwrap_err();
    assert!(matches!(
        error,
        FormatError::TooLarge {
            size: 400,
            limit: 399,
            ..
        }
    ));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        mut tail in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        footer in 0_usize..5,
        place: [u64; 7],
        flips in proptest::collection::vec((0_usize..80, proptest::num::u8::ANY), 0..4),
        size: u64,
    ) {
        tail.extend(match footer {
            0 => estargz_footer(place[0]),
            1 => stargz_footer(place[0]),
            2 => external_footer(),
            3 => zstd_footer(&place[..4], b"GnUlInUx"),
            _ => zstd_footer(&place, b"GNUlInUx"),
        });
        let length = tail.len();
        for (at, byte) in flips {
            if let Some(place) = length.checked_sub(at + 1) {
                tail[place] = byte;
            }
        }
        for size in [size, length as u64, length as u64 + 1000] {
            if let Ok(Some(tail)) = parse_tail(&tail, size, &Limits::default()) {
                proptest::prop_assert!(tail.payload_end() <= size);
                if let Some(place) = tail.place() {
                    proptest::prop_assert!(place.range.start < place.range.end);
                    proptest::prop_assert!(place.range.end <= size);
                    proptest::prop_assert!(place.payload_end <= place.range.start);
                }
            }
        }
    }
}
