//! A containerd that keeps everything in memory and does what it is told to. Where it matters it does as
//! `plugins/services/content/contentserver` and `plugins/content/local` do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use pontoon_containerd::Client;
use pontoon_layer::Digest;
use pontoon_proto::content::content_server::{Content, ContentServer};
use pontoon_proto::content::{self as v1, WriteAction};
use pontoon_proto::images::images_server::{Images, ImagesServer};
use pontoon_proto::leases::leases_server::{Leases, LeasesServer};
use pontoon_proto::{images, leases};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What it knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) blobs: BTreeMap<String, (Vec<u8>, BTreeMap<String, String>)>,
    pub(crate) ingests: BTreeMap<String, Vec<u8>>,
    pub(crate) images: BTreeMap<String, images::Image>,
    pub(crate) leases: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) resources: Vec<(String, String)>,
    /// How many more writers find the reference locked.
    pub(crate) locked: u32,
    /// What the last call came with: namespace and lease.
    pub(crate) headers: (String, String),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

/// A running one, and a client of it.
pub(crate) struct Running {
    pub(crate) fake: Fake,
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    _dir: tempfile::TempDir,
}

pub(crate) async fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("containerd.sock");
    let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let fake = Fake::default();
    let server = tonic::transport::Server::builder()
        .add_service(ContentServer::new(fake.clone()).max_decoding_message_size(16 << 20))
        .add_service(ImagesServer::new(fake.clone()))
        .add_service(LeasesServer::new(fake.clone()))
        .serve_with_incoming(listener);
    tokio::spawn(server);
    Running {
        fake,
        client: Client::new(&socket, "k8s.io").unwrap(),
        socket,
        _dir: dir,
    }
}

impl Fake {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn note<T>(&self, request: &Request<T>) {
        let header = |name: &str| {
            let value = request.metadata().get(name);
            value.map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        self.state().headers = (header("containerd-namespace"), header("containerd-lease"));
    }

