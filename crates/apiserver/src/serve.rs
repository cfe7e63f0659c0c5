//! Serving the API on a listener: TLS with optional client certificates, HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either};
use http::Version;
use http::header::{CONNECTION, HOST, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use skiff_base::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authn::{self, PeerCertificates};
use crate::endpoints;
use crate::http::answer::{self, Answer};
use crate::http::body::Body;
use crate::http::pace::Pace;
use crate::http::patience::Patience;
use crate::http::prompt::Prompt;
use crate::http::turns::{Parties, Party};
use crate::server::ApiServer;
use crate::trust;

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
/// How long requests may go on after the server was told to stop, or their client let too much time pass.
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
                    let origin = origin(&stream);
                    // Spawned as it is: a task that only awaits it would keep room for it twice.
                    tokio::spawn(connection(self.clone(), stream, origin, acceptor.clone(), stopping.clone(), place));
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
        if timeout(DRAIN_TIMEOUT, stop.closed()).await.is_err() {
            tracing::debug!("some requests were still under way at the end");
        }
        Ok(())
    }

    /// Serves one connection that came over whatever carries bytes, until it ends.
    pub async fn serve_stream<S: Bytewise>(self: Arc<Self>, stream: S, tls: Arc<rustls::ServerConfig>) {
        // Held until the connection is over: who drops it tells to stop.
        let (_stop, stopping) = watch::channel(());
        connection(self, stream, None, TlsAcceptor::from(tls), stopping, ()).await;
    }
}

/// Where a connection comes from; on the way it is told not to wait for more to send.
fn origin(stream: &TcpStream) -> Option<PeerAddress> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY");
    }
    // To a socket of both families, those of IPv4 come as IPv6 has them.
    let address = stream.peer_addr().ok()?;
    Some(PeerAddress(SocketAddr::new(address.ip().to_canonical(), address.port())))
}

/// One connection. It may last for days with one watch on it, so its future has room for nothing that is over by then:
/// what comes before is on the heap, and the larger of the two protocols too. It ends at the latest a moment after the
/// server was told to stop, or after its client let too much time pass.
async fn connection<S: Bytewise>(
    server: Arc<ApiServer>,
    stream: S,
    origin: Option<PeerAddress>,
    acceptor: TlsAcceptor,
    mut stopping: watch::Receiver<()>,
    _place: impl Send,
) {
    let (pace, parties) = (Arc::new(Pace::default()), server.parties.clone());
    let introduction = introduction(server, stream, origin, acceptor, pace.clone());
    let serving = match Prompt::new(introduction, parties.strangers()).await {
        None => return,
        Some(((stream, is_http2), vouched, service)) => {
            let ending = async move {
                tokio::select! {
                    _ = stopping.changed() => {}
                    () = pace.over() => {}
                    () = vouched => {}
                }
            };
            if is_http2 {
                serve_http2(stream, service, ending, &parties)
            } else {
                serve_http1(stream, service, ending, &parties)
            }
        }
    };
    if let Err(error) = serving.await {
        tracing::debug!(%error, "a connection broke");
    }
}

/// What a connection's bytes go over.
pub trait Bytewise: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Bytewise for T {}

type Stream<S> = TokioIo<TlsStream<S>>;
type Serving = BoxFuture<'static, hyper::Result<()>>;

fn serve_http1<S, H>(
    stream: Stream<S>,
    service: H,
    ending: impl Future<Output = ()> + Send + 'static,
    parties: &Parties,
) -> Serving
where
    S: Bytewise,
    H: HttpService<Incoming, ResBody = Body, Future: Send, Error = Infallible> + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(Patience::default()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEADER_BYTES);
    let serving = Prompt::new(builder.serve_connection(stream, service).with_upgrades(), parties.strangers());
    Box::pin(until(serving, ending, |serving| serving.as_mut().graceful_shutdown()))
}

/// What serves one stream of an HTTP/2 connection takes turns of its own.
#[derive(Clone)]
struct Streams(Arc<Party>);

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Prompt::part(stream, self.0.clone()));
    }
}

fn serve_http2<S, H>(
    stream: Stream<S>,
    service: H,
    ending: impl Future<Output = ()> + Send + 'static,
    parties: &Parties,
) -> Serving
where
    S: Bytewise,
    H: HttpService<Incoming, ResBody = Body, Future: Send + 'static, Error = Infallible> + Send + 'static,
{
    let mut builder = http2::Builder::new(Streams(parties.strangers()));
    builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEADER_BYTES as u32);
    let serving = Prompt::new(builder.serve_connection(stream, service), parties.strangers());
    Box::pin(until(serving, ending, |serving| serving.as_mut().graceful_shutdown()))
}

