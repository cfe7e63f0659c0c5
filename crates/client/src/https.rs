//! The transport over TLS: one HTTP/2 connection, shared by all requests and watches, made again when it breaks.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::{Body, Transport, TransportError};

/// Requests over TLS to one server.
pub struct HttpsTransport {
    address: String,
    server_name: ServerName<'static>,
    connector: TlsConnector,
    authorization: Option<HeaderValue>,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl HttpsTransport {
    /// A transport to `host:port`. `tls` carries the trusted CA and the client's certificate, if any;
    /// `token` is sent as a bearer token. Nothing is connected until the first request.
    ///
    /// # Errors
    /// The host is neither a name nor an address, or the token has letters that no header can carry.
    pub fn new(
        host: &str,
        port: u16,
        mut tls: rustls::ClientConfig,
        token: Option<&str>,
    ) -> Result<Self, TransportError> {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|error| TransportError::new(format!("read server name {host:?}"), error))?;
        let authorization = token
            .map(|token| HeaderValue::from_str(&format!("Bearer {token}")))
            .transpose()
            .map_err(|error| TransportError::new("read bearer token", error))?;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let connector = TlsConnector::from(Arc::new(tls));
        Ok(Self { address, server_name, connector, authorization, connection: Mutex::new(None) })
    }

    /// The live connection, or a new one.
    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, TransportError> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = connection.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let failed = |error: &dyn std::fmt::Display| TransportError::new(format!("connect to {}", self.address), error);
        let stream = TcpStream::connect(&self.address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let stream = self.connector.connect(self.server_name.clone(), stream).await.map_err(|error| failed(&error))?;
        let (sender, driver) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection to the API server ended");
            }
        });
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

#[async_trait::async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.to_string();
        let operation = format!("{} {path}", parts.method);
        parts.uri = format!("https://{}{path}", self.address)
            .parse()
            .map_err(|error| TransportError::new(&operation, error))?;
        parts.headers.remove(HOST);
        if let Some(value) = &self.authorization {
            parts.headers.insert(AUTHORIZATION, value.clone());
        }
        let mut sender = self.sender().await?;
        let request = http::Request::from_parts(parts, Full::new(body));
        let response = sender.send_request(request).await.map_err(|error| TransportError::new(&operation, error))?;
        Ok(response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
    }
}
