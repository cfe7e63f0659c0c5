//! Passing a request on, and after an upgrade the bytes of both sides, as they are.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use skiff_base::cidr::bracketed;
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
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    TRAILER,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The headers that are passed on: those that concern one connection only are not, nor those that say so themselves.
pub fn end_to_end(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<&str> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
    headers.iter().filter(move |(name, _)| {
        // How long a body is, is no concern of the connection, whatever is said.
        let is_named = *name != CONTENT_LENGTH && named.iter().any(|own| own.eq_ignore_ascii_case(name.as_str()));
        !is_named && !HOP_BY_HOP.contains(name)
    })
}

/// The same of an answer.
pub fn keep_end_to_end(headers: &mut HeaderMap) {
    *headers = end_to_end(headers).map(|(name, value)| (name.clone(), value.clone())).collect();
}

/// What a request wants its connection to become. Another version of HTTP is not passed on: on such a connection
/// requests would follow that nobody here sees, and that the other side would believe to be this server's.
pub fn upgrade_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let is_http = |value: &str| {
        let protocols = value.split(',').map(|protocol| protocol.trim().to_ascii_lowercase());
        protocols.into_iter().any(|protocol| ["h2", "h3", "http", "tls"].iter().any(|own| protocol.starts_with(own)))
    };
    headers.get(UPGRADE).filter(|value| value.to_str().is_ok_and(|value| !is_http(value)))
}

/// Where a tunnel leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// An address or a name.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How the connection is secured.
    pub security: Security,
    /// The address of the name that was found to be allowed: asked again, the name might lead elsewhere.
    pub resolved: Option<IpAddr>,
}

impl Destination {
    /// A destination whose name, where it has one, is yet to be resolved.
    pub fn new(host: String, port: u16, security: Security) -> Self {
        Self { host, port, security, resolved: None }
    }

    /// `10.0.0.1:80`, as requests name it.
    pub fn authority(&self) -> String {
        format!("{}:{}", bracketed(&self.host), self.port)
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
    let stream = match to.resolved {
        Some(address) => TcpStream::connect((address, to.port)).await?,
        None => TcpStream::connect((to.host.as_str(), to.port)).await?,
    };
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
    let request = outgoing(to, path, call, parts, body, upgrade_of(&call.headers))?;
    let asks_for_upgrade = request.headers().contains_key(UPGRADE);
    if asks_for_upgrade && upgrade.is_none() {
        return Err(Status::bad_request("Upgrade request required").into());
    }
    let mut response = send(server, to, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        let Some(ours) = upgrade.filter(|_| asks_for_upgrade) else { return Err(unasked()) };
        tokio::spawn(join(ours, theirs));
    }
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

/// Somebody wants to speak another protocol on a connection, and nobody has asked for it.
fn unasked() -> Failure {
    Status::failure(502, Reason::InternalError, "the backend switched protocols, which was not asked for").into()
}

/// Reads what a destination has to say, in an ordinary answer whatever the client wants its own connection to become.
pub async fn read(server: &ApiServer, from: &Destination, path: &str, call: &Call, parts: &Parts) -> Result<Answer> {
    let request = outgoing(from, path, call, parts, crate::http::body::empty(), None)?;
    let response = send(server, from, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(unasked());
    }
    Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
}

async fn send(server: &ApiServer, to: &Destination, request: Request<Body>) -> Result<Response<Incoming>> {
    let unreachable = |why: &dyn std::fmt::Display| -> Failure {
        let text = format!("error trying to reach service: dial tcp {}: {why}", to.authority());
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
        keep_end_to_end(response.headers_mut());
    }
    Ok(response)
}

/// Gets a text from a destination.
pub async fn get(server: &ApiServer, from: &Destination, path: &str) -> Result<String> {
    let failed = |why: &dyn std::fmt::Display| -> Failure {
        Status::unavailable(format!("asking {} for {path}: {why}", from.authority())).into()
    };
    let asked = async {
        let stream = connect(server, from).await.map_err(|error| failed(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
        let driven = tokio::spawn(connection);
        let request = Request::builder().uri(path).header(HOST, from.authority());
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
    for (name, value) in end_to_end(from) {
        // Logs and pages are passed on as they come; compressing them again is nobody's task here.
        if name != ACCEPT_ENCODING && name != CONTENT_LENGTH {
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
