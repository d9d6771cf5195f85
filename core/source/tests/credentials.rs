//! Sources of credentials that are elsewhere: a cluster, the kubelet, the past.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pontoon_source::{
    Chain, Credentials, ImageServiceProxy, Kubernetes, KubernetesConfig, Reference, Registry,
    Remembered, Secret, Urgency,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::server::{Content, Reply, Server};
use crate::{blob, quick, reference, users};

async fn secrets(source: &dyn Credentials, image: &str) -> Vec<Secret> {
    let reference = Reference::parse(image).unwrap();
    let found = source.lookup(reference.host(), &reference).await.unwrap();
    found.into_iter().map(|one| one.secret).collect()
}

fn user(name: &str) -> Secret {
    Secret::Password {
        username: name.to_owned(),
        password: "secret".to_owned(),
    }
}

/// A list of secrets in the API's form, and where the next page is.
fn page(hosts: &[&str], next: &str) -> String {
    let item = |host: &&str| {
        let auth = STANDARD.encode(format!("{host}:secret"));
        let config = STANDARD.encode(format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#));
        format!(
            r#"{{"metadata":{{"name":"s","namespace":"ns"}},"type":"kubernetes.io/dockerconfigjson",
            "data":{{".dockerconfigjson":"{config}"}}}}"#
        )
    };
    let items: Vec<String> = hosts.iter().map(item).collect();
    let items = items.join(",");
    format!(r#"{{"kind":"SecretList","metadata":{{"continue":"{next}"}},"items":[{items}]}}"#)
}

#[tokio::test]
async fn image_pull_secrets_are_listed_from_a_cluster() {
    let is_up = Arc::new(AtomicBool::new(true));
    let server = {
        let is_up = Arc::clone(&is_up);
        Server::start(move |seen| {
            if !is_up.load(Ordering::SeqCst) {
                return Reply::new(500);
            }
            if seen.header("authorization") != Some("Bearer token") {
                return Reply::new(403).data(r#"{"message":"forbidden"}"#);
            }
            match seen.query.contains("continue=more") {
                false => Reply::json(page(&["one.example", "*.two.example"], "more")),
                true => Reply::json(page(&["three.example/team", "!"], "")),
            }
        })
        .await
    };
    let root = tempfile::tempdir().unwrap();
    let kubeconfig = root.path().join("config");
    let write = |token: &str| {
        let text = format!(
            "current-context: x\ncontexts: [{{name: x, context: {{cluster: x, user: x}}}}]\n\
             clusters: [{{name: x, cluster: {{server: '{}'}}}}]\nusers: [{{name: x, user: {{token: {token}}}}}]\n",
            server.url()
        );
        fs::write(&kubeconfig, text).unwrap();
    };
    write("wrong");
    let cluster = Kubernetes::new(KubernetesConfig {
        kubeconfig: Some(kubeconfig.clone()),
        poll_interval: Duration::ZERO,
        ..KubernetesConfig::default()
    });
    let image = Reference::parse("one.example/app").unwrap();
    let error = cluster.lookup("one.example", &image).await.unwrap_err();
    assert!(
        error.to_string().contains("image pull secrets") && !error.is_transient(),
        "{error}"
    );
    write("token");
    assert_eq!(
        secrets(&cluster, "one.example/app").await,
        [user("one.example")]
    );
    assert_eq!(
        secrets(&cluster, "a.two.example/app").await,
        [user("*.two.example")]
    );
    assert_eq!(
        secrets(&cluster, "three.example/team/app").await,
        [user("three.example/team")]
    );
    assert_eq!(secrets(&cluster, "three.example/other").await, []);
    let first = &server.seen_of("/api/v1/secrets")[0];
    assert!(
        first
            .query
            .contains("fieldSelector=type%3Dkubernetes.io%2Fdockerconfigjson")
    );
    // What is known stays known while the API server is away.
    is_up.store(false, Ordering::SeqCst);
    assert_eq!(
        secrets(&cluster, "one.example/app").await,
        [user("one.example")]
    );
    let other = Reference::parse("other.example/app").unwrap();
    // A list of a moment ago does not say everything, but asking again so soon would not tell more.
    let _ = cluster.lookup("other.example", &other).await;
}

/// A runtime that fails pulls of `bad` and repeats everything else, and what it saw.
fn runtime(path: &Path) -> Arc<Mutex<Vec<(String, Bytes)>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = UnixListener::bind(path).unwrap();
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let log = Arc::clone(&log);
            let service = service_fn(move |request: Request<Incoming>| {
                let log = Arc::clone(&log);
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    log.lock().unwrap().push((path, body.clone()));
                    let is_bad = String::from_utf8_lossy(&body).contains("bad");
                    let status = if is_bad { "5" } else { "0" };
                    let response = Response::builder()
                        .header("grpc-status", status)
                        .header("x-own", "kept");
                    Ok::<_, Infallible>(response.body(Full::new(body)).unwrap())
                }
            });
            let builder = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    seen
}