    fn write_one(
        &self,
        reference: &str,
        request: &v1::WriteContentRequest,
    ) -> Result<v1::WriteContentResponse, Status> {
        let mut state = self.state();
        if !request.expected.is_empty() && state.blobs.contains_key(&request.expected) {
            state.ingests.remove(reference);
            return Err(Status::already_exists("blob with expected digest exists"));
        }
        let written = state.ingests.entry(reference.to_owned()).or_default();
        let action = WriteAction::try_from(request.action).unwrap();
        if action != WriteAction::Stat {
            let offset = usize::try_from(request.offset).unwrap();
            if offset > 0 && offset != written.len() {
                return Err(Status::out_of_range("write must occur at current offset"));
            }
            if offset == 0 {
                written.clear();
            }
            written.extend_from_slice(&request.data);
        }
        let answer = v1::WriteContentResponse {
            action: request.action,
            offset: i64::try_from(written.len()).unwrap(),
            ..v1::WriteContentResponse::default()
        };
        if action == WriteAction::Commit {
            let digest = Digest::of(written).to_string();
            if request.total != answer.offset || request.expected != digest {
                return Err(Status::failed_precondition("unexpected commit digest"));
            }
            let data = state.ingests.remove(reference).unwrap();
            state.blobs.insert(digest, (data, request.labels.clone()));
        }
        Ok(answer)
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Content for Fake {
    async fn info(
        &self,
        request: Request<v1::InfoRequest>,
    ) -> Result<Response<v1::InfoResponse>, Status> {
        self.note(&request);
        let digest = request.into_inner().digest;
        let state = self.state();
        let (data, labels) = (state.blobs.get(&digest)).ok_or(Status::not_found("content"))?;
        Ok(Response::new(v1::InfoResponse {
            info: Some(v1::Info {
                digest,
                size: i64::try_from(data.len()).unwrap(),
                labels: labels.clone(),
                ..v1::Info::default()
            }),
        }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        let request = request.into_inner();
        let info = request.info.unwrap();
        let mut state = self.state();
        let blob = state.blobs.get_mut(&info.digest);
        let (_, labels) = blob.ok_or(Status::not_found("content"))?;
        let paths = request.update_mask.unwrap().paths;
        if paths.is_empty() {
            // As containerd: everything that can be changed is.
            labels.clone_from(&info.labels);
        }
        for path in paths {
            let key = path.strip_prefix("labels.").unwrap();
            match info.labels.get(key).filter(|value| !value.is_empty()) {
                Some(value) => labels.insert(key.to_owned(), value.clone()),
                None => labels.remove(key),
            };
        }
        Ok(Response::new(v1::UpdateResponse::default()))
    }

    type ReadStream = Answers<v1::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<v1::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let data = {
            let state = self.state();
            let blob = state.blobs.get(&request.digest);
            blob.ok_or(Status::not_found("content"))?.0.clone()
        };
        let start = usize::try_from(request.offset).unwrap();
        let size = usize::try_from(request.size).unwrap();
        let end = if size == 0 { data.len() } else { start + size };
        let (sender, receiver) = mpsc::channel(64);
        // As the real one: from where the read begins.
        let mut offset = 0;
        for piece in data[start..end].chunks(1 << 18) {
            let piece = v1::ReadContentResponse {
                offset: i64::try_from(offset).unwrap(),
                data: piece.to_vec().into(),
            };
            offset += piece.data.len();
            sender.try_send(Ok(piece)).unwrap();
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Err(Status::unimplemented("status"))
    }

    type WriteStream = Answers<v1::WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<v1::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        self.note(&request);
        {
            let mut state = self.state();
            if state.locked > 0 {
                state.locked -= 1;
                return Err(Status::unavailable(
                    "ref layer-x locked for 3s: unavailable",
                ));
            }
        }
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        let fake = self.clone();
        tokio::spawn(async move {
            let mut reference = String::new();
            while let Ok(Some(request)) = requests.message().await {
                if reference.is_empty() {
                    reference.clone_from(&request.r#ref);
                }
                let answer = fake.write_one(&reference, &request);
                let last = answer.is_err() || request.action == i32::from(WriteAction::Commit);
                if sender.send(answer).await.is_err() || last {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Result<Response<()>, Status> {
        let reference = request.into_inner().r#ref;
        match self.state().ingests.remove(&reference) {
            Some(_) => Ok(Response::new(())),
            None => Err(Status::not_found("ingest")),
        }
    }
}

#[tonic::async_trait]
impl Images for Fake {
    async fn get(
        &self,
        request: Request<images::GetImageRequest>,
    ) -> Result<Response<images::GetImageResponse>, Status> {
        self.note(&request);
        let name = request.into_inner().name;
        let image = self.state().images.get(&name).cloned();
        let image = Some(image.ok_or(Status::not_found("image"))?);
        Ok(Response::new(images::GetImageResponse { image }))
    }

    async fn list(
        &self,
        _: Request<images::ListImagesRequest>,
    ) -> Result<Response<images::ListImagesResponse>, Status> {
        let images = self.state().images.values().cloned().collect();
        Ok(Response::new(images::ListImagesResponse { images }))
    }

    async fn create(
        &self,
        request: Request<images::CreateImageRequest>,
    ) -> Result<Response<images::CreateImageResponse>, Status> {
        let image = request.into_inner().image.unwrap();
        let mut state = self.state();
        if state.images.contains_key(&image.name) {
            return Err(Status::already_exists("image"));
        }
        state.images.insert(image.name.clone(), image.clone());
        let image = Some(image);
        Ok(Response::new(images::CreateImageResponse { image }))
    }

    async fn update(
        &self,
        request: Request<images::UpdateImageRequest>,
    ) -> Result<Response<images::UpdateImageResponse>, Status> {
        let request = request.into_inner();
        let image = request.image.unwrap();
        let mut state = self.state();
        let there = state
            .images
            .get_mut(&image.name)
            .ok_or(Status::not_found("image"))?;
        assert_eq!(request.update_mask.unwrap().paths, ["target"]);
        there.target = image.target;
        let image = Some(there.clone());
        Ok(Response::new(images::UpdateImageResponse { image }))
    }
}

#[tonic::async_trait]
impl Leases for Fake {
    async fn create(
        &self,
        request: Request<leases::CreateRequest>,
    ) -> Result<Response<leases::CreateResponse>, Status> {
        let request = request.into_inner();
        self.state().leases.insert(request.id, request.labels);
        Ok(Response::new(leases::CreateResponse::default()))
    }

    async fn delete(
        &self,
        request: Request<leases::DeleteRequest>,
    ) -> Result<Response<()>, Status> {
        match self.state().leases.remove(&request.into_inner().id) {
            Some(_) => Ok(Response::new(())),
            None => Err(Status::not_found("lease")),
        }
    }

    async fn add_resource(
        &self,
        request: Request<leases::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let resource = request.into_inner().resource.unwrap();
        self.state().resources.push((resource.r#type, resource.id));
        Ok(Response::new(()))
    }
}
