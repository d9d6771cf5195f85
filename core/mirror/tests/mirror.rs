//! The mirror over its socket. What it has is in memory here; a real containerd is behind it in `integration/tests`.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pontoon_layer::Digest;
use pontoon_mirror::{
    BoxFuture, Bytestream, Config, Counts, Error, Info, Mirror, Store, Unavailable,
};

/// How long anything may take that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;

#[derive(Default)]
struct Memory {
    blobs: BTreeMap<String, Bytes>,
    registries: Vec<String>,
    /// Reads break off behind so many bytes.
    breaks_at: Option<usize>,
    is_down: bool,
    asked: AtomicUsize,
}

impl Memory {
    fn of(blobs: &[&[u8]]) -> Self {
        let blobs = blobs.iter().map(|bytes| {
            let bytes = Bytes::copy_from_slice(bytes);
            (Digest::of(&bytes).to_string(), bytes)
        });
        Memory {
            blobs: blobs.collect(),
            registries: vec!["r.example".to_owned(), "docker.io".to_owned()],
            ..Memory::default()
        }
    }
}

impl Store for Memory {
    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<Info>, Unavailable>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let found = self.blobs.get(&digest.to_string()).map(|bytes| Info {
            size: bytes.len() as u64,
            registries: self.registries.clone(),
        });
        let answer = match self.is_down {
            true => Err(Unavailable("gone".to_owned())),
            false => Ok(found),
        };
        Box::pin(async move { answer })
    }

    fn read<'a>(
        &'a self,
        digest: &'a Digest,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Bytestream, Unavailable>> {
        let whole = &self.blobs[&digest.to_string()];
        let bytes = whole.slice(range.start as usize..range.end as usize);
        let mut pieces: Vec<_> = bytes
            .chunks(1000)
            .map(Bytes::copy_from_slice)
            .map(Ok)
            .collect();
        if let Some(at) = self.breaks_at {
            pieces.truncate(at / 1000);
            pieces.push(Err(Unavailable("the disk".to_owned())));
        }
        Box::pin(async move { Ok(Box::pin(tokio_stream::iter(pieces)) as Bytestream) })
    }
}

fn config() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        containerd: "/nowhere".into(),
        namespace: "default".to_owned(),
        registries: Vec::new(),
    }
}

fn mirror(here: Memory) -> Mirror {
    Mirror::of(&config(), Arc::new(here), None).unwrap()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines();
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    }
}

fn ask(address: SocketAddr, line: &str, more: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let headers = String::from_utf8(answer[..end].to_vec()).unwrap();
    Answer {
        status: headers[9..12].parse().unwrap(),
        headers,
        body: answer.split_off(end + 4),
    }
}