/// A field of a message: its number, and its content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
    bytes.extend_from_slice(content);
    bytes
}

/// A request of the kubelet for a pull, with a field that we do not know.
fn pull(image: &str, username: &str) -> Bytes {
    let auth = [field(1, username.as_bytes()), field(2, b"secret")].concat();
    let message = [
        field(1, &field(1, image.as_bytes())),
        field(2, &auth),
        field(15, b"unknown"),
    ]
    .concat();
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    framed.extend_from_slice(&message);
    framed.into()
}

async fn call(socket: &Path, method: &str, body: Bytes) -> Response<Bytes> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let connected = client::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://localhost/runtime.v1.ImageService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))
        .unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

struct Proxy {
    root: tempfile::TempDir,
    socket: PathBuf,
    remembered: Remembered,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("proxy");
        let remembered = Remembered::open(&root.path().join("credentials")).unwrap();
        let (stop, stopped) = watch::channel(false);
        let proxy = ImageServiceProxy::new(&root.path().join("runtime"), remembered.clone());
        let listener = UnixListener::bind(&socket).unwrap();
        Proxy {
            task: tokio::spawn(proxy.serve(listener, stopped)),
            root,
            socket,
            remembered,
            stop,
        }
    }
}

#[tokio::test]
async fn the_kubelets_pulls_tell_credentials_and_go_on_unchanged() {
    let proxy = Proxy::start();
    let absent = call(&proxy.socket, "ListImages", Bytes::new()).await;
    assert_eq!(absent.headers()["grpc-status"], "14");
    let seen = runtime(&proxy.root.path().join("runtime"));
    let whatever = Bytes::from_static(b"\0\0\0\0\x03\xff\xfe\xfd");
    let answer = call(&proxy.socket, "ListImages", whatever.clone()).await;
    assert_eq!(
        (answer.body(), answer.headers()["x-own"].as_bytes()),
        (&whatever, &b"kept"[..])
    );
    let good = pull("r.example/good:1", "kubelet");
    let answer = call(&proxy.socket, "PullImage", good.clone()).await;
    assert_eq!(answer.body(), &good);
    let answer = call(
        &proxy.socket,
        "PullImage",
        pull("r.example/bad:1", "kubelet"),
    )
    .await;
    assert_eq!(answer.headers()["grpc-status"], "5");
    let paths: Vec<String> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|(path, _)| path.clone())
        .collect();
    assert_eq!(paths.len(), 3);
    assert_eq!(paths[1], "/runtime.v1.ImageService/PullImage");
    assert_eq!(
        secrets(&proxy.remembered, "r.example/good:2").await,
        [user("kubelet")]
    );
    assert_eq!(secrets(&proxy.remembered, "r.example/bad:1").await, []);
    proxy.remembered.flush().unwrap();
    let again = Remembered::open(&proxy.root.path().join("credentials")).unwrap();
    assert_eq!(secrets(&again, "r.example/good:3").await, [user("kubelet")]);
    proxy.stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(20), proxy.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_opened_a_repository_opens_it_after_a_restart() {
    let (bytes, digest) = blob(1000);
    let content = Content::default().blob(&bytes);
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some("Basic ZGF2ZTpzZWNyZXQ=") => content.answer(seen),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=x"),
    })
    .await;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("credentials");
    let image = reference(&server, "app");
    {
        let remembered = Remembered::open(&path).unwrap();
        let known = users(&[("dave", "wrong"), ("dave", "secret")]);
        let chain = Chain::new(vec![known, Arc::new(remembered.clone())]);
        let registry = Registry::new(quick(), Arc::new(chain));
        let absent = registry.blob(&image, pontoon_layer::Digest::of(b"absent"), 6);
        absent.read(0..6, Urgency::Demand).await.unwrap_err();
        assert!(
            !path.exists(),
            "that there is nothing does not say who was let in"
        );
        let app = registry.blob(&image, digest.clone(), 1000);
        app.read(0..10, Urgency::Demand).await.unwrap();
        remembered.flush().unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("secret") && !text.contains("wrong"),
        "only what was taken is kept"
    );
    let registry = Registry::new(quick(), Arc::new(Remembered::open(&path).unwrap()));
    let app = registry.blob(&image, digest, 1000);
    assert_eq!(app.read(0..10, Urgency::Demand).await.unwrap(), bytes[..10]);
}
