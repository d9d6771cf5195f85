//! Servers that lie, cut off, dawdle and send too much: nothing that is wrong is handed on as right, and nobody waits for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::fixture::*;
use crate::policy::{Failure, Settings, Standing};
use crate::wire::{Error, have, pack};
use crate::{Identity, Peer, tls};

/// What a server does with a connection once a request has come.
#[derive(Debug, Clone)]
enum Lie {
    /// Sends this and closes.
    Sends(Vec<u8>),
    /// Sends this, so many bytes at a time with pauses.
    Drips(Vec<u8>, usize, Duration),
    /// Sends the first, then the second for ever.
    Repeats(Vec<u8>, Vec<u8>),
    /// Says nothing.
    Hangs,
}

async fn lie(mut stream: TlsStream<TcpStream>, lie: Lie) -> std::io::Result<()> {
    let mut request = vec![0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        let mut part = vec![0; 4096];
        match stream.read(&mut part).await? {
            0 => return Ok(()),
            read => request.extend(&part[..read]),
        }
    }
    match lie {
        Lie::Sends(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
        }
        Lie::Drips(bytes, step, pause) => {
            for part in bytes.chunks(step) {
                stream.write_all(part).await?;
                stream.flush().await?;
                sleep(pause).await;
            }
        }
        Lie::Repeats(start, again) => {
            stream.write_all(&start).await?;
            loop {
                stream.write_all(&again).await?;
            }
        }
        Lie::Hangs => sleep(Duration::from_secs(60)).await,
    }
    Ok(())
}

/// A server that lies so, every time.
async fn liar(how: Lie) -> Peer {
    let identity = Identity::ephemeral();
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&identity).unwrap()));
    let listener = TcpListener::bind(ANYWHERE).await.unwrap();
    let peer = Peer {
        id: identity.peer_id(),
        address: listener.local_addr().unwrap(),
    };
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, how) = (acceptor.clone(), how.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(tcp).await?;
                lie(stream, how).await
            });
        }
    });
    peer
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn ok(length: usize, body: &[u8]) -> Vec<u8> {
    answer("200 OK", &format!("content-length: {length}\r\n"), body)
}

const LENGTHS: [usize; 4] = [100_000, 5000, 70_000, 300_000];

/// Asks a server that lies for all chunks: what came, and how that ended, within bounds.
async fn ask(sample: &Sample, how: Lie) -> (Vec<Bytes>, Option<Error>, Duration) {
    let (peer, store) = (liar(how).await, Store::new(sample));
    let begun = Instant::now();
    let asked = timeout(
        LONG,
        all(&client(), &peer, &order(&store, 0..LENGTHS.len())),
    )
    .await;
    let (came, ended) = asked.unwrap();
    for (index, chunk) in came.iter().enumerate() {
        assert_eq!(
            chunk.len(),
            LENGTHS[index],
            "of another length than the table says"
        );
    }
    (came, ended.err(), begun.elapsed())
}

