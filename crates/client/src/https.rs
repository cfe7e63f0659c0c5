//! The transport over TLS: a few HTTP/2 connections, shared by all requests and watches, made again when they break, to
//! whichever of several servers answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex as PlainMutex;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::{Body, Transport, TransportError};

/// A server that does not take a connection for so long is passed over.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A connection on which nothing comes is asked for a sign of life so often, and is given up when none comes: a server
/// that lost its power does not say goodbye.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_LIMIT: Duration = Duration::from_secs(2);
/// Servers take some 250 requests at a time on a connection, and each watch is one; beyond that they would wait unseen.
const STREAMS_PER_CONNECTION: usize = 200;

/// The servers of a cluster, any of which will do; the list may change while it is used.
#[derive(Debug)]
pub struct Servers {
    addresses: PlainMutex<Vec<String>>,
}

impl Servers {
    /// These servers, `host:port` each, the one to begin with first.
    pub fn new(addresses: Vec<String>) -> Arc<Self> {
        Arc::new(Self { addresses: PlainMutex::new(addresses) })
    }

    /// Replaces the list. Connections to servers that are no longer in it stay until they break.
    pub fn set(&self, addresses: Vec<String>) {
        *self.addresses.lock() = addresses;
    }

    /// The list.
    pub fn list(&self) -> Vec<String> {
        self.addresses.lock().clone()
    }

    /// A server did not answer: the others come first from now on.
    fn defer(&self, address: &str) {
        let mut addresses = self.addresses.lock();
        if let Some(place) = addresses.iter().position(|own| own == address) {
            let unreachable = addresses.remove(place);
            addresses.push(unreachable);
        }
    }
}

/// One connection, and what is under way on it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    streams: Arc<()>,
}

/// Requests over TLS to the servers of one cluster.
pub struct HttpsTransport {
    servers: Arc<Servers>,
    server_name: ServerName<'static>,
    connector: TlsConnector,
    authorization: Option<HeaderValue>,
    connections: Mutex<Vec<Connection>>,
}

impl HttpsTransport {
    /// A transport to `host:port`. `tls` carries the trusted CA and the client's certificate, if any;
    /// `token` is sent as a bearer token. Nothing is connected until the first request.
    ///
    /// # Errors
    /// The host is neither a name nor an address, or the token has letters that no header can carry.
    pub fn new(host: &str, port: u16, tls: rustls::ClientConfig, token: Option<&str>) -> Result<Self, TransportError> {
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self::balanced(Servers::new(vec![address]), host, tls, token)
    }

    /// A transport to any of several servers, whose certificates all have the name `server_name`.
    ///
    /// # Errors
    /// As [`HttpsTransport::new`].
    pub fn balanced(
        servers: Arc<Servers>,
        server_name: &str,
        mut tls: rustls::ClientConfig,
        token: Option<&str>,
    ) -> Result<Self, TransportError> {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|error| TransportError::new(format!("read server name {server_name:?}"), error))?;
        let authorization = token
            .map(|token| HeaderValue::from_str(&format!("Bearer {token}")))
            .transpose()
            .map_err(|error| TransportError::new("read bearer token", error))?;
        let connector = TlsConnector::from(Arc::new(tls));
        Ok(Self { servers, server_name, connector, authorization, connections: Mutex::default() })
    }

    /// A live connection with room, or a new one; and the mark of one request on it.
    async fn sender(&self) -> Result<(SendRequest<Full<Bytes>>, Arc<()>), TransportError> {
        let mut connections = self.connections.lock().await;
        connections.retain(|connection| !connection.sender.is_closed());
        let has_room = |connection: &&Connection| Arc::strong_count(&connection.streams) <= STREAMS_PER_CONNECTION;
        if let Some(connection) = connections.iter().find(has_room) {
            return Ok((connection.sender.clone(), connection.streams.clone()));
        }
        let mut last = TransportError::new("connect", "there is no server to connect to");
        for address in self.servers.list() {
            let reached = tokio::time::timeout(CONNECT_LIMIT, self.connect(&address)).await;
            match reached.unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT_LIMIT.as_secs()))) {
                Ok(sender) => {
                    let streams = Arc::new(());
                    connections.push(Connection { sender: sender.clone(), streams: streams.clone() });
                    return Ok((sender, streams));
                }
                Err(reason) => {
                    self.servers.defer(&address);
                    last = TransportError::new(format!("connect to {address}"), reason);
                }
            }
        }
        Err(last)
    }

    async fn connect(&self, address: &str) -> Result<SendRequest<Full<Bytes>>, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let stream = self.connector.connect(self.server_name.clone(), stream).await.map_err(|error| failed(&error))?;
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_LIMIT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection to the API server ended");
            }
        });
        Ok(sender)
    }
}

#[async_trait::async_trait]
impl Transport for HttpsTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.to_string();
        let operation = format!("{} {path}", parts.method);
        let host = match &self.server_name {
            ServerName::IpAddress(rustls_pki_types::IpAddr::V6(address)) => {
                format!("[{}]", std::net::Ipv6Addr::from(*address))
            }
            name => name.to_str().into_owned(),
        };
        parts.uri = format!("https://{host}{path}").parse().map_err(|error| TransportError::new(&operation, error))?;
        parts.headers.remove(HOST);
        if let Some(value) = &self.authorization {
            parts.headers.insert(AUTHORIZATION, value.clone());
        }
        let (mut sender, stream) = self.sender().await?;
        let request = http::Request::from_parts(parts, Full::new(body));
        let response = sender.send_request(request).await.map_err(|error| TransportError::new(&operation, error))?;
        let failed = move |error| {
            // The function lives as long as the body, and keeps its place on the connection.
            let _place = &stream;
            std::io::Error::other::<hyper::Error>(error)
        };
        Ok(response.map(|body| body.map_err(failed).boxed_unsync()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_comes_last() {
        let servers = Servers::new(["a:1", "b:1", "c:1"].map(str::to_owned).into());
        servers.defer("a:1");
        assert_eq!(servers.list(), ["b:1", "c:1", "a:1"]);
        servers.defer("gone:1");
        servers.set(vec!["c:1".into()]);
        assert_eq!(servers.list(), ["c:1"]);
    }
}