/// Serves until it is over; from `ending` on requests that are under way have a moment left.
async fn until<F: Future<Output = hyper::Result<()>> + Unpin>(
    mut serving: F,
    ending: impl Future<Output = ()>,
    shut: impl FnOnce(&mut F),
) -> hyper::Result<()> {
    tokio::select! {
        outcome = &mut serving => return outcome,
        () = ending => shut(&mut serving),
    }
    timeout(DRAIN_TIMEOUT, serving).await.unwrap_or(Ok(()))
}

/// The handshake, and who is at the other end; gives the stream, whether HTTP/2 was agreed on, and what answers requests.
async fn introduction<S: Bytewise>(
    server: Arc<ApiServer>,
    stream: S,
    origin: Option<PeerAddress>,
    acceptor: TlsAcceptor,
    pace: Arc<Pace>,
) -> Option<(
    (Stream<S>, bool),
    BoxFuture<'static, ()>,
    impl HttpService<Incoming, ResBody = Body, Future: Send + 'static, Error = Infallible>,
)> {
    let changes = server.config.client_authorities.as_ref().map(|authorities| authorities.changes());
    let stream = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
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
    let certificates = stream.get_ref().1.peer_certificates().map(|chain| PeerCertificates(chain.to_vec().into()));
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    // Read once for all requests of the connection; one that names nobody is refused with each request.
    let mut known = http::Extensions::new();
    if let Some(certificates) = &certificates {
        authn::introduce(&server, certificates, &mut known);
    }
    if let Some(origin) = origin {
        known.insert(origin);
    }
    let expires = certificates.as_ref().and_then(expiry);
    let vouched = disowned(&server, changes, certificates);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(incoming);
        // Identities come from the certificate or the headers here, never from a caller's extension.
        request.extensions_mut().remove::<crate::UserInfo>();
        request.extensions_mut().extend(known.clone());
        if let Some(expires) = expires {
            server.metrics.certificate(expires.as_second().saturating_sub(server.clock().now().as_second()) as f64);
        }
        let turn = pace.begin();
        if let Some(refused) = misnamed(&request) {
            return Either::Left(std::future::ready(Ok(refused)));
        }
        Either::Right(server.clone().answering(request).map(|answer| Ok::<_, Infallible>(turn.answered(answer))))
    });
    Some(((TokioIo::new(stream), is_http2), vouched, service))
}

/// Waits until nobody vouches for a connection's client any more; for ever, where it has shown no certificate.
/// `changes` tells of those that came since before the handshake.
fn disowned(
    server: &ApiServer,
    changes: Option<watch::Receiver<()>>,
    certificates: Option<PeerCertificates>,
) -> BoxFuture<'static, ()> {
    let known = server.config.client_authorities.clone().zip(changes).zip(certificates);
    let Some(((authorities, mut changes), certificates)) = known else { return std::future::pending().boxed() };
    let clock = server.clock().clone();
    Box::pin(async move {
        while changes.changed().await.is_ok() {
            if !authorities.believes(&certificates.0, false, trust::time(&clock)) {
                return;
            }
        }
        std::future::pending().await
    })
}

/// HTTP/1.1 wants every request to name one host: programs on its way may go by different ones.
fn misnamed<B>(request: &http::Request<B>) -> Option<Answer> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let why = match hosts {
        0 if request.version() == Version::HTTP_11 => "missing required Host header",
        0 | 1 => return None,
        _ => "too many Host headers",
    };
    let mut refused = answer::text(400, format!("400 Bad Request: {why}"));
    refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Some(refused)
}

/// When a client's certificate ends.
fn expiry(certificates: &PeerCertificates) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificates.0.first()?).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

fn incoming(body: Incoming) -> Body {
    body.map_err(io::Error::other).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use tokio::sync::OwnedSemaphorePermit;

    use super::*;

    /// The future of what [`ApiServer::serve`] spawns.
    fn size_bytes<F: Future>(
        _: impl Fn(Arc<ApiServer>, TcpStream, TlsAcceptor, watch::Receiver<()>, OwnedSemaphorePermit) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_has_no_room_for_what_is_over() {
        let bytes = size_bytes(|server, stream, acceptor, stopping, place| {
            connection(server, stream, None, acceptor, stopping, place)
        });
        assert!(bytes < size_of::<TlsStream<TcpStream>>() / 2, "{bytes} bytes");
    }
}
