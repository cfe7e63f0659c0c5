//! The node's ports: taken while there are Ingresses or Gateways that need them, if nobody else has them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::StartHandshake;

use super::certificates::Certificates;
use super::headers::Caller;
use super::lanes::{Lane, Lanes, least_busy};
use super::proxy::Proxy;
use super::quick::{self, Rest};
use super::site::Secured;
use super::streams::Recorded;

/// How many clients are served at once, at each port.
const MAX_CONNECTIONS: usize = 8192;
/// How long a client may take to say what it wants, before its first request and between two.
const HEADER_PATIENCE: Duration = Duration::from_secs(60);
/// How long nobody is accepted after that failed: mostly for want of descriptors, and trying at once would only burn time.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a client may take to shake hands.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// The words that connections of HTTP/2 begin with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocols that TLS clients can choose from, the best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What TLS needs at a port: one way to shake hands for requests, one for bytes of whatever protocol.
#[derive(Clone)]
pub struct Tls {
    requests: Arc<ServerConfig>,
    bytes: Arc<ServerConfig>,
}

impl Tls {
    /// With these certificates.
    ///
    /// # Errors
    /// The TLS stack cannot do what is needed.
    pub fn new(certificates: Arc<Certificates>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let bytes = builder.with_no_client_auth().with_cert_resolver(certificates);
        let mut requests = bytes.clone();
        requests.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
        Ok(Self { requests: Arc::new(requests), bytes: Arc::new(bytes) })
    }
}

/// A port of the node.
pub struct Port {
    /// Where.
    pub address: SocketAddr,
    tls: Option<Tls>,
    serving: Option<JoinHandle<()>>,
}

impl Port {
    /// A port that is not taken yet.
    pub fn new(address: SocketAddr, tls: Option<Tls>) -> Self {
        Self { address, tls, serving: None }
    }

    /// Whether clients speak TLS there.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Takes the port, in the calling thread's network namespace.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn open(&mut self, lanes: &mut Lanes) -> std::io::Result<()> {
        if self.serving.is_none() {
            let listener = std::net::TcpListener::bind(self.address)?;
            listener.set_nonblocking(true)?;
            self.serving = serve(listener, self.tls.clone(), lanes.start()?);
        }
        Ok(())
    }
}

/// Who is served already is served to the end.
impl Drop for Port {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

/// Accepts clients on the first thread, each for the one that has the fewest.
fn serve(listener: std::net::TcpListener, tls: Option<Tls>, lanes: Arc<[Lane]>) -> Option<JoinHandle<()>> {
    let accepting = {
        let lanes = lanes.clone();
        async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(listener, tls, &lanes).await,
                Err(error) => tracing::error!(%error, "a port cannot be served"),
            }
        }
    };
    Some(lanes.first()?.spawn(accepting))
}