fn blob() -> (Vec<u8>, Digest) {
    let bytes: Vec<u8> = (0..100_000_usize)
        .map(|at| ((at * at) >> 3) as u8)
        .collect();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

#[test]
fn blobs_are_given_whole_and_in_parts() {
    let (bytes, digest) = blob();
    let mirror = mirror(Memory::of(&[&bytes]));
    let path = format!("/v2/library/app/blobs/{digest}?ns=docker.io");
    let rows: [(&str, u16, Range<usize>, Option<&str>); 7] = [
        ("", 200, 0..100_000, None),
        ("range: bytes=0-0\r\n", 206, 0..1, Some("bytes 0-0/100000")),
        (
            "range: bytes=99000-\r\n",
            206,
            99_000..100_000,
            Some("bytes 99000-99999/100000"),
        ),
        (
            "range: bytes=-10\r\n",
            206,
            99_990..100_000,
            Some("bytes 99990-99999/100000"),
        ),
        (
            "range: bytes=100000-\r\n",
            416,
            0..0,
            Some("bytes */100000"),
        ),
        ("range: lines=1-2\r\n", 200, 0..100_000, None),
        (
            "if-range: \"other\"\r\nrange: bytes=0-0\r\n",
            200,
            0..100_000,
            None,
        ),
    ];
    for (more, status, range, content_range) in rows {
        let length = range.len().to_string();
        for method in ["GET", "HEAD"] {
            let answer = ask(mirror.address(), &format!("{method} {path}"), more);
            assert_eq!(answer.status, status, "{method} {more}");
            assert_eq!(answer.header("content-range"), content_range, "{more}");
            if !range.is_empty() {
                assert_eq!(answer.header("content-length"), Some(&*length), "{more}");
            }
            let is_get = method == "GET";
            let sent = if is_get {
                &bytes[range.clone()]
            } else {
                &[][..]
            };
            assert!(answer.body == sent, "{method} {more}");
            assert_eq!(
                answer.header("docker-content-digest"),
                Some(&*digest.to_string())
            );
            assert_eq!(answer.header("etag"), Some(&*format!("\"{digest}\"")));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        }
    }
    let counts = mirror.counts();
    assert_eq!((counts.refused, counts.absent, counts.failed), (2, 0, 0));
    assert_eq!(counts.bytes, 3 * 100_000 + 1 + 1000 + 10);
}

#[test]
fn a_part_of_what_it_knows_is_given_and_several_are_not() {
    let (bytes, digest) = blob();
    let mirror = mirror(Memory::of(&[&bytes, b""]));
    let path = format!("/v2/library/app/blobs/{digest}");
    let several = ask(
        mirror.address(),
        &format!("GET {path}"),
        "range: bytes=0-1,5-6\r\n",
    );
    assert_eq!(several.status, 400);
    let good = format!("if-range: \"{digest}\"\r\nrange: bytes=5-6\r\n");
    assert_eq!(
        ask(mirror.address(), &format!("GET {path}"), &good).body,
        &bytes[5..7]
    );
    let empty = format!("GET /v2/a/blobs/{}", Digest::of(b""));
    assert_eq!(ask(mirror.address(), &empty, "").status, 200);
    assert_eq!((mirror.counts().refused, mirror.counts().given), (1, 2));
}

#[test]
fn what_is_not_here_is_the_registrys() {
    let (bytes, digest) = blob();
    let mirror = mirror(Memory::of(&[&bytes, MANIFEST.as_bytes()]));
    let elsewhere = Digest::of(b"elsewhere");
    for (path, status, code) in [
        (format!("/v2/a/blobs/{elsewhere}"), 404, "BLOB_UNKNOWN"),
        (
            format!("/v2/a/manifests/{elsewhere}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        // A layer is no manifest, whatever it is called.
        (format!("/v2/a/manifests/{digest}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/latest".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/tags/list".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/_catalog".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let answer = ask(mirror.address(), &format!("GET {path}"), "");
        assert_eq!(answer.status, status, "{path}");
        let text = String::from_utf8(answer.body).unwrap();
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{path}");
    }
    let post = ask(
        mirror.address(),
        "POST /v2/a/blobs/uploads/",
        "content-length: 0\r\n",
    );
    assert_eq!(
        (post.status, post.header("allow")),
        (405, Some("GET, HEAD"))
    );
    let counts = mirror.counts();
    assert_eq!((counts.absent, counts.refused, counts.given), (6, 1, 0));
}

#[test]
fn manifests_are_given_by_digest() {
    let digest = Digest::of(MANIFEST.as_bytes());
    let mirror = mirror(Memory::of(&[MANIFEST.as_bytes()]));
    for method in ["GET", "HEAD"] {
        let line = format!("{method} /v2/library/app/manifests/{digest}");
        // As containerd asks a dfdaemon.
        let answer = ask(
            mirror.address(),
            &line,
            "x-dragonfly-registry: https://r.example\r\n",
        );
        let media_type = answer.header("content-type");
        assert_eq!(
            media_type,
            Some("application/vnd.oci.image.manifest.v1+json")
        );
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(&*digest.to_string())
        );
        let length = MANIFEST.len().to_string();
        assert_eq!(answer.header("content-length"), Some(&*length));
        let sent = if method == "GET" { MANIFEST } else { "" };
        assert_eq!(answer.body, sent.as_bytes());
    }
    let registry = ask(mirror.address(), "GET /v2/", "");
    assert_eq!((registry.status, &*registry.body), (200, &b"{}"[..]));
}

#[test]
fn damage_is_not_passed_on() {
    let mut here = Memory::of(&[MANIFEST.as_bytes()]);
    let digest = Digest::of(MANIFEST.as_bytes());
    let flipped = MANIFEST.replace("layers", "lavers");
    here.blobs.insert(digest.to_string(), Bytes::from(flipped));
    let mirror = mirror(here);
    let answer = ask(
        mirror.address(),
        &format!("GET /v2/a/manifests/{digest}"),
        "",
    );
    assert_eq!(answer.status, 500);
    assert_eq!(mirror.counts().failed, 1);
}

#[test]
fn only_what_came_from_the_named_registries_is_given() {
    let (bytes, digest) = blob();
    for (registries, status) in [
        (vec![], 200),
        (vec!["docker.io".to_owned()], 200),
        (vec!["docker.io.example".to_owned()], 404),
    ] {
        let config = Config {
            registries,
            ..config()
        };
        let mirror = Mirror::of(&config, Arc::new(Memory::of(&[&bytes])), None).unwrap();
        // What the client says of it does not count.
        let line = format!("GET /v2/a/blobs/{digest}?ns=docker.io.example");
        assert_eq!(ask(mirror.address(), &line, "").status, status);
    }
}

#[test]
fn others_are_asked_for_what_is_not_here_but_not_in_a_circle() {
    let (bytes, digest) = blob();
    let there = Arc::new(Memory::of(&[&bytes]));
    let elsewhere: Arc<dyn Store> = Arc::clone(&there) as _;
    let mirror = Mirror::of(&config(), Arc::new(Memory::of(&[])), Some(elsewhere)).unwrap();
    let line = format!("GET /v2/a/blobs/{digest}");
    assert!(ask(mirror.address(), &line, "").body == bytes);
    assert_eq!(there.asked.load(Ordering::SeqCst), 1);
    for guard in ["x-pontoon-mirrored", "x-spegel-mirrored"] {
        let answer = ask(mirror.address(), &line, &format!("{guard}: true\r\n"));
        assert_eq!(answer.status, 404, "{guard}");
    }
    assert_eq!(there.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn half_a_blob_is_never_taken_for_a_whole_one() {
    let (bytes, digest) = blob();
    let here = Memory {
        breaks_at: Some(50_000),
        ..Memory::of(&[&bytes])
    };
    let mirror = mirror(here);
    let answer = ask(mirror.address(), &format!("GET /v2/a/blobs/{digest}"), "");
    assert_eq!(answer.header("content-length"), Some("100000"));
    assert!(answer.body.len() <= 50_000);
}

#[test]
fn a_containerd_that_is_gone_is_an_error_that_passes() {
    let (bytes, digest) = blob();
    let here = Memory {
        is_down: true,
        ..Memory::of(&[&bytes])
    };
    let answered = mirror(here);
    let line = format!("GET /v2/a/blobs/{digest}");
    assert_eq!(ask(answered.address(), &line, "").status, 503);
    let expected = Counts {
        failed: 1,
        ..Counts::default()
    };
    assert_eq!(answered.counts(), expected);
    // And so it is with a real client of a containerd that does not run.
    let unanswered = Mirror::start(&config()).unwrap();
    assert_eq!(ask(unanswered.address(), &line, "").status, 503);
}

#[test]
fn large_heads_are_refused() {
    let mirror = mirror(Memory::default());
    let more = format!("x-a: {}\r\n", "a".repeat(20 << 10));
    assert_eq!(ask(mirror.address(), "GET /v2/", &more).status, 431);
}

#[test]
fn it_listens_on_loopback_or_not_at_all() {
    let open = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..config()
    };
    let error = Mirror::start(&open).unwrap_err();
    assert!(matches!(error, Error::NotLoopback { .. }), "{error}");
    let first = mirror(Memory::default());
    let taken = Config {
        listen: first.address(),
        ..config()
    };
    let error = Mirror::start(&taken).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    // It is free again when the first one is gone.
    drop(first);
    Mirror::start(&taken).unwrap();
}
