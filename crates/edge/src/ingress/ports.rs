//! The node's ports 80 and 443: taken while there are Ingresses, if nobody else has them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::headers::Caller;
use super::proxy::Proxy;

/// How many clients are served at once, at each port.
const MAX_CONNECTIONS: usize = 8192;
/// How long a client may take to say what it wants, before its first request and between two.
const HEADER_PATIENCE: Duration = Duration::from_secs(60);
/// How long nobody is accepted after that failed: mostly for want of descriptors, and trying at once would only burn time.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a client may take to shake hands.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// A port of the node.
pub struct Port {
    /// Where.
    pub address: SocketAddr,
    tls: Option<TlsAcceptor>,
    serving: Option<JoinHandle<()>>,
}

impl Port {
    /// A port that is not taken yet.
    pub fn new(address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        Self { address, tls, serving: None }
    }

    /// Takes the port, in the calling thread's network namespace.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn open(&mut self, proxy: &Arc<Proxy>) -> std::io::Result<()> {
        if self.serving.is_none() {
            let listener = std::net::TcpListener::bind(self.address)?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            self.serving = Some(tokio::spawn(serve(listener, self.tls.clone(), proxy.clone())));
        }
        Ok(())
    }

    /// Gives the port away; who is served already is served to the end.
    pub fn close(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, proxy: Arc<Proxy>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let (tls, proxy) = (tls.clone(), proxy.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve_client(stream, client, tls, proxy).await {
                        tracing::debug!(%client, %error, "a client of an Ingress broke off");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a client of an Ingress failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn serve_client(
    stream: TcpStream,
    client: SocketAddr,
    tls: Option<TlsAcceptor>,
    proxy: Arc<Proxy>,
) -> Result<(), Broken> {
    stream.set_nodelay(true)?;
    let caller = Caller { address: client.ip(), is_tls: tls.is_some(), port: stream.local_addr()?.port() };
    match tls {
        None => serve_http(stream, caller, proxy).await,
        Some(tls) => {
            let stream = tokio::time::timeout(HANDSHAKE_PATIENCE, tls.accept(stream)).await??;
            serve_http(stream, caller, proxy).await
        }
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Caller,
    proxy: Arc<Proxy>,
) -> Result<(), Broken> {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let proxy = proxy.clone();
        async move { Ok::<_, Infallible>(proxy.answer(request, caller).await) }
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(HEADER_PATIENCE).adaptive_window(true);
    http.serve_connection_with_upgrades(TokioIo::new(stream), service).await
}
