use super::*;
use crate::Digest;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(annotations: &[(&str, &str)]) -> Result<Annotated, FormatError> {
    let annotations = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    parse_annotations(&annotations, 1000, &Limits::default())
}

#[test]
fn every_dialect_is_known() {
    let digest = Digest::of(b"");
    let place = TocPlace {
        range: 608..708,
        payload_end: 600,
    };
    assert_eq!(parse(&[("org.example", "x")]), Ok(Annotated::default()));
    assert_eq!(
        parse(&[(ANNOTATION_TOC_DIGEST, DIGEST)]),
        Ok(Annotated {
            digest: Some(TocDigest::Json(digest.clone())),
            place: None,
        })
    );
    for (checksum, position) in CHECKSUM.iter().zip(POSITION) {
        let annotated = Annotated {
            digest: Some(TocDigest::Compressed(digest.clone())),
            place: Some(place.clone()),
        };
        assert_eq!(
            parse(&[(checksum, DIGEST), (position, "608:100:5000:1")]),
            Ok(annotated.clone())
        );
        let both = [
            (ANNOTATION_TOC_DIGEST, DIGEST),
            (checksum, DIGEST),
            (position, "608:100:5000:1"),
        ];
        assert_eq!(parse(&both), Ok(annotated));
    }
}

#[test]
fn an_annotation_that_lies_is_refused() {
    for position in [
        "",
        "608",
        "608:100:5000",
        "608:100:5000:1:",
        "608:100:5000:1:1",
        "608:100:5000:2",
        "608:393:5000:1",
        "7:100:5000:1",
        "+608:100:5000:1",
        " 608:100:5000:1",
        "608:-1:5000:1",
        "608:0:5000:1",
        "608:100:99999999999999:1",
        "608:100:99999999999999999999999:1",
        "18446744073709551615:1:1:1",
    ] {
        assert!(parse(&[(POSITION[0], position)]).is_err(), "{position:?}");
    }
    for digest in ["", "sha256:", "md5:00", &DIGEST[..70]] {
        assert!(parse(&[(CHECKSUM[0], digest)]).is_err());
        assert!(parse(&[(ANNOTATION_TOC_DIGEST, digest)]).is_err());
    }
}
