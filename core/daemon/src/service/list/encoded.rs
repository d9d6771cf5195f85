//! List on the wire, where messages come encoded: what generated code does for the other RPCs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::{Body, Bytes};
use pontoon_proto::snapshots::ListSnapshotsRequest;
use prost::bytes::BufMut;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstDecoder;

use super::Batches;
use crate::service::Service;

/// The path of List in the service.
pub(crate) const PATH: &str = "/containerd.services.snapshots.v1.Snapshots/List";

/// Answers a request for [`PATH`].
pub(crate) async fn serve<B>(
    service: Arc<Service>,
    request: hyper::Request<B>,
    message_bytes_max: usize,
) -> hyper::Response<tonic::body::Body>
where
    B: Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    Grpc::new(EncodedCodec)
        .max_decoding_message_size(message_bytes_max)
        .max_encoding_message_size(message_bytes_max)
        .server_streaming(List(service), request)
        .await
}

struct List(Arc<Service>);

impl ServerStreamingService<ListSnapshotsRequest> for List {
    type Response = Bytes;
    type ResponseStream = Batches;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Batches>, Status>> + Send>>;

    fn call(&mut self, request: Request<ListSnapshotsRequest>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.list_encoded(request).await })
    }
}

/// Sends bytes that are a message already.
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = ListSnapshotsRequest;
    type Encoder = EncodedCodec;
    type Decoder = ProstDecoder<ListSnapshotsRequest>;

    fn encoder(&mut self) -> EncodedCodec {
        EncodedCodec
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(Default::default())
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}
