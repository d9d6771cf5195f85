//! What TLS alone takes: a request of 16 bytes, an answer out of memory, on connections that are kept.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_peer::{Identity, tls};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{Exchange, Source};

const REQUEST_BYTES: usize = 16;

/// A server, and the connections to it.
pub(super) struct Bare {
    address: SocketAddr,
    bytes: usize,
    connector: TlsConnector,
    idle: Arc<Mutex<Vec<client::TlsStream<TcpStream>>>>,
}

impl Bare {
    /// Gives `bytes` at a time.
    pub(super) fn start(runtime: &Runtime, bytes: usize) -> Result<Bare, Box<dyn Error>> {
        let identity = Identity::ephemeral();
        let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&identity)?));
        let config = tls::client_config(&Identity::ephemeral(), Some(identity.peer_id()))?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let content: Arc<[u8]> = vec![7; bytes].into();
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, content) = (acceptor.clone(), Arc::clone(&content));
                tokio::spawn(async move {
                    tcp.set_nodelay(true)?;
                    serve(acceptor.accept(tcp).await?, &content).await
                });
            }
        });
        Ok(Bare {
            address,
            bytes,
            connector: TlsConnector::from(Arc::new(config)),
            idle: Arc::default(),
        })
    }
}

async fn serve(mut stream: server::TlsStream<TcpStream>, content: &[u8]) -> std::io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    loop {
        stream.read_exact(&mut request).await?;
        stream.write_all(content).await?;
        stream.flush().await?;
    }
}

impl Source for Bare {
    fn get(&self, _: usize) -> Exchange {
        let (connector, address) = (self.connector.clone(), self.address);
        let (idle, bytes) = (Arc::clone(&self.idle), self.bytes);
        Box::pin(async move {
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut stream = match kept {
                Some(stream) => stream,
                None => {
                    let tcp = TcpStream::connect(address).await?;
                    tcp.set_nodelay(true)?;
                    let name = ServerName::from(address.ip());
                    connector.connect(name, tcp).await?
                }
            };
            stream.write_all(&[1; REQUEST_BYTES]).await?;
            stream.flush().await?;
            let mut content = vec![0; bytes];
            stream.read_exact(&mut content).await?;
            idle.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(stream);
            Ok(())
        })
    }
}
