//! A registry that does as it is told.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use pontoon_layer::Digest;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::image::{Image, MANIFEST_TYPE};

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    /// By path.
    documents: Mutex<BTreeMap<String, (&'static str, Bytes)>>,
    requests: Mutex<Vec<String>>,
    /// Requests for a path with one of these in it wait.
    held: watch::Sender<Vec<String>>,
    /// Repositories that want a token, which nobody gets.
    closed: Mutex<Vec<String>>,
    tokens: Mutex<bool>,
    address: SocketAddr,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            documents: Mutex::default(),
            requests: Mutex::default(),
            held: watch::Sender::new(Vec::new()),
            closed: Mutex::default(),
            tokens: Mutex::default(),
            address,
        });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Registry {
            address,
            shared,
            _runtime: runtime,
        }
    }

    /// Uploads an image; answers its reference.
    pub(crate) fn push(&self, image: &Image, repository: &str) -> String {
        let mut documents = self.shared.documents.lock().unwrap();
        let manifest = Bytes::from(image.manifest());
        let digest = Digest::of(&manifest).to_string();
        for name in ["1", digest.as_str()] {
            let path = format!("/v2/{repository}/manifests/{name}");
            documents.insert(path, (MANIFEST_TYPE, manifest.clone()));
        }
        let config = image.config();
        let blobs = image.layers.iter().map(|layer| layer.blob.clone());
        for blob in blobs.chain([config]) {
            let path = format!("/v2/{repository}/blobs/{}", Digest::of(&blob));
            documents.insert(path, ("application/octet-stream", blob.into()));
        }
        format!("{}/{repository}:1", self.address)
    }

    /// Changes what there is at every path with `part` in it.
    pub(crate) fn damage(&self, part: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut documents = self.shared.documents.lock().unwrap();
        for (path, (_, bytes)) in documents.iter_mut() {
            if path.contains(part) {
                let mut changed = bytes.to_vec();
                change(&mut changed);
                *bytes = changed.into();
            }
        }
    }

    /// Holds back whatever has `part` in its path, until it is told otherwise.
    pub(crate) fn hold(&self, part: &str) {
        self.shared
            .held
            .send_modify(|held| held.push(part.to_owned()));
    }

    pub(crate) fn release(&self) {
        self.shared.held.send_modify(Vec::clear);
    }

    /// From now on every request needs a token.
    pub(crate) fn want_tokens(&self) {
        *self.shared.tokens.lock().unwrap() = true;
    }

    /// Nobody gets a token for this repository.
    pub(crate) fn close(&self, repository: &str) {
        self.shared
            .closed
            .lock()
            .unwrap()
            .push(repository.to_owned());
    }

    /// How many requests for a path with `part` in it came so far.
    pub(crate) fn count(&self, part: &str) -> usize {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|path| path.contains(part)).count()
    }
}

impl Registry {
    /// Where each range begins that was asked for of a path with `part` in it, in the order of the requests.
    pub(crate) fn starts(&self, part: &str) -> Vec<usize> {
        let requests = self.shared.requests.lock().unwrap();
        let asked = requests.iter().filter(|request| request.contains(part));
        let start = |request: &String| {
            let (_, range) = request.split_once("bytes=")?;
            range.split_once('-')?.0.parse().ok()
        };
        asked.filter_map(start).collect()
    }

    /// Forgets what was asked for so far.
    pub(crate) fn forget(&self) {
        self.shared.requests.lock().unwrap().clear();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = served.await;
        });
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let uri = request.uri().to_string();
        let path = request.uri().path().to_owned();
        let range = request.headers().get(RANGE);
        let range = range.map_or("", |range| range.to_str().unwrap());
        let asked = format!("{uri} {range}");
        self.requests.lock().unwrap().push(asked);
        let mut held = self.held.subscribe();
        let free = |held: &Vec<String>| !held.iter().any(|part| uri.contains(part.as_str()));
        let _ = held.wait_for(free).await;
        let repository = path.strip_prefix("/v2/").unwrap_or_default();
        let closed = self
            .closed
            .lock()
            .unwrap()
            .iter()
            .any(|closed| repository.starts_with(closed.as_str()));
        if path == "/token" {
            let body = Bytes::from_static(br#"{"token": "good", "expires_in": 300}"#);
            return answer(StatusCode::OK, "application/json", body);
        }
        let has_token = request.headers().contains_key("authorization");
        if closed || (*self.tokens.lock().unwrap() && !has_token) {
            let mut refused = answer(StatusCode::UNAUTHORIZED, "application/json", Bytes::new());
            let challenge = match closed {
                true => "Basic realm=\"x\"".to_owned(),
                false => format!(
                    "Bearer realm=\"http://{}/token\",service=\"x\"",
                    self.address
                ),
            };
            refused
                .headers_mut()
                .insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
            return refused;
        }
        let found = self.documents.lock().unwrap().get(&path).cloned();
        let Some((kind, bytes)) = found else {
            return answer(StatusCode::NOT_FOUND, "application/json", Bytes::new());
        };
        let range = request
            .headers()
            .get(RANGE)
            .map(|range| range.to_str().unwrap().to_owned());
        match range {
            Some(range) => part(kind, &bytes, &range),
            None if request.method() == Method::HEAD => {
                let mut head = answer(StatusCode::OK, kind, Bytes::new());
                head.headers_mut()
                    .insert(CONTENT_LENGTH, bytes.len().into());
                let digest = Digest::of(&bytes).to_string().parse().unwrap();
                head.headers_mut().insert("docker-content-digest", digest);
                head
            }
            None => answer(StatusCode::OK, kind, bytes),
        }
    }
}

fn part(kind: &'static str, bytes: &Bytes, range: &str) -> Response<Full<Bytes>> {
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(usize::MAX).min(bytes.len() - 1);
    let mut partial = answer(StatusCode::PARTIAL_CONTENT, kind, bytes.slice(first..=last));
    let range = format!("bytes {first}-{last}/{}", bytes.len());
    partial
        .headers_mut()
        .insert(CONTENT_RANGE, range.parse().unwrap());
    partial
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, kind.parse().unwrap());
    response
}
