//! A wire in front of small servers. Times are bounded on the side on which the machine cannot
//! interfere, and by generous limits on the other.

#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion in a test")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// Serves until its process ends: each connection gets what `serve` does.
fn server(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    host
}

/// Answers each byte with that many kilobytes.
fn kilobytes(mut stream: TcpStream) {
    let mut count = [0];
    while stream.read(&mut count).is_ok_and(|read| read == 1) {
        // The client may be gone.
        let _ = stream.write_all(&vec![7; usize::from(count[0]) * 1000]);
    }
}

fn ask(stream: &mut TcpStream, kilobytes: u8) {
    stream.write_all(&[kilobytes]).unwrap();
    let mut answer = vec![0; usize::from(kilobytes) * 1000];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.iter().all(|byte| *byte == 7));
}

#[test]
fn each_question_takes_a_round_trip_and_a_new_connection_one_more() {
    let link = Link::new(0, 50);
    let wire = Wire::start(&server(kilobytes), link).unwrap();
    let started = Instant::now();
    let mut stream = TcpStream::connect(wire.host()).unwrap();
    for trips in 2..5 {
        ask(&mut stream, 1);
        assert!(started.elapsed() >= link.round_trip * trips);
    }
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// Pieces fly side by side: a transfer takes one round trip, not one for each piece.
#[test]
fn what_is_sent_at_once_arrives_together() {
    let wire = Wire::start(&server(kilobytes), Link::new(0, 400)).unwrap();
    let mut stream = TcpStream::connect(wire.host()).unwrap();
    let started = Instant::now();
    for _ in 0..10 {
        stream.write_all(&[250]).unwrap();
    }
    let mut answer = vec![0; 2_500_000];
    stream.read_exact(&mut answer).unwrap();
    // 40 pieces or more, each of which would take 200 ms after the other.
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[test]
fn all_connections_share_the_bandwidth() {
    let link = Link::new(40, 0);
    let wire = Wire::start(&server(kilobytes), link).unwrap();
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(wire.host()).unwrap();
                for _ in 0..2 {
                    ask(&mut stream, 250);
                }
            });
        }
    });
    let took = started.elapsed();
    // 2.5 MB at 5 MB/s.
    assert!(took >= Duration::from_millis(495), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let journal = wire.journal();
    assert_eq!((journal.bytes, journal.connections), (2_500_000, 5));
    let busy = journal.busy_between(started, started + took);
    assert!(busy >= Duration::from_millis(495) && busy <= took);
}

#[test]
fn requests_are_told_from_each_other() {
    // Every request is answered with 300 bytes.
    let host = server(|mut stream| {
        let mut seen = Vec::new();
        let mut buffer = [0; 1000];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            seen.extend_from_slice(&buffer[..length]);
            while let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                seen.drain(..end + 4);
                stream.write_all(&[b'x'; 300]).unwrap();
            }
        }
    });
    let wire = Wire::start(&host, Link::new(0, 10)).unwrap();
    let mut stream = TcpStream::connect(wire.host()).unwrap();
    for path in ["/v2/x/manifests/1", "/v2/x/blobs/2"] {
        let head = format!("GET {path} HTTP/1.1\r\nRange: bytes=0-299\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 300]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    let journal = wire.turn_page();
    assert_eq!(journal.transfers.len(), 2);
    assert_eq!(journal.bytes_of(Transfer::is_blob), 300);
    let blob = &journal.transfers[1];
    assert_eq!(blob.range.as_deref(), Some("bytes=0-299"));
    assert!(blob.first.unwrap() >= blob.asked + Duration::from_millis(10));
    assert!(wire.journal().transfers.is_empty());
}

#[test]
fn dropping_it_cuts_connections() {
    let wire = Wire::start(&server(kilobytes), Link::new(0, 5_000)).unwrap();
    let mut stream = TcpStream::connect(wire.host()).unwrap();
    stream.write_all(&[200]).unwrap();
    let host = wire.host().to_owned();
    drop(wire);
    // Nothing or a reset, but not 200,000 bytes.
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    assert!(TcpStream::connect(host).is_err());
}
