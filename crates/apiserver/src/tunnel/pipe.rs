//! Passing a request on, and after an upgrade the bytes of both sides, as they are.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use skiff_object::{Reason, Status};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::call::Call;
use crate::failure::{Failure, Result};
use crate::http::answer::Answer;
use crate::http::body::Body;
use crate::server::ApiServer;
use crate::trust;

/// How long connecting and the TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an agent's error is read.
const ERROR_LIMIT_BYTES: usize = 64 * 1024;
/// How much of a text that the server itself asks for is read.
const TEXT_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// Headers that concern one connection only.
pub const HOP_BY_HOP: [HeaderName; 3] = [CONNECTION, TRANSFER_ENCODING, UPGRADE];

/// Where a tunnel leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// An address or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How the connection is secured.
    pub security: Security,
}

impl Destination {
    /// `10.0.0.1:80`, as requests name it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// How a connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    Plain,
    /// TLS as the nodes' agents speak it, with the server's client certificate.
    Agent,
    /// TLS with whoever answers: upstream does not verify what stands behind its proxies either.
    Unverified,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn connect(server: &ApiServer, to: &Destination) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((to.host.as_str(), to.port)).await?;
    stream.set_nodelay(true)?;
    let config = match to.security {
        Security::Plain => return Ok(Box::new(stream)),
        Security::Agent => server
            .config
            .kubelet_tls
            .clone()
            .ok_or_else(|| io::Error::other("no client certificate for nodes is configured"))?,
        Security::Unverified => Arc::new(trust::unverified(None).map_err(io::Error::other)?),
    };
    let name = ServerName::try_from(to.host.clone()).map_err(io::Error::other)?;
    let mut config = rustls::ClientConfig::clone(&config);
    // Upgrades exist in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// Sends the request to its destination and gives the answer; an accepted upgrade joins both connections.
pub async fn forward(
    server: &Arc<ApiServer>,
    to: &Destination,
    path: &str,
    call: &Call,
    parts: &mut Parts,
    body: Body,
) -> Result<Answer> {
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let request = outgoing(to, path, call, parts, body, call.headers.get(UPGRADE))?;
    if request.headers().contains_key(UPGRADE) && upgrade.is_none() {
        return Err(Status::bad_request("Upgrade request required").into());
    }
    let mut response = send(server, to, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        if let Some(ours) = upgrade {
            tokio::spawn(join(ours, theirs));
        }
    }
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

/// Reads what a destination has to say, in an ordinary answer whatever the client wants its own connection to become.
pub async fn read(server: &ApiServer, from: &Destination, path: &str, call: &Call, parts: &Parts) -> Result<Answer> {
    let request = outgoing(from, path, call, parts, crate::http::body::empty(), None)?;
    let response = send(server, from, request).await?;
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

async fn send(server: &ApiServer, to: &Destination, request: Request<Body>) -> Result<Response<Incoming>> {
    let unreachable = |why: &dyn std::fmt::Display| -> Failure {
        let text = format!("error trying to reach service: dial tcp {}:{}: {why}", to.host, to.port);
        Status::failure(503, Reason::ServiceUnavailable, text).into()
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(server, to)).await;
    let stream = connected.map_err(|_| unreachable(&"i/o timeout"))?.map_err(|error| unreachable(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a tunnel's connection broke");
        }
    });
    let mut response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        for name in &HOP_BY_HOP {
            response.headers_mut().remove(name);
        }
    }
    Ok(response)
}

/// Gets a text from a destination.
pub async fn get(server: &ApiServer, from: &Destination, path: &str) -> Result<String> {
    let failed = |why: &dyn std::fmt::Display| -> Failure {
        Status::unavailable(format!("asking {}:{} for {path}: {why}", from.host, from.port)).into()
    };
    let asked = async {
        let stream = connect(server, from).await.map_err(|error| failed(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
        let driven = tokio::spawn(connection);
        let request = Request::builder().uri(path).header(HOST, format!("{}:{}", from.host, from.port));
        let request = request.body(crate::http::body::empty()).map_err(|error| failed(&error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let code = response.status();
        let body = Limited::new(response.into_body(), TEXT_LIMIT_BYTES).collect().await;
        driven.abort();
        let text = String::from_utf8_lossy(&body.map_err(|error| failed(&error))?.to_bytes()).into_owned();
        if code.is_success() { Ok(text) } else { Err(failed(&format_args!("{code}: {text}"))) }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, asked).await.map_err(|_| failed(&"i/o timeout"))?
}

/// Carries the bytes of both sides of an upgraded connection.
pub async fn join(ours: OnUpgrade, theirs: OnUpgrade) {
    let (ours, theirs) = match tokio::try_join!(ours, theirs) {
        Ok(pair) => pair,
        Err(error) => return tracing::debug!(%error, "an upgrade failed"),
    };
    let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a tunnel broke");
    }
}

fn outgoing(
    to: &Destination,
    path: &str,
    call: &Call,
    parts: &Parts,
    body: Body,
    upgrade: Option<&HeaderValue>,
) -> Result<Request<Body>> {
    let mut request = Request::builder().method(parts.method.clone()).uri(path).version(Version::HTTP_11);
    if let Some(headers) = request.headers_mut() {
        copy_headers(&call.headers, upgrade, headers);
        for (name, value) in &parts.headers {
            headers.insert(name.clone(), value.clone());
        }
        if let Ok(host) = HeaderValue::from_str(&to.authority()) {
            headers.insert(HOST, host);
        }
    }
    request.body(body).map_err(|error| Status::bad_request(format!("the path cannot be passed on: {error}")).into())
}

fn copy_headers(from: &HeaderMap, upgrade: Option<&HeaderValue>, to: &mut HeaderMap) {
    for (name, value) in from {
        // Logs and pages are passed on as they come; compressing them again is nobody's task here.
        if !HOP_BY_HOP.contains(name) && name != ACCEPT_ENCODING && name != CONTENT_LENGTH {
            to.append(name.clone(), value.clone());
        }
    }
    if let Some(upgrade) = upgrade {
        to.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        to.insert(UPGRADE, upgrade.clone());
    } else if let Some(length) = from.get(CONTENT_LENGTH) {
        to.insert(CONTENT_LENGTH, length.clone());
    }
}

/// What an agent says is wrong, as a Status.
pub async fn told_by_agent(answer: Answer, pod: &str) -> Failure {
    let code = answer.status();
    let text = match Limited::new(answer.into_body(), ERROR_LIMIT_BYTES).collect().await {
        Ok(collected) => String::from_utf8_lossy(&collected.to_bytes()).trim_end().to_owned(),
        Err(error) => format!("unreadable: {error}"),
    };
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text).into(),
        StatusCode::NOT_FOUND => {
            let resource = skiff_object::GroupResource::new("", "pods");
            let mut status = Status::not_found(&resource, pod);
            status.message = format!("the server could not find the requested resource ( pods/log {pod})");
            if !text.is_empty() {
                status.message = text;
            }
            status.into()
        }
        _ => {
            let message = format!(
                "an error on the server ({text:?}) has prevented the request from succeeding (get pods/log {pod})"
            );
            Status::failure(code.as_u16().max(500), Reason::InternalError, message).into()
        }
    }
}
