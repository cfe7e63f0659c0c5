//! What becomes of the heads of requests and answers on their way through the proxy.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{
    CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version, request, response};

use super::annotations::Protocol;

/// Those that are about one connection only.
pub static OF_CONNECTION: [HeaderName; 4] =
    [CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// How many headers are added to a request.
const ADDED: usize = 7;
/// Those of a request that are said by this proxy alone, or by nobody.
pub static SAID_BY_US: [HeaderName; 7] =
    [FORWARDED, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_FORWARDED_SCHEME, X_REAL_IP];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The host that was asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Who asks, and how: the same for all requests of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// From where.
    pub address: IpAddr,
    /// Whether by TLS.
    pub is_tls: bool,
    /// At which port of ours.
    pub port: u16,
    /// What endpoints are told of it.
    pub told: [(HeaderName, HeaderValue); 5],
}

impl Caller {
    /// Somebody at an address who came to a port of ours.
    pub fn new(address: IpAddr, is_tls: bool, port: u16) -> Self {
        let text = Bytes::from(address.to_string());
        let text = HeaderValue::from_maybe_shared(text).expect("an address has no signs but letters and digits");
        let scheme = HeaderValue::from_static(if is_tls { "https" } else { "http" });
        let told = [
            (X_FORWARDED_FOR, text.clone()),
            (X_REAL_IP, text),
            (X_FORWARDED_PROTO, scheme.clone()),
            (X_FORWARDED_SCHEME, scheme),
            (X_FORWARDED_PORT, HeaderValue::from(port)),
        ];
        Self { address, is_tls, port, told }
    }
}

/// The host that is asked for, with its port if it was said.
pub fn host_of(parts: &request::Parts) -> &str {
    let by_header = || parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    parts.uri.authority().map(Authority::as_str).or_else(by_header).unwrap_or_default()
}

/// What the connection is to become, if the client wants it to become something else.
pub fn wanted_upgrade(parts: &request::Parts) -> Option<HeaderValue> {
    let wanted = parts.headers.get(UPGRADE).filter(|_| parts.version == Version::HTTP_11)?;
    tokens(&parts.headers, &CONNECTION).any(|it| it.eq_ignore_ascii_case("upgrade")).then(|| wanted.clone())
}

/// Whether the request may be sent a second time when it is not known what became of the first.
pub fn is_repeatable(method: &Method) -> bool {
    // Those that RFC 9110 calls idempotent.
    method.is_idempotent()
}

/// Makes the client's request one of ours. What the client says about where it comes from is not believed.
/// It asks for `asked`, as [`host_of`] has it; the backend is asked for the host `hostname`, if that is another.
pub fn prepare_request(
    parts: &mut request::Parts,
    asked: &str,
    caller: &Caller,
    protocol: Protocol,
    hostname: Option<&str>,
) {
    // What we add besides, so that it finds room at once.
    parts.headers.reserve(ADDED);
    let upgrade = wanted_upgrade(parts).filter(|_| protocol == Protocol::Http1);
    let takes_trailers = tokens(&parts.headers, &TE).any(|it| it.eq_ignore_ascii_case("trailers"));
    strip_connection(&mut parts.headers);
    for name in [UPGRADE, TE, EXPECT] {
        parts.headers.remove(name);
    }
    if takes_trailers {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
    forward(&mut parts.headers, caller, asked);
    let host = hostname.unwrap_or(asked);
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    match protocol {
        Protocol::Http1 => {
            join_cookies(&mut parts.headers);
            if let Some(host) = host_value(&parts.headers, host) {
                parts.headers.insert(HOST, host);
            }
            parts.uri = Uri::from(path);
            parts.version = Version::HTTP_11;
        }
        Protocol::Http2 => {
            parts.headers.remove(HOST);
            let mut uri = http::uri::Parts::default();
            // HTTP/2 needs an authority; who asked for none is told apart by nobody.
            let nowhere = || Authority::from_static("localhost");
            (uri.scheme, uri.path_and_query) = (Some(Scheme::HTTP), Some(path));
            uri.authority = Some(Authority::try_from(host).unwrap_or_else(|_| nowhere()));
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
            parts.version = Version::HTTP_2;
        }
    }
}

/// Makes the backend's answer one of ours.
pub fn prepare_response(parts: &mut response::Parts) {
    let upgrade = parts.headers.get(UPGRADE).filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS).cloned();
    strip_connection(&mut parts.headers);
    parts.headers.remove(UPGRADE);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
    // The connection to the client decides, not the one to the backend.
    parts.version = Version::HTTP_11;
}

fn forward(headers: &mut HeaderMap, caller: &Caller, host: &str) {
    headers.remove(FORWARDED);
    for (name, value) in &caller.told {
        headers.insert(name, value.clone());
    }
    match host_value(headers, host) {
        Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
        None => drop(headers.remove(X_FORWARDED_HOST)),
    }
}

/// A host as a header has it. It is the one that the client has sent, mostly, and then there is no need for another text.
fn host_value(headers: &HeaderMap, host: &str) -> Option<HeaderValue> {
    let sent = headers.get(HOST).filter(|sent| sent.as_bytes() == host.as_bytes()).cloned();
    sent.or_else(|| HeaderValue::from_str(host).ok())
}

/// Removes what is about the connection, and what the connection's own header names.
fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|word| word.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in &OF_CONNECTION {
        headers.remove(name);
    }
}

/// HTTP/2 may bring cookies in several headers, which HTTP/1.1 does not know.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// The words of a header that is a list.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty())
}
