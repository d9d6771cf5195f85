//! The connection to containerd, and in whose name calls are made.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::content::ContentStore;
use crate::error::{Error, Result};
use crate::images::Images;
use crate::leases::Leases;

/// The header that names the namespace (containerd, `pkg/namespaces/grpc.go`).
const NAMESPACE: &str = "containerd-namespace";

/// The header that names a lease (containerd, `core/leases/grpc.go`).
const LEASE: &str = "containerd-lease";

/// How long a call may take. Transactions of containerd wait for each other, and for the garbage collector.
const DEADLINE: Duration = Duration::from_secs(60);

/// How much may be under way in a read, in bytes.
const WINDOW_BYTES: u32 = 4 << 20;

pub(crate) type Scoped = InterceptedService<Channel, Scope>;

/// containerd on a unix socket, seen from one namespace. Cheap to clone; all clones share one connection.
///
/// It connects with the first call, and again with the next call after the connection was lost. To be made and used
/// inside of a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    scope: Scope,
    namespace: String,
}

/// What every call carries.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Scope {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = request.metadata_mut();
        headers.insert(NAMESPACE, self.namespace.clone());
        if let Some(lease) = &self.lease {
            headers.insert(LEASE, lease.clone());
        }
        Ok(request)
    }
}

impl Client {
    /// A client of the containerd on `socket`, which need not be there yet, for its `namespace`: `k8s.io`, `moby`,
    /// `default`.
    pub fn new(socket: &Path, namespace: &str) -> Result<Self> {
        let Some(path) = socket.to_str() else {
            return Err(Error::Invalid {
                what: format!("socket {}", socket.display()),
                reason: "its path is not UTF-8; use one that is".to_owned(),
            });
        };
        let endpoint =
            Endpoint::from_shared(format!("unix:{path}")).map_err(|error| Error::Invalid {
                what: format!("socket {path}"),
                reason: error.to_string(),
            })?;
        Ok(Client {
            channel: endpoint
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .connect_lazy(),
            scope: Scope {
                namespace: header("namespace", namespace)?,
                lease: None,
            },
            namespace: namespace.to_owned(),
        })
    }

    /// The same, but what is written belongs to the lease `id`.
    pub fn with_lease(&self, id: &str) -> Result<Self> {
        let mut client = self.clone();
        client.scope.lease = Some(header("lease", id)?);
        Ok(client)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Blobs.
    pub fn content(&self) -> ContentStore {
        ContentStore::new(self.clone())
    }

    /// Names of images.
    pub fn images(&self) -> Images {
        Images::new(self.clone())
    }

    /// Leases.
    pub fn leases(&self) -> Leases {
        Leases::new(self.clone())
    }

    pub(crate) fn channel(&self) -> (Channel, Scope) {
        (self.channel.clone(), self.scope.clone())
    }

    /// Waits for one call, `operation` on `object`, no longer than a minute.
    pub(crate) async fn call<T>(
        &self,
        operation: &str,
        object: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        let what = format!("{operation} {object}");
        match tokio::time::timeout(DEADLINE, call).await {
            Err(_) => Err(Error::Unavailable {
                operation: what,
                reason: format!("no answer in {DEADLINE:?}"),
            }),
            Ok(Err(status)) if status.code() == Code::NotFound => Err(Error::NotFound {
                what: object.to_owned(),
                namespace: self.namespace.clone(),
            }),
            Ok(Err(status)) => Err(Error::status(&what, &status)),
            Ok(Ok(response)) => Ok(response.into_inner()),
        }
    }
}

fn header(what: &str, value: &str) -> Result<MetadataValue<Ascii>> {
    let refuse = |reason: &str| Error::Invalid {
        what: format!("{what} {value:?}"),
        reason: reason.to_owned(),
    };
    let visible = value.bytes().all(|byte| byte.is_ascii_graphic());
    match MetadataValue::try_from(value) {
        _ if value.is_empty() => Err(refuse("it is empty; name one")),
        Ok(header) if visible => Ok(header),
        _ => Err(refuse("only visible ASCII characters can be sent")),
    }
}
