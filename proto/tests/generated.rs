//! The checked-in code is what the protos generate.

use std::fs;
use std::path::Path;

#[test]
fn checked_in_code_matches_the_protos() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a temporary directory");
    pontoon_proto_gen::generate(&proto.join("protos"), out.path()).expect("the protos compile");
    let checked_in = proto.join("src/generated");
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(out.path()),
        names(&checked_in),
        "run `cargo xtask gen-proto`"
    );
    for name in names(out.path()) {
        let fresh = fs::read_to_string(out.path().join(&name)).unwrap();
        let kept = fs::read_to_string(checked_in.join(&name)).unwrap();
        assert!(
            fresh == kept,
            "{name:?} is out of date: run `cargo xtask gen-proto`"
        );
    }
}
