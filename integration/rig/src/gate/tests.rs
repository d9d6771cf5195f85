//! A gate in front of a small server of our own: `/v2/x/blobs/N` is N bytes.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::http::{self, Response};

/// Serves until its process ends; every answer closes its connection.
fn origin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    host
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| n as u8).collect()
}

fn serve(mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let mut range = None;
    for line in lines {
        let line = line.unwrap().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(text) = line.strip_prefix("range: bytes=") {
            let (first, last) = text.split_once('-').unwrap();
            range = Some((first.parse().unwrap(), last.parse::<usize>().unwrap() + 1));
        }
    }
    let length = path.rsplit('/').next().unwrap().parse().unwrap_or(0);
    let whole = content(length);
    let (status, body) = match range {
        None => ("200 OK\r\n".to_owned(), &whole[..]),
        Some((first, end)) => (
            format!(
                "206 Partial\r\nContent-Range: bytes {first}-{}/{length}\r\n",
                end - 1
            ),
            &whole[first..end],
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // The client may be gone: that is what some tests are about.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

fn get(gate: &Gate, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    http::request(gate.host(), "GET", path, headers, b"")
}

fn blob(gate: &Gate, length: usize) -> Response {
    get(gate, &format!("/v2/x/blobs/{length}"), &[]).unwrap()
}

#[test]
fn counts_what_goes_through() {
    let gate = Gate::start(&origin()).unwrap();
    assert_eq!(blob(&gate, 100_000).body, content(100_000));
    let mark = gate.mark();
    let part = get(&gate, "/v2/x/blobs/5000", &[("Range", "bytes=10-19")]).unwrap();
    assert_eq!((part.status, part.body), (206, content(20)[10..].to_vec()));
    get(&gate, "/v2/x/manifests/0?a=b", &[]).unwrap();
    assert_eq!((mark.requests(), mark.bytes()), (2, 10));
    assert_eq!((gate.requests(), gate.connections()), (3, 3));
    assert_eq!(gate.bytes_of(Request::is_blob), 100_010);
    assert_eq!(gate.count(Request::is_manifest), 1);
    let exchanges = mark.exchanges();
    assert_eq!(exchanges[0].request.bytes(), Some((10, Some(20))));
    assert!(exchanges[0].request.overlaps(&(19..30)) && !exchanges[0].request.overlaps(&(20..30)));
    assert_eq!(
        (exchanges[0].status, exchanges[0].complete),
        (Some(206), true)
    );
    assert_eq!(exchanges[1].request.query, "a=b");
}

#[test]
fn holds_requests_until_they_are_released() {
    let gate = Gate::start(&origin()).unwrap();
    let hold = gate.hold(|request| request.names("/7"));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| blob(&gate, 7).body.len());
        hold.wait(1).unwrap();
        assert_eq!(blob(&gate, 8).body.len(), 8);
        assert!(!waiting.is_finished());
        hold.release();
        assert_eq!(waiting.join().unwrap(), 7);
    });
    // A client that gives up is held no longer.
    let hold = gate.hold(|_| true);
    let mut stream = TcpStream::connect(gate.host()).unwrap();
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    hold.wait(1).unwrap();
    drop(stream);
    wait::until("nothing held", LIMIT, || {
        Ok((hold.held() == 0).then_some(()))
    })
    .unwrap();
    assert_eq!(hold.hits(), 1);
}

#[test]
fn answers_in_place_of_the_registry() {
    let gate = Gate::start(&origin()).unwrap();
    let busy = gate.inject(Request::is_blob, Fault::retry_after(429, 3));
    busy.times(2);
    for _ in 0..2 {
        let answer = blob(&gate, 10);
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (429, Some("3"))
        );
    }
    assert_eq!(blob(&gate, 10).status, 200);
    assert_eq!(busy.hits(), 2);
    drop(busy);
    gate.set(Fault::status(503));
    assert_eq!(blob(&gate, 10).status, 503);
    gate.set(Fault::Refuse);
    assert!(get(&gate, "/v2/", &[]).is_err());
    gate.clear();
    assert_eq!(blob(&gate, 10).status, 200);
}

