//! Messages that are no messages, and methods that do not exist.

use prost::Message;
use prost::bytes::{Buf, BufMut};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

use pontoon_proto::snapshots as v1;

use crate::daemon::{Daemon, NAME, channel, refused};

/// Sends and receives bytes as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

const SERVICE: &str = "/containerd.services.snapshots.v1.Snapshots";

/// Calls `path` with a message of these bytes.
fn call(daemon: &Daemon, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let path = PathAndQuery::try_from(path).unwrap();
    daemon.block_on(async {
        let mut client =
            Grpc::new(channel(daemon.plugin.socket())).max_encoding_message_size(64 << 20);
        client.ready().await.unwrap();
        let answer = client.unary(Request::new(message), path, Raw).await?;
        Ok(answer.into_inner())
    })
}

#[test]
fn unknown_methods_are_unimplemented() {
    let mut daemon = Daemon::start();
    for path in [
        "/",
        "/x",
        "/containerd.services.snapshots.v1.Snapshots/Nothing",
        "/grpc.other/Stat",
    ] {
        let status = call(&daemon, path, Vec::new()).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    daemon.assert_nothing_lost();
}

#[test]
fn messages_that_do_not_decode_are_refused() {
    let mut daemon = Daemon::start();
    let good = v1::PrepareSnapshotRequest {
        snapshotter: NAME.to_owned(),
        key: "new".to_owned(),
        parent: "kept".to_owned(),
        labels: [("a".to_owned(), "1".to_owned())].into(),
    };
    let good = good.encode_to_vec();
    let mut wrong: Vec<Vec<u8>> = vec![
        vec![0xff; 100],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // A string field that is not UTF-8, one longer than the message, one of another type.
        vec![0x12, 2, 0xff, 0xfe],
        vec![0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0x10, 1],
        // Groups, nested deeper than anybody may.
        vec![0x2b; 10_000],
    ];
    // Every part of a good one that ends inside of a field.
    wrong.extend((1..good.len()).map(|end| good[..end].to_vec()));
    for message in wrong {
        match call(&daemon, &format!("{SERVICE}/Prepare"), message.clone()) {
            // A part that ends between two fields is a message, but without its key or with no parent.
            Ok(_) => daemon.remove("new").unwrap(),
            Err(status) => assert!(
                matches!(status.code(), Code::InvalidArgument | Code::Internal),
                "{message:x?}: {status:?}"
            ),
        }
    }
    daemon.assert_nothing_lost();
}

#[test]
fn fields_that_are_unknown_are_skipped() {
    let mut daemon = Daemon::start();
    let mut message = v1::StatSnapshotRequest {
        snapshotter: NAME.to_owned(),
        key: "kept".to_owned(),
    }
    .encode_to_vec();
    // Field 1000, 3 bytes.
    message.extend([0xc2, 0x3e, 3, 1, 2, 3]);
    let answer = call(&daemon, &format!("{SERVICE}/Stat"), message).unwrap();
    let answer = v1::StatSnapshotResponse::decode(&answer[..]).unwrap();
    assert_eq!(answer.info.unwrap().name, "kept");
    daemon.assert_nothing_lost();
}

#[test]
fn messages_above_the_limit_are_refused_and_below_it_are_read() {
    let mut daemon = Daemon::start();
    let message = |bytes: usize| {
        v1::StatSnapshotRequest {
            snapshotter: NAME.to_owned(),
            key: "k".repeat(bytes),
        }
        .encode_to_vec()
    };
    let stat = format!("{SERVICE}/Stat");
    refused(
        call(&daemon, &stat, message(15 << 20)),
        Code::InvalidArgument,
    );
    for bytes in [17 << 20, 40 << 20] {
        let status = call(&daemon, &stat, message(bytes)).unwrap_err();
        // The daemon refuses it by the length that stands before it, and may hang up while it is still sent.
        let code = status.code();
        let hung_up = std::error::Error::source(&status).is_some();
        assert!(
            matches!(code, Code::OutOfRange | Code::ResourceExhausted) || hung_up,
            "{status:?}"
        );
    }
    daemon.assert_nothing_lost();
}
