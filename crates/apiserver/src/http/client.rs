//! Connections of the server's own to programs of the user's: webhooks, aggregated servers, the scheduler's extenders.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use skiff_base::cidr::bracketed;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection on which requests are whole.
pub type Sender = SendRequest<Full<Bytes>>;

/// Connects; with TLS, whoever answers has to prove to be the one named.
///
/// # Errors
/// Nobody answers, or somebody who is not believed; in upstream's words.
pub async fn connect<B>(host: &str, port: u16, tls: Option<(&str, Arc<ClientConfig>)>) -> Result<SendRequest<B>, String>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let dialled = |error: std::io::Error| format!("dial tcp {}:{port}: {error}", bracketed(host));
    let stream = TcpStream::connect((host, port)).await.map_err(dialled)?;
    stream.set_nodelay(true).map_err(dialled)?;
    let Some((name, config)) = tls else {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        drive(connection);
        return Ok(sender);
    };
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|error| format!("tls: failed to verify certificate: {error}"))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    drive(connection);
    Ok(sender)
}

/// Does a connection's work until its sender is gone.
fn drive<T, B>(connection: Connection<TokioIo<T>, B>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a program of the user's broke");
        }
    });
}

/// Sends a request and reads the whole answer; the connection comes back for the next.
///
/// # Errors
/// The connection breaks, or the answer is larger than the limit.
pub async fn exchange(
    mut sender: Sender,
    request: Request<Full<Bytes>>,
    limit_bytes: usize,
) -> Result<(Response<Bytes>, Sender), String> {
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let (head, body) = answer.into_parts();
    let bytes = Limited::new(body, limit_bytes).collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((Response::from_parts(head, bytes), sender))
}