fn honest(sample: &Sample) -> Vec<u8> {
    sample.contents.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_that_is_none_is_believed() {
    let sample = Sample::new(&LENGTHS, true);
    let body = honest(&sample);
    let (came, ended, _) = ask(&sample, Lie::Sends(ok(body.len(), &body))).await;
    assert!(ended.is_none() && came.len() == 4);
    // A length need not be told.
    let plain = answer("200 OK", "connection: close\r\n", &body);
    let (came, ended, _) = ask(&sample, Lie::Sends(plain)).await;
    assert!(ended.is_none() && came.len() == 4, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_and_wrong_ranges_have_another_digest() {
    let sample = Sample::new(&LENGTHS, true);
    let mut flipped = honest(&sample);
    flipped[102_000] ^= 4;
    let (came, ended, _) = ask(&sample, Lie::Sends(ok(flipped.len(), &flipped))).await;
    assert!(ended.is_none());
    let right: Vec<bool> = came
        .into_iter()
        .enumerate()
        .map(|(index, chunk)| sample.verify(index, chunk))
        .collect();
    assert_eq!(right, [true, false, true, true]);
    // The right bytes in the wrong order.
    let mut turned = honest(&sample);
    turned.rotate_left(5000);
    let (came, _, _) = ask(&sample, Lie::Sends(ok(turned.len(), &turned))).await;
    assert!(
        came.into_iter()
            .enumerate()
            .all(|(index, chunk)| !sample.verify(index, chunk))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_and_too_little_is_nonsense_or_cut() {
    let sample = Sample::new(&LENGTHS, true);
    let body = honest(&sample);
    for length in [0, 1, body.len() - 1, body.len() + 1, usize::MAX / 2] {
        let (came, ended, _) = ask(&sample, Lie::Sends(ok(length, &body))).await;
        assert!(came.is_empty());
        assert_eq!(ended.unwrap().failure(), Failure::Wrong, "{length}");
    }
    for length in [0, 1, 99_999, 100_000, body.len() - 1] {
        let (came, ended, _) = ask(&sample, Lie::Sends(ok(body.len(), &body[..length]))).await;
        assert!(came.len() < 4);
        assert_eq!(ended.unwrap().failure(), Failure::Cut, "{length}");
    }
    // More than was asked for, of a length that was not told.
    let more = [&body[..], b"more"].concat();
    let (_, ended, _) = ask(
        &sample,
        Lie::Sends(answer("200 OK", "connection: close\r\n", &more)),
    )
    .await;
    assert_eq!(ended.unwrap().failure(), Failure::Wrong);
    let head = answer("200 OK", "connection: close\r\n", b"");
    let (_, ended, _) = ask(&sample, Lie::Repeats(head, vec![7; 1 << 20])).await;
    assert_eq!(ended.unwrap().failure(), Failure::Wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dawdles_is_given_up() {
    let sample = Sample::new(&LENGTHS, true);
    let body = honest(&sample);
    let whole = ok(body.len(), &body);
    // Silence, at once and in the middle, and just enough to look alive.
    let lies = [
        Lie::Hangs,
        Lie::Drips(whole.clone(), 200_000, Duration::from_secs(5)),
        Lie::Drips(whole, 1000, Duration::from_millis(300)),
    ];
    for how in lies {
        let (came, ended, time) = ask(&sample, how).await;
        assert!(came.len() < 4);
        assert_eq!(ended.unwrap().failure(), Failure::Slow);
        assert!(time < Duration::from_secs(12), "{time:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_are_refused() {
    let sample = Sample::new(&LENGTHS, true);
    let start = b"HTTP/1.1 200 OK\r\n".to_vec();
    let lies = [
        Lie::Repeats(start.clone(), b"x-more: and more\r\n".to_vec()),
        Lie::Repeats([&start[..], b"x-more: "].concat(), vec![b'a'; 1 << 16]),
        Lie::Sends(vec![b'\n'; 1 << 20]),
        Lie::Sends(b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        Lie::Sends(Vec::new()),
        // Interim answers for ever.
        Lie::Repeats(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
    ];
    for how in lies {
        let (came, ended, time) = ask(&sample, how.clone()).await;
        assert!(came.is_empty() && ended.is_some(), "{how:?}");
        assert!(time < Duration::from_secs(8), "{time:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_but_200_is_a_no() {
    let sample = Sample::new(&LENGTHS, true);
    let body = honest(&sample);
    let no = [
        ("404 Not Found", Failure::Missing),
        ("403 Forbidden", Failure::Refused),
        ("206 Partial Content", Failure::Refused),
        ("301 Moved Permanently", Failure::Refused),
        ("500 Internal Server Error", Failure::Refused),
        (
            "429 Too Many Requests",
            Failure::Busy(Duration::from_secs(1)),
        ),
        (
            "503 Service Unavailable",
            Failure::Busy(Duration::from_secs(1)),
        ),
    ];
    for (status, failure) in no {
        let headers = format!(
            "content-length: {}\r\nlocation: https://127.0.0.1/\r\n",
            body.len()
        );
        let (came, ended, _) = ask(&sample, Lie::Sends(answer(status, &headers, &body))).await;
        assert!(came.is_empty());
        assert_eq!(ended.unwrap().failure(), failure, "{status}");
    }
    // Nobody is sent away for ever.
    let headers = "x-retry-after-ms: 18446744073709551615\r\ncontent-length: 0\r\n";
    let (_, ended, _) = ask(
        &sample,
        Lie::Sends(answer("429 Too Many Requests", headers, b"")),
    )
    .await;
    assert_eq!(
        ended.unwrap().failure(),
        Failure::Busy(Duration::from_secs(60))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_do_not_go_off() {
    let sample = Sample::new(&LENGTHS, false);
    let store = Store::new(&sample);
    let headers = "content-encoding: zstd\r\nconnection: close\r\n";
    let pack = |content: &[u8]| pack::pack(content);
    // 64 MiB for a chunk of 100,000 bytes.
    let mut bomb = pack(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000);
    let bodies = [
        bomb.clone(),
        {
            bomb.truncate(2000);
            bomb
        },
        pack(&sample.contents[0][1..]),
        pack(&[&sample.contents[0][..], b"x"].concat()),
        vec![0xff; 200_000],
        vec![0; 200_000],
        (1_u32 << 30).to_le_bytes().to_vec(),
    ];
    for body in bodies {
        let peer = liar(Lie::Sends(answer("200 OK", headers, &body))).await;
        let mut order = order(&store, 0..4);
        order.packed = true;
        let (came, ended) = timeout(LONG, all(&client(), &peer, &order)).await.unwrap();
        assert!(came.is_empty());
        let failure = ended.unwrap_err().failure();
        assert!(
            matches!(failure, Failure::Wrong | Failure::Cut),
            "{failure:?}"
        );
    }
    // Nobody unpacks who has not asked for it.
    let packed = pack(&sample.contents[0]);
    let (_, ended, _) = ask(&sample, Lie::Sends(answer("200 OK", headers, &packed))).await;
    assert_eq!(ended.unwrap().failure(), Failure::Wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_at_the_address_is_not_asked() {
    let sample = Sample::new(&LENGTHS, true);
    let host = Host::start(Store::full(&sample), crate::wire::Limits::default()).await;
    let other = Peer {
        id: Identity::ephemeral().peer_id(),
        address: host.peer.address,
    };
    let (came, ended) = all(&client(), &other, &order(&host.store, 0..1)).await;
    assert!(
        came.is_empty() && matches!(ended, Err(Error::Connect { .. })),
        "{ended:?}"
    );
    assert_eq!(host.server.counters().uploads, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_have_are_nonsense() {
    let sample = Sample::new(&LENGTHS, true);
    let told = crate::Have {
        told: Some(crate::Told {
            generation: 1,
            chunks: crate::Bitmap::full(9),
            complete: true,
            active: false,
        }),
        peers: Vec::new(),
        zone: String::new(),
    };
    let other = have::encode(&told, 1, 9);
    let bodies = [
        Vec::new(),
        vec![0; 100],
        vec![b'P'; have::BYTES_MAX + 1],
        other,
    ];
    for body in bodies {
        let peer = liar(Lie::Sends(ok(body.len(), &body))).await;
        let asked = timeout(LONG, client().have(&peer, &sample.key, None, LENGTHS.len())).await;
        let error = asked.unwrap().unwrap_err();
        assert_eq!(error.failure(), Failure::Wrong, "{error}");
    }
    let endless = answer("200 OK", "connection: close\r\n", b"PNThave1");
    let peer = liar(Lie::Repeats(endless, vec![0; 1 << 16])).await;
    let asked = timeout(LONG, client().have(&peer, &sample.key, None, LENGTHS.len())).await;
    assert_eq!(asked.unwrap().unwrap_err().failure(), Failure::Wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_are_banned_and_counted() {
    let sample = Sample::new(&LENGTHS, true);
    let body = honest(&sample);
    let (short, long) = (ok(body.len(), &body[..5]), ok(body.len() + 1, &body));
    for (how, times) in [(long, 1), (short, 5)] {
        let mut standing: Standing<crate::PeerId> = Standing::new(Settings::default(), 1);
        let (peer, store) = (liar(Lie::Sends(how)).await, Store::new(&sample));
        // As if each pause were waited for.
        let mut now = std::time::Instant::now();
        let mut bans = 0;
        for _ in 0..times {
            assert_eq!(bans, 0);
            let (_, ended) = all(&client(), &peer, &order(&store, 0..4)).await;
            let failure = ended.unwrap_err().failure();
            bans += usize::from(standing.failed(now, peer.id, failure).is_some());
            now += Duration::from_secs(61);
        }
        assert_eq!((bans, standing.bans().total()), (1, 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is changed in an honest answer: what is handed on has the right length, and is right or has another digest; what
    /// is not changed is right.
    #[test]
    fn whatever_is_changed_is_noticed(
        at in any::<prop::sample::Index>(),
        change in prop_oneof![Just(0_u8), 1_u8..255],
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let sample = Sample::new(&[3000, 1, 5000], true);
        let body = sample.contents.concat();
        let mut bytes = ok(body.len(), &body);
        let start = bytes.len() - body.len();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let came = runtime.block_on(async {
            let (peer, store) = (liar(Lie::Sends(bytes)).await, Store::new(&sample));
            timeout(LONG, all(&client(), &peer, &order(&store, 0..3))).await.unwrap().0
        });
        let ends = [3000, 3001, 8001];
        for (index, chunk) in came.into_iter().enumerate() {
            let begin = start + ends[index] - chunk.len();
            let is_changed = change != 0 && (begin..start + ends[index]).contains(&at);
            prop_assert_eq!(chunk.len(), sample.contents[index].len());
            // Header bytes that still make an answer do not move its body.
            prop_assert_eq!(sample.verify(index, chunk), !is_changed);
        }
    }
}
