//! Serving the API on a listener: TLS with optional client certificates, HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use skiff_base::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authn::{self, PeerCertificates};
use crate::endpoints;
use crate::http::body::Body;
use crate::server::ApiServer;

/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How large a request's head may be, as upstream's; 431 above it.
const MAX_HEADER_BYTES: usize = 1024 * 1024;
/// How many requests may be under way on one HTTP/2 connection, as upstream's.
const MAX_STREAMS: u32 = 250;
/// How many connections may be open on one listener; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;
/// How long requests may go on after the server was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait after a connection could not be accepted (mostly: too many open files).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub SocketAddr);

impl ApiServer {
    /// Serves on a bound listener until `shutdown` is done, then lets the requests that are under way finish.
    ///
    /// # Errors
    /// None at present; a listener that fails is tried again.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        // Every connection holds the other end until it is over.
        let (stop, stopping) = watch::channel(());
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut shutdown = pin!(shutdown);
        loop {
            let accept = async {
                let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((listener.accept().await?.0, place))
            };
            let accepted = tokio::select! {
                accepted = accept => accepted,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok((stream, place)) => {
                    // Spawned as it is: a task that only awaits it would keep room for it twice.
                    tokio::spawn(connection(self.clone(), stream, acceptor.clone(), stopping.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop((listener, stopping));
        self.drain();
        if let Err(failure) = endpoints::leave(&self).await {
            tracing::debug!(why = failure.0.message, "the server is still among the endpoints");
        }
        stop.send_replace(());
        if tokio::time::timeout(DRAIN_TIMEOUT, stop.closed()).await.is_err() {
            tracing::debug!("some requests were still under way at the end");
        }
        Ok(())
    }
}

/// One connection. It may last for days with one watch on it, so its future has room for nothing that is over by then:
/// what comes before is on the heap, and the larger of the two protocols too.
async fn connection(
    server: Arc<ApiServer>,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    mut stopping: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    let Some((stream, service)) = Box::pin(introduction(server, stream, acceptor)).await else { return };
    let (stream, is_http2) = stream;
    let outcome = if is_http2 {
        let serving = http2(stream, service);
        Box::pin(async move {
            let mut serving = pin!(serving);
            tokio::select! {
                outcome = serving.as_mut() => return outcome,
                _ = stopping.changed() => serving.as_mut().graceful_shutdown(),
            }
            serving.await
        })
        .await
    } else {
        let mut serving = pin!(http1(stream, service));
        tokio::select! {
            outcome = serving.as_mut() => outcome,
            _ = stopping.changed() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection broke");
    }
}

type Stream = TokioIo<TlsStream<TcpStream>>;

fn http1<S: HttpService<Incoming, ResBody = Body>>(
    stream: Stream,
    service: S,
) -> http1::UpgradeableConnection<Stream, S>
where
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    builder.serve_connection(stream, service).with_upgrades()
}

fn http2<S>(stream: Stream, service: S) -> http2::Connection<Stream, S, TokioExecutor>
where
    S: HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEADER_BYTES as u32);
    builder.serve_connection(stream, service)
}

/// The handshake, and who is at the other end; gives the stream, whether HTTP/2 was agreed on, and what answers requests.
async fn introduction(
    server: Arc<ApiServer>,
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Option<((Stream, bool), impl HttpService<Incoming, ResBody = Body, Future: Send + 'static, Error = Infallible>)> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            server.metrics.handshake_failed();
            tracing::debug!(%error, "TLS handshake");
            return None;
        }
        Err(_) => {
            server.metrics.handshake_failed();
            tracing::debug!("TLS handshake timed out");
            return None;
        }
    };
    let peer = stream.get_ref().0.peer_addr().ok().map(PeerAddress);
    let certificates = stream.get_ref().1.peer_certificates().map(|chain| PeerCertificates(chain.to_vec().into()));
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    // Read once for all requests of the connection; one that names nobody is refused with each request.
    let mut known = http::Extensions::new();
    if let Some(certificates) = &certificates {
        authn::introduce(&server, certificates, &mut known);
    }
    if let Some(peer) = peer {
        known.insert(peer);
    }
    let expires = certificates.as_ref().and_then(expiry);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(incoming);
        // Identities come from the certificate or the headers here, never from a caller's extension.
        request.extensions_mut().remove::<crate::UserInfo>();
        request.extensions_mut().extend(known.clone());
        if let Some(expires) = expires {
            server.metrics.certificate(expires.as_second().saturating_sub(server.clock().now().as_second()) as f64);
        }
        server.clone().answering(request).map(Ok::<_, Infallible>)
    });
    Some(((TokioIo::new(stream), is_http2), service))
}

/// When a client's certificate ends.
fn expiry(certificates: &PeerCertificates) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificates.0.first()?).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

fn incoming(body: Incoming) -> Body {
    body.map_err(io::Error::other).boxed_unsync()
}
