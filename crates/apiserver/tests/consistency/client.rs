//! A client of one server over TLS, which takes no answer for what it is: nobody knows.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The token of the tests' administrator.
pub const TOKEN: &str = "a-token-of-the-tests";
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to start; far beyond what it takes.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How a server is reached.
#[derive(Clone)]
pub struct Access {
    port: u16,
    tls: Arc<rustls::ClientConfig>,
}

impl Access {
    pub fn new(port: u16, certificate: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { port, tls: Arc::new(tls) }
    }
}

/// One connection, made anew when it is gone.
pub struct Client {
    access: Access,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub fn new(access: Access) -> Self {
        Self { access, connection: None }
    }

    /// Waits until the server answers.
    pub async fn wait_ready(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        while !matches!(self.send("GET", "/api/v1/namespaces/default", None).await, Some((200, _))) {
            assert!(Instant::now() < deadline, "a server does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a request; `None` where there is no whole answer.
    pub async fn send(&mut self, method: &str, path: &str, body: Option<String>) -> Option<(u16, Value)> {
        let exchange = async {
            let answer = self.begin(method, path, body).await?;
            let code = answer.status().as_u16();
            let whole = answer.into_body().collect().await.ok()?.to_bytes();
            Some((code, serde_json::from_slice(&whole).ok()?))
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange).await.ok().flatten();
        if answer.is_none() {
            self.connection = None;
            // Whoever was killed is back in a moment.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        answer
    }

    /// The events of a watch, until it ends.
    pub async fn watch(&mut self, path: &str) -> Option<Pin<Box<dyn Stream<Item = Value> + Send>>> {
        let answer = tokio::time::timeout(TIMEOUT, self.begin("GET", path, None)).await.ok()??;
        if answer.status() != 200 {
            return None;
        }
        // The connection must live for as long as the watch.
        let state = (answer.into_body(), Vec::new(), self.connection.take());
        Some(Box::pin(futures_util::stream::unfold(state, |(mut body, mut rest, connection)| async move {
            let event = next_line(&mut body, &mut rest).await?;
            Some((event, (body, rest, connection)))
        })))
    }

    async fn begin(&mut self, method: &str, path: &str, body: Option<String>) -> Option<http::Response<Incoming>> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            self.connection = Some(self.connect().await?);
        }
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .unwrap();
        let connection = self.connection.as_mut()?;
        connection.ready().await.ok()?;
        connection.send_request(request).await.ok()
    }

    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(("127.0.0.1", self.access.port)).await.ok()?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(self.access.tls.clone()).connect(name, stream).await.ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(async move { drop(connection.await) });
        Some(sender)
    }
}

async fn next_line(body: &mut Incoming, rest: &mut Vec<u8>) -> Option<Value> {
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            return Some(serde_json::from_slice(&line).unwrap());
        }
        let frame = body.frame().await?.ok()?;
        rest.extend_from_slice(frame.data_ref()?);
    }
}