async fn accept(listener: TcpListener, tls: Option<Tls>, lanes: &[Lane]) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                // To a socket of both families, those of IPv4 come as IPv6 has them.
                let client = SocketAddr::new(client.ip().to_canonical(), client.port());
                let Some((at, lane)) = least_busy(lanes) else { return };
                let (tls, proxy) = (tls.clone(), lane.proxy.clone());
                lane.serve(async move {
                    if let Err(error) = serve_client(stream, at > 0, client, tls, proxy).await {
                        tracing::debug!(%client, %error, "a client broke off");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a client failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn serve_client(
    stream: TcpStream,
    is_from_elsewhere: bool,
    client: SocketAddr,
    tls: Option<Tls>,
    proxy: Arc<Proxy>,
) -> Result<(), Broken> {
    // A connection is told of its news by the thread that accepted it, until another one takes it over.
    let stream = if is_from_elsewhere { TcpStream::from_std(stream.into_std()?)? } else { stream };
    stream.set_nodelay(true)?;
    let caller = Caller::new(client.ip(), tls.is_some(), stream.local_addr()?.port());
    match tls {
        None => serve_http(stream, false, caller, proxy).await,
        Some(tls) => serve_secure(stream, caller, &tls, proxy).await,
    }
}

/// The name that the client asks for decides whether its connection ends here.
async fn serve_secure(stream: TcpStream, caller: Caller, tls: &Tls, proxy: Arc<Proxy>) -> Result<(), Broken> {
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), Recorded::new(stream));
    let mut start = tokio::time::timeout(HANDSHAKE_PATIENCE, hello).await??;
    let name = start.client_hello().server_name().unwrap_or_default().to_owned();
    let end = |start: StartHandshake<Recorded>, config: &Arc<ServerConfig>| {
        tokio::time::timeout(HANDSHAKE_PATIENCE, start.into_stream(config.clone()))
    };
    match proxy.routes().secured(caller.port, &name) {
        Secured::Ended => {
            start.io.forget();
            let stream = end(start, &tls.requests).await??;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN[0]);
            serve_http(stream, is_http2, caller, proxy).await
        }
        Secured::Unwrapped(route) => {
            start.io.forget();
            proxy.pass(end(start, &tls.bytes).await??, &route).await.map_err(Into::into)
        }
        Secured::Passed(route) => {
            start.io.rewind();
            proxy.pass(start.io, &route).await.map_err(Into::into)
        }
        Secured::Refused => Err(format!("nobody serves {name:?}").into()),
    }
}

/// Serves requests: quickly, as long as they are plain.
async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    caller: Caller,
    proxy: Arc<Proxy>,
) -> Result<(), Broken> {
    let mut rest = if is_http2 {
        Rest { stream: Recorded::read_already(stream, Vec::new()), is_new: true }
    } else {
        match quick::serve(stream, &caller, &proxy, HEADER_PATIENCE).await? {
            Some(rest) => rest,
            None => return Ok(()),
        }
    };
    if rest.is_new {
        wait_for_preface(&mut rest.stream, HEADER_PATIENCE).await?;
    }
    // What most connections never need is not part of what each of them takes.
    Box::pin(serve_whole(rest, caller, proxy)).await
}

/// Waits until the first words tell whether the protocol is HTTP/2: the HTTP stack waits for ever for them.
async fn wait_for_preface(stream: &mut Recorded<impl AsyncRead + Unpin>, patience: Duration) -> std::io::Result<()> {
    let is_clear = |bytes: &[u8]| !PREFACE.starts_with(bytes) || bytes.len() >= PREFACE.len();
    tokio::time::timeout(patience, stream.read_ahead(is_clear)).await?
}

/// Serves requests of any kind.
pub async fn serve_whole(
    rest: Rest<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
    caller: Caller,
    proxy: Arc<Proxy>,
) -> Result<(), Broken> {
    let caller = Arc::new(caller);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (proxy, caller) = (proxy.clone(), caller.clone());
        async move { Ok::<_, Infallible>(proxy.answer(request, &caller).await) }
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    if !rest.is_new {
        http = http.http1_only();
    }
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(HEADER_PATIENCE).adaptive_window(true);
    http.serve_connection_with_upgrades(TokioIo::new(rest.stream), service).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_words_of_http2_are_not_waited_for_without_end() {
        for said in [&b""[..], b"PRI * HTTP/2.0\r\n", &PREFACE[..23]] {
            for known in [0, said.len()] {
                let (mut client, server) = duplex(1024);
                client.write_all(&said[known..]).await.expect("writes");
                let mut stream = Recorded::read_already(server, said[..known].to_vec());
                let error = wait_for_preface(&mut stream, HEADER_PATIENCE).await.expect_err("takes too long");
                assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
            }
        }
        for said in [[PREFACE, b"and more"].concat(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"PRI *".to_vec()] {
            let (mut client, server) = duplex(1024);
            client.write_all(&said[3..]).await.expect("writes");
            drop(client);
            let mut stream = Recorded::read_already(server, said[..3].to_vec());
            wait_for_preface(&mut stream, HEADER_PATIENCE).await.expect("is clear, or over");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.expect("reads");
            assert_eq!(heard, said);
        }
    }
}
