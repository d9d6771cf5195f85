//! Status and inspect with an endpoint that says what the test wants.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use crate::pontoon;

/// What a daemon of another version might say: fields and states that we do not know, and others that are missing.
const LAYERS: &str = r#"{"layers":[
    {"image":"docker.io/library/a:1","digest":"sha256:1111111111111111","state":"lazy","new":[1],
     "progress":{"blob_bytes":4000,"bytes":10000,"local_bytes":1234,"percent":12.34,"snapshots":2,
                 "background":"running","last_error":"the registry is away"}},
    {"image":"docker.io/library/a:1","digest":"sha256:2222222222222222","state":"unpacked",
     "reason":"the manifest names no table of contents for the layer"},
    {"image":"docker.io/library/a:1","digest":"sha256:3333333333333333","state":"declined",
     "reason":"the registry is not available","detail":"refused"},
    {"image":"docker.io/library/b:1","digest":"sha256:4444444444444444","state":"frozen"}],
    "declined":{"the registry is not available":3},"cache_bytes":2000000,"more":{},
    "holder":{"pid":77,"kept":1,"lost":0,"more":1}}"#;

const METRICS: &str = "# TYPE pontoon_registry_requests counter\npontoon_registry_requests_total 7\n\
    pontoon_registry_blob_bytes_total{} 5000\npontoon_lazy_reads_total{result=\"ready\"} 9\n# EOF\n";

/// Answers on `socket` until the test ends.
fn serve(socket: &Path, layers: (u16, &'static str), ready: (u16, &'static str)) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let (code, body) = match head.split(' ').nth(1) {
                Some("/layers") => layers,
                Some("/ready") => ready,
                Some("/metrics") => (200, METRICS),
                other => panic!("asked for {other:?}"),
            };
            let length = body.len();
            let head = format!("HTTP/1.1 {code} x\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all((head + body).as_bytes()).unwrap();
        }
    });
}

/// What a verb says of such an endpoint, and its exit code.
fn ask(
    arguments: &[&str],
    layers: (u16, &'static str),
    ready: (u16, &'static str),
) -> (i32, String, String) {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("a.sock");
    serve(&socket, layers, ready);
    let output = pontoon(&[arguments, &["--admin", socket.to_str().unwrap()]].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    // A path of its own in every run.
    let said = text(output.stdout).replace(socket.to_str().unwrap(), "SOCKET");
    (output.status.code().unwrap(), said, text(output.stderr))
}

#[test]
fn status_is_short_and_aligned() {
    let (code, text, _) = ask(&["status"], (200, LAYERS), (200, "ready\n"));
    let expected = "\
daemon    ready, asked at SOCKET
layers    1 lazy, 0 unpacked by it, 3 left to containerd
holder    process 77 keeps 1 connection
cache     2.0 MB on disk, 0 B of them mounted, 0 B evicted
registry  7 requests, 0 retries, 5.0 kB of blobs
reads     9 from disk, 0 after a fetch, 0 failed

IMAGE                  LAYER                LOCAL              SNAPSHOTS  BACKGROUND  ERRORS
docker.io/library/a:1  sha256:111111111111  12.3 % of 10.0 kB  2          running     last error: the registry is away

left to containerd, since the start:
     3  the registry is not available
";
    assert_eq!((code, text.as_str()), (0, expected));
    let (code, text, _) = ask(&["status"], (200, LAYERS), (503, "the disk is gone\n"));
    assert_eq!(code, 1);
    assert!(
        text.starts_with("daemon    not ready: the disk is gone"),
        "{text}"
    );
}

#[test]
fn inspect_says_what_became_of_each_layer() {
    let (code, text, _) = ask(&["inspect", "a:1"], (200, LAYERS), (200, ""));
    let expected = "\
docker.io/library/a:1
LAYER                STATE       LOCAL              BACKGROUND  REMARKS
sha256:111111111111  lazy        12.3 % of 10.0 kB  running     last error: the registry is away
sha256:222222222222  unpacked    all                            the manifest names no table of contents for the layer
sha256:333333333333  containerd  all                            the registry is not available: refused
";
    assert_eq!((code, text.as_str()), (0, expected));
    let (code, text, _) = ask(&["inspect", "b:1"], (200, LAYERS), (200, ""));
    assert_eq!(code, 0);
    assert!(text.contains("unknown"), "{text}");
}

#[test]
fn json_is_one_object_on_one_line() {
    let (_, text, _) = ask(&["status", "--json"], (200, LAYERS), (200, "ready\n"));
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(text.lines().count(), 1);
    let keys: Vec<&str> = status
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "admin",
        "cache",
        "cache_bytes",
        "declined",
        "holder",
        "layers",
        "peers",
        "reads",
        "ready",
        "refused",
        "registry",
        "unpacked",
    ];
    assert_eq!(keys, expected);
    assert_eq!(status["layers"][0]["progress"]["percent"], 12.34);
    assert_eq!(status["registry"]["requests"], 7);
    let (_, text, _) = ask(&["inspect", "a:1", "--json"], (200, LAYERS), (200, ""));
    let image: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(image["image"], "docker.io/library/a:1");
    assert_eq!(image["layers"][2]["detail"], "refused");
}

#[test]
fn who_does_not_answer_as_a_lazy_daemon_is_told_from_who_does_not_answer() {
    for verb in [&["status"][..], &["inspect", "a:1"]] {
        let place = tempfile::tempdir().unwrap();
        let nobody = place.path().join("a.sock");
        let output = pontoon(&[verb, &["--admin", nobody.to_str().unwrap()]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69));
        assert!(said.contains("systemctl start pontoon-stargz"), "{said}");
        for (answer, expected) in [
            ((404, "no\n"), "ask that of pontoon-stargz or pontoon-nydus"),
            ((500, "trouble\n"), "trouble"),
            ((200, "{\"layers\":3}"), "makes no sense"),
        ] {
            let (code, _, said) = ask(verb, answer, (200, "ready\n"));
            assert_eq!(code, 69, "{said}");
            assert!(said.contains(expected), "{said}");
        }
    }
    let loopback = pontoon(&["status", "--admin", "127.0.0.1:1"]);
    assert_eq!(loopback.status.code(), Some(69));
}