#[test]
fn damages_bodies() {
    let gate = Gate::start(&origin()).unwrap();
    let flipped = |at: usize, range: std::ops::Range<usize>| {
        let mut bytes = content(50_000);
        bytes[at] ^= 1;
        bytes[range].to_vec()
    };
    gate.set(Fault::CorruptByte(30_000));
    assert_eq!(blob(&gate, 50_000).body, flipped(30_000, 0..50_000));
    let part = |range| get(&gate, "/v2/x/blobs/50000", &[("Range", range)]).unwrap();
    assert_eq!(
        part("bytes=29990-30009").body,
        flipped(30_000, 29_990..30_010)
    );
    assert_eq!(part("bytes=0-9").body, content(10));
    gate.set(Fault::CorruptFirst);
    assert_eq!(part("bytes=5-9").body, flipped(5, 5..10));
    gate.set(Fault::Shorten(1));
    assert_eq!(part("bytes=0-9").body, content(9));
    gate.set(Fault::IgnoreRange);
    let whole = part("bytes=0-9");
    assert_eq!((whole.status, whole.body.len()), (200, 50_000));
    // An HTTP/1.0 client takes what has come for the body when the connection ends.
    gate.set(Fault::Cut(1234));
    let cut = blob(&gate, 50_000);
    assert_eq!(cut.header("content-length"), Some("50000"));
    assert_eq!(cut.body, content(1234));
    assert!(!gate.exchanges().last().unwrap().complete);
}

/// Reads `length` bytes of the body of a blob whose end does not come.
fn begin(gate: &Gate, length: usize) -> TcpStream {
    let mut stream = TcpStream::connect(gate.host()).unwrap();
    let request = "GET /v2/x/blobs/50000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    stream.read_exact(&mut vec![0; length]).unwrap();
    stream
}

#[test]
fn stops_and_goes_on() {
    let gate = Gate::start(&origin()).unwrap();
    let stall = gate.inject(|_| true, Fault::Stall(1000));
    let mut stream = begin(&gate, 1000);
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it did not stall");
    drop(stall);
    stream.set_read_timeout(None).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, content(50_000)[1000..]);

    let silence = gate.inject(|_| true, Fault::Silent);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| blob(&gate, 9).status);
        silence.wait(1).unwrap();
        drop(silence);
        assert_eq!(waiting.join().unwrap(), 200);
    });

    let freeze = gate.freeze();
    let mut stream = TcpStream::connect(gate.host()).unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it is not frozen");
    drop(freeze);
    stream.set_read_timeout(None).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 1);

    let mut open = begin(&gate, 10);
    gate.down().unwrap();
    let mut rest = Vec::new();
    // It may end in order or not; that it ends is what counts.
    let _ = open.read_to_end(&mut rest);
    assert!(TcpStream::connect(gate.host()).is_err());
    gate.up().unwrap();
    assert_eq!(blob(&gate, 9).status, 200);
}

/// The only thing that is measured is that it takes no less than it must.
#[test]
fn is_as_slow_as_the_link() {
    let gate = Gate::start(&origin()).unwrap();
    gate.link(Link {
        round_trip: Duration::from_millis(20),
        bytes_per_second: 1_000_000,
    });
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(blob(&gate, 50_000).body.len(), 50_000));
        }
    });
    let least = Duration::from_millis(40 + 100);
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
    gate.link(Link::default());
    for (fault, least) in [
        (Fault::Delay(Duration::from_millis(60)), 60),
        (Fault::Trickle(500_000), 100),
    ] {
        gate.set(fault);
        let started = Instant::now();
        assert_eq!(blob(&gate, 50_000).body.len(), 50_000);
        assert!(started.elapsed() >= Duration::from_millis(least));
    }
}

#[test]
fn redirects_to_addresses_that_expire() {
    let gate = Gate::start(&origin()).unwrap();
    gate.set(Fault::Redirect(Duration::from_mins(1)));
    let headers = [("Authorization", "Bearer secret")];
    let moved = get(&gate, "/v2/x/blobs/500", &headers).unwrap();
    assert_eq!(moved.status, 307);
    let location = moved.header("location").unwrap().to_owned();
    let rest = location.strip_prefix("http://localhost:").unwrap();
    let path = &rest[rest.find('/').unwrap()..];
    assert_eq!(get(&gate, path, &[]).unwrap().body, content(500));
    assert!(gate.exchanges()[1].request.is_signed() && gate.exchanges()[1].request.is_blob());
    gate.expire_redirects();
    assert_eq!(get(&gate, path, &[]).unwrap().status, 403);
}
